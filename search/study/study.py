"""The study: Optuna's ask and tell over points that exist, with the model re-fitted after every batch.

A journal holds every trial, so a study that was killed goes on where it stopped. What is told to Optuna is
the time in seconds; a failure is told as complete, with a penalty and a broken constraint, because its
samplers do not see failed trials at all.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from eintune.host.notices import one_line
from eintune.host.printable import printable
from eintune.host.processes import identity
from eintune.search.measure.measurement import Measurement
from eintune.search.text.faults import JournalError

from .journal import OWNER, open_storage, reap
from .residuals import corrected
from .samplers import OverPoints, Point, Strategy, distributions

PENALTY = 10.0
"""A failure is told as this many times the slowest time seen or predicted."""
CONFIDENCE = 1.64
"""One-sided 95% of a normal distribution: how far below its prediction an open point may still lie."""
SMALLEST_BAND = 0.03
"""The model's error band is never taken to be less than this (natural logarithm of a ratio)."""
MAX_BAND = 0.7
"""... nor more: an error band of two times says that the model knows nothing, and the budget decides."""

optuna.logging.set_verbosity(optuna.logging.WARNING)

P = TypeVar("P", bound=Point)
P_co = TypeVar("P_co", bound=Point, covariant=True)
P_contra = TypeVar("P_contra", bound=Point, contravariant=True)


@dataclass(frozen=True)
class Trial(Generic[P_co]):
    """One measured point.

    predicted: seconds the model said just before the point was measured, fitted to earlier batches only.
    prior: seconds it said before anything was measured. source: "model" or "sampler". batch counts from 0;
    seconds_in: wall time since the study began (over all its sittings).
    """

    point: P_co
    measurement: Measurement
    predicted: float
    prior: float
    source: str
    batch: int
    seconds_in: float

    @property
    def ok(self) -> bool:
        return self.measurement.status == "ok"


class Measure(Protocol[P_contra]):
    """Measures points; one result for each, in order. A failure is a result, never an exception."""

    def __call__(self, points: Sequence[P_contra]) -> list[Measurement]: ...


Predict = Callable[[P], float]
"""Seconds that the model expects for a point."""
Refit = Callable[[Sequence[Trial[P]]], Predict[P]]
"""A model fitted to the trials so far."""


@dataclass(frozen=True)
class StopRule:
    """When to stop. trials: measured points in all, earlier sittings too; seconds: of this sitting (batches get
    smaller towards the end, at the pace of the last one); batch: points measured together; until_sure: also where
    what is left cannot win by more than the noise."""

    trials: int
    seconds: float = math.inf
    batch: int = 8
    until_sure: bool = True


@dataclass(frozen=True)
class SearchOutcome(Generic[P_co]):
    """What a study found. `stopped` says why it ended, in words; `resumed`: trials that an earlier sitting
    measured; `reaped`: trials that a dead process had left open; `open_points`: never measured."""

    trials: tuple[Trial[P_co], ...]
    stopped: str
    resumed: int = 0
    reaped: int = 0
    open_points: int = 0

    @property
    def best(self) -> Trial[P_co] | None:
        """The fastest right one."""
        return min((t for t in self.trials if t.ok), key=lambda t: t.measurement.seconds, default=None)


class Study(Generic[P]):
    """A search over `points`, which are in the order of the model's first ranking.

    journal: the file; name: changes with everything that would make old trials incomparable (the problem, the
    machine, versions); opening: begin with the model's ranking (`openers`), and try every group; clock: in
    seconds. Raises JournalError.
    """

    def __init__(
        self,
        points: Sequence[P],
        *,
        journal: Path,
        name: str,
        strategy: Strategy,
        opening: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not points:
            raise ValueError("a study needs at least one point to measure, but got none")
        # Optuna knows a trial by its parameters: two points with the same ones would be one trial.
        self._by_knobs = {_frozen(p): p for p in points}
        if len(self._by_knobs) != len(points):
            raise ValueError("every point must differ from the others in a knob, but two have the same knobs")
        self._points = list(points)
        self._journal = journal
        self._opening = opening
        self._clock = clock
        self._space = distributions(points)
        storage, self.cut_bytes = open_storage(journal)
        self._sampler = OverPoints(strategy, self._space)
        try:
            self._study = optuna.create_study(
                storage=storage, study_name=name, sampler=self._sampler, load_if_exists=True
            )
            self.reaped = reap(self._study)
            self._trials = self._load()
        except OSError as error:
            raise JournalError(f"journal {journal}: {error.strerror or error}") from None
        except Exception as error:  # another library reads what anybody may have written
            raise JournalError(
                f"journal {journal}: holds trials that cannot be read ({one_line(error)}); remove it"
            ) from None
        self.resumed = len(self._trials)

    @property
    def trials(self) -> tuple[Trial[P], ...]:
        return tuple(self._trials)

    def so_far(self, stopped: str) -> SearchOutcome[P]:
        """What was found by now, and why the study ends here."""
        return self._outcome(stopped, len(self._open()))

    def run(
        self,
        measure: Measure[P],
        refit: Refit[P],
        limits: StopRule,
        progress: Callable[[Trial[P], SearchOutcome[P]], None] = lambda trial, outcome: None,
    ) -> SearchOutcome[P]:
        """Ask, measure, tell and re-fit until nothing can win any more, or trials or seconds are used up."""
        started = self._clock()
        earlier = max((t.seconds_in for t in self._trials), default=0.0)
        # What the model says before anything is measured, kept for every point: it is what later errors are judged
        # against.
        prior = refit(())
        self._prior = {p.key: prior(p) for p in self._points}
        batch = max((t.batch for t in self._trials), default=-1) + 1
        pace = 0.0
        while True:
            fitted = refit(self._trials) if self._trials else prior
            # Global errors are the calibration's to learn, local ones (a bank conflict that a few neighbours share)
            # its residuals'.
            predict = corrected(fitted, self._timed())
            predicted = {p.key: predict(p) for p in self._points}
            # To stop, the more hopeful of the two is believed: a correction learnt from few neighbours must not end a
            # search.
            least = {p.key: min(predicted[p.key], fitted(p)) for p in self._points}
            ranked = sorted(self._open(), key=lambda p: predicted[p.key])
            left = limits.seconds - (self._clock() - started)
            # Half a trial's time is given away: a batch that would probably end late is not begun.
            stopped = self._finished(ranked, least, limits, left - pace / 2)
            if stopped:
                return self._outcome(stopped, len(ranked))
            # Compilation runs in parallel, so a batch is cheaper a trial than single ones; near the end it shrinks to
            # what time is left for.
            affordable = max(int(min(left / pace, limits.batch)), 1) if pace else limits.batch
            count = min(limits.batch, limits.trials - len(self._trials), len(ranked), affordable)
            try:
                asked = self._ask(ranked, count, first=batch == 0)
            except OSError as error:
                return self._unwritten(error)
            begun = self._clock()
            results = measure([point for _, point, _ in asked])
            pace = (self._clock() - begun) / count
            lost: OSError | None = None
            for (trial, point, source), result in zip(asked, results, strict=True):
                seconds_in = earlier + self._clock() - started
                told = Trial(point, result, predicted[point.key], self._prior[point.key], source, batch, seconds_in)
                self._trials.append(told)
                try:
                    self._tell(trial, told)
                except OSError as error:  # the others of this batch were measured, too
                    lost = lost or error
                progress(told, self._outcome("", len(ranked)))
            if lost is not None:
                return self._unwritten(lost)
            batch += 1

    def _timed(self) -> list[tuple[P, float]]:
        return [(t.point, t.measurement.seconds) for t in self._trials if t.ok]

    # ---- ask

    def _open(self) -> list[P]:
        done = {t.point.key for t in self._trials}
        return [p for p in self._points if p.key not in done]

    def _ask(self, ranked: Sequence[P], count: int, *, first: bool) -> list[tuple[optuna.Trial, P, str]]:
        chosen: list[P] = []
        if self._opening:
            chosen = openers(ranked, count) if first else self._witness(ranked, count)
        asked: list[tuple[optuna.Trial, P, str]] = []
        for turn in range(count):
            taken = {point.key for _, point, _ in asked}
            self._sampler.ranked = [p for p in ranked if p.key not in taken]
            # never through Optuna's queue: whoever asks next takes what stands in it
            self._sampler.chosen = chosen[turn] if turn < len(chosen) else None
            trial = self._study.ask(self._space)
            trial.set_user_attr(OWNER, identity())
            point = self._by_knobs[tuple(sorted(trial.params.items()))]
            modelled = turn < len(chosen) or point is self._sampler.ranked[0]
            asked.append((trial, point, "model" if modelled else "sampler"))
        return asked

    def _witness(self, ranked: Sequence[P], count: int) -> list[P]:
        """Where there is room, the best point of a group that nothing was measured of: what the model says of a
        kind is only believed once it was tried."""
        seen = {t.point.group for t in self._trials}
        return [p for p in ranked if p.group not in seen][: 1 if count > 1 else 0]

    # ---- tell

    def _tell(self, trial: optuna.Trial, told: Trial[P]) -> None:
        try:
            self._write(trial, told)
        except UpdateFinishedTrialError:  # somebody closed it; what was measured is kept all the same, in another
            self._sampler.ranked, self._sampler.chosen = [told.point], told.point
            self._write(self._study.ask(self._space), told)

    def _unwritten(self, error: OSError) -> SearchOutcome[P]:
        """The study ends where its journal takes no more (a full disk): with what it has, if anything is right."""
        said = f"journal {self._journal}: {error.strerror or error}"
        outcome = self.so_far(f"no more trials could be kept: {said}")
        if outcome.best is None:
            raise JournalError(said) from None
        return outcome

    def _write(self, trial: optuna.Trial, told: Trial[P]) -> None:
        for name, value in _record(told).items():
            trial.set_user_attr(name, value)
        if not told.ok:
            trial.set_constraint("ok", 1.0)
        self._study.tell(trial, told.measurement.seconds if told.ok else self._penalty())

    def _penalty(self) -> float:
        seen = [t.measurement.seconds for t in self._trials if t.ok]
        return PENALTY * max([*seen, *(s for s in self._prior.values() if math.isfinite(s))], default=1.0)

    def _load(self) -> list[Trial[P]]:
        loaded: dict[str, Trial[P]] = {}
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            point = self._by_knobs.get(tuple(sorted(trial.params.items())))
            if point is not None and trial.user_attrs.get("key") == point.key:
                loaded[point.key] = _read(trial, point)
        return list(loaded.values())

    # ---- stop

    def _finished(self, ranked: Sequence[P], least: dict[str, float], limits: StopRule, left: float) -> str | None:
        """Why the study ends, in words; None where it goes on. least: seconds of each point, the lower of the fitted
        model's prediction and the one that was corrected by measured neighbours. left: seconds."""
        if not ranked:
            return "every candidate was measured"
        if len(self._trials) >= limits.trials:
            return f"{limits.trials} trials were measured"
        if self._trials and left <= 0:
            return f"the budget of {limits.seconds:.0f} s was used"
        best = self._outcome("", 0).best
        band = error_band(self._trials)
        if best is None or band is None or not limits.until_sure:
            return None
        hope = min(least[p.key] for p in ranked)
        # The search ends on what it has not seen: if even a prediction that is wrong by that much would not beat the
        # best by more than a measurement scatters.
        floor = hope * math.exp(-CONFIDENCE * band)
        target = best.measurement.seconds * (1 - noise(self._trials))
        if floor < target:
            return None
        return (
            f"no candidate left can win: the best is predicted at {_ms(hope)}, "
            f"at the least {_ms(floor)}, against {_ms(best.measurement.seconds)} measured"
        )

    def _outcome(self, stopped: str, left: int) -> SearchOutcome[P]:
        return SearchOutcome(tuple(self._trials), stopped, self.resumed, self.reaped, left)


def openers(ranked: Sequence[P], count: int) -> list[P]:
    """The first batch: the best predicted point, then the best of every other group while there is room, and the
    best of every other shape (so that the model is fitted to all kinds), then the ranking."""
    best_of_group, best_of_shape = dict[str, P](), dict[str, P]()
    for point in ranked:
        best_of_group.setdefault(point.group, point)
        best_of_shape.setdefault(point.shape, point)
    # Half of the first batch at most for one of each form; the fit needs several shapes as well.
    room = max(count // 2, 1)
    wanted = [*list(best_of_group.values())[:room], *best_of_shape.values(), *ranked]
    return list({p.key: p for p in wanted}.values())[:count]


def error_band(trials: Sequence[Trial[P]]) -> float | None:
    """The model's error: rms of ln(measured / predicted) over the points it had not seen when it predicted
    them, once it had been fitted (so not the first batch). None where there are fewer than 3."""
    # Out-of-sample errors only: on points that it was fitted to, a model looks better than it is.
    errors = [math.log(t.measurement.seconds / t.predicted) for t in trials if t.ok and t.batch > 0 and t.predicted > 0]
    if len(errors) < 3:
        return None
    return min(max(math.sqrt(statistics.fmean(e * e for e in errors)), SMALLEST_BAND), MAX_BAND)


def noise(trials: Sequence[Trial[P]]) -> float:
    """The median relative half-width between the 20th and 80th percentile of the timings."""
    widths = [(t.measurement.high - t.measurement.low) / 2 / t.measurement.seconds for t in trials if t.ok]
    known = [w for w in widths if math.isfinite(w)]
    return min(statistics.median(known), 0.5) if known else 0.0


def _frozen(point: Point) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(point.knobs.items()))


def _record(told: Trial[Any]) -> dict[str, Any]:
    return {
        "key": told.point.key,
        "measurement": json.dumps(told.measurement.to_json()),
        "predicted": told.predicted,
        "prior": told.prior,
        "source": told.source,
        "batch": told.batch,
        "seconds_in": told.seconds_in,
    }


def _read(trial: FrozenTrial, point: P) -> Trial[P]:
    attrs = trial.user_attrs
    return Trial(
        point,
        Measurement.parse(str(attrs["measurement"])),
        _positive(attrs["predicted"]),
        _positive(attrs["prior"]),
        printable(str(attrs["source"])[:80]),
        max(int(attrs["batch"]), 0),
        _positive(attrs["seconds_in"], unknown=0.0),
    )


def _positive(value: object, unknown: float = math.nan) -> float:
    """A number from a journal if it is positive and finite, else `unknown` (NaN marks a prediction as unusable)."""
    return float(value) if isinstance(value, (int, float)) and 0 < value < 1e300 else unknown


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"
