"""The end of a search: the fastest few and the peers, timed again in one run; that is what is stored and compared.

A search has cost minutes by then. What keeps the finals from being timed (a busy machine, a worker that is killed) is
tried once more, and then costs the comparison and not the winner: the best trial is kept, with its doubt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from eintune.host.printable import printable
from eintune.search.measure.measurement import Measurement
from eintune.search.measure.measurer import MeasureError, Measurer
from eintune.search.measure.tasks import Peer
from eintune.search.study.study import SearchOutcome, Trial
from eintune.search.text.formatting import milliseconds, plural
from eintune.search.text.progress import Progress

from .candidates import Candidate

FINALISTS = 4
"""At most so many of the fastest are timed again, together with the peers."""
CONTENDER = 1.1
"""... those within this factor of the fastest."""
TRIES = 2
"""So often finals are timed whose finalists neither end well nor are wrong."""
UNSTEADY = 1.5
"""A winner whose two times differ by this factor was timed beside something else: clocks and caches explain a tenth."""

Found: TypeAlias = Trial[Candidate]


class NothingWorked(RuntimeError):
    """No candidate could be measured, or none was right; the message says what happened to them."""


@dataclass(frozen=True)
class Finals:
    """winner: the fastest. times: what each finalist took, by key; peers: by name. doubt: why the winner's time may not
    hold, or ""."""

    winner: Found
    times: Mapping[str, Measurement]
    peers: Mapping[str, Measurement]
    doubt: str = ""

    @property
    def time(self) -> Measurement:
        """What the winner took."""
        return self.times[self.winner.point.key]


def finals(outcome: SearchOutcome[Candidate], measurer: Measurer, peers: Sequence[Peer], progress: Progress) -> Finals:
    """Time the fastest of an outcome that has a right trial. Raises NothingWorked where none was right again."""
    right = sorted((t for t in outcome.trials if t.ok), key=lambda t: t.measurement.seconds)
    wrong: dict[str, Measurement] = {}
    others: Mapping[str, Measurement] = {}
    tries, lost = 0, ""
    with progress.stage("finals"):
        while (left := [t for t in right if t.point.key not in wrong]) and tries < TRIES:
            # Times of different batches were taken minutes apart, at other clocks and temperatures. Only candidates
            # that were timed in turns can be compared to a percent.
            limit = left[0].measurement.seconds * CONTENDER
            few = [t for t in left if t.measurement.seconds <= limit][:FINALISTS]
            progress.say(f"{plural(len(few), 'finalist')} and {plural(len(peers), 'peer')} timed together")
            try:
                measured = measurer.compare([t.point.kernel for t in few], peers)
            except MeasureError as error:
                tries, lost = tries + 1, str(error)
                progress.say(f"not timed: {lost}")
                continue
            others = {p.label: measured[p.label] for p in peers}
            timed = {t.point.key: measured[t.point.key] for t in few if measured[t.point.key].status == "ok"}
            if timed:
                winner = min((t for t in few if t.point.key in timed), key=lambda t: timed[t.point.key].seconds)
                return Finals(winner, timed, others, _unsteady(winner, timed[winner.point.key]))
            failed = [measured[t.point.key] for t in few]
            lost = "; ".join(f"{m.status}: {m.message}" for m in failed)
            progress.say(f"none of {plural(len(few), 'finalist')} ended well: {lost}")
            again = {t.point.key: m for t, m in zip(few, failed, strict=True) if m.status == "wrong"}
            wrong |= again
            # A round that found a wrong kernel has made progress, as it is out; any other failure is the machine's,
            # and counts.
            tries += not again
    if not left:
        raise NothingWorked(f"none of {plural(len(right), 'candidate')} was right when it was timed again: {lost}")
    best = left[0]
    doubt = printable(f"it was timed when it was found, and not again beside the others ({lost})")[:500]
    return Finals(best, {best.point.key: best.measurement}, others, doubt)


def _unsteady(winner: Found, final: Measurement) -> str:
    """A doubt where the winner took another time among the finalists than when it was found."""
    before, now = winner.measurement.seconds, final.seconds
    if max(before, now) < UNSTEADY * min(before, now):
        return ""
    return f"it took {milliseconds(before)} when it was found: something else kept this machine busy"
