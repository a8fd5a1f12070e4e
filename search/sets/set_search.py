"""Tuning a set: one computation at several sizes, for the smallest portfolio of kernels that serves them all.

Kernels are made for any sizes, so each is compiled once for the whole set. At each point the model, fitted to what was
measured at the points before, ranks all candidates; a study measures the first few and what was best elsewhere. In the
end the best of all points are timed at each point in one run, beside the peers, and the fewest of them are kept of
which one is within 3% of the best at each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eintune.costmodel.counts.work import Work
from eintune.costmodel.machines.machine import Machine
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.serve.any_size import kernel_at, plan_at, work_at
from eintune.kernels.store.cache import Cache, Key
from eintune.kernels.store.platform import platform_of
from eintune.kernels.store.portfolio import (
    MeasuredPoint,
    Portfolio,
    PortfolioKernel,
    load_portfolio,
    portfolio_key,
    store_portfolio,
)
from eintune.search.measure.measurement import Measurement
from eintune.search.measure.measurer import MeasureError, Measurer
from eintune.search.measure.memory import does_not_fit
from eintune.search.measure.peer_times import peer_times
from eintune.search.measure.tasks import Peer
from eintune.search.study.journal import forget
from eintune.search.study.samplers import strategy
from eintune.search.study.study import SearchOutcome, StopRule, Study, Trial
from eintune.search.text.formatting import milliseconds, plural
from eintune.search.text.progress import WORDS, Progress
from eintune.search.text.schedules import schedule_text
from eintune.search.tune.candidates import Candidate, Model, candidates
from eintune.search.tune.derivations import Derivations
from eintune.search.tune.finals import NothingWorked
from eintune.search.tune.one_search import journal_of, only_search
from eintune.search.tune.tune import Effort, derived_forms, heard, study_name, too_slow
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.lowering.lower import IllegalPlan
from eintune.space.plan.plan import Program
from eintune.space.schedule.schedule import Schedule

from .smallest_set import smallest_set

if TYPE_CHECKING:
    from eintune.search.tune.deriver import Deriver

CONTENDER = 1.06
"""What was within this factor of a point's best is timed at every point in the end..."""
FINALISTS = 3
"""... at most so many of each point."""
MOST_FINALISTS = 10
"""... and so many in all, those that are the best at most points first."""
FINAL_EFFORT = 0.3
"""Seconds of samples of each finalist and peer at a point."""
KNOWN = 384
"""So many measurements of other points the model is fitted to, the latest ones."""


class AnySize:
    """Plans and kernels that are made for any sizes, priced and measured at a problem's."""

    def __init__(self) -> None:
        self._texts: dict[Cascade, str] = {}

    def _text(self, cascade: Cascade) -> str:
        if cascade not in self._texts:
            self._texts[cascade] = str(cascade)
        return self._texts[cascade]

    def plan(self, cascade: Cascade, problem: Problem, schedule: Schedule) -> Program:
        try:
            return plan_at(self._text(cascade), problem, schedule)
        except IllegalPlan:
            raise
        except ValueError as error:
            raise IllegalPlan("a plan for any size", str(error)) from error

    def work(self, cascade: Cascade, problem: Problem, schedule: Schedule, plan: Program) -> Work:
        return work_at(self._text(cascade), problem, schedule)

    def kernel(self, candidate: Candidate) -> Kernel:
        return kernel_at(candidate.variant.text, candidate.problem, candidate.schedule)


@dataclass(frozen=True)
class Wanted:
    """A point of a set: the problem, what to call it, and who else is timed at it."""

    problem: Problem
    title: str
    peers: tuple[Peer, ...] = ()


@dataclass
class _Point:
    """A point while it is searched. worth: the candidates by key; outcome: of its study; note: why there is none;
    late: whether nothing can be timed there within the budget."""

    wanted: Wanted
    key: Key
    worth: dict[str, Candidate] = field(default_factory=dict)
    outcome: SearchOutcome[Candidate] | None = None
    note: str = ""
    late: bool = False


@dataclass(frozen=True)
class PointResult:
    """What a point came to. seconds: of each kernel that was timed there, by number in the set's `kernels`; peers: by
    name, with those that failed; measured: trials of its study; note: why there is nothing, or ""."""

    title: str
    problem: Problem
    seconds: Mapping[int, float]
    peers: Mapping[str, Measurement]
    measured: int
    note: str = ""


@dataclass(frozen=True)
class SetResult:
    """kernels: all that were timed at every point; chosen: the numbers of those that are kept; path: of the
    portfolio."""

    kernels: tuple[PortfolioKernel, ...]
    points: tuple[PointResult, ...]
    chosen: tuple[int, ...]
    portfolio: Portfolio
    path: Path


def tune_set(
    points: Sequence[Wanted],
    device: str,
    machine: Machine,
    cache: Path,
    *,
    effort: Effort,
    fresh: bool = False,
    deriver: Deriver | None = None,
    sampler: str = "mixed",
    known: list[tuple[Work, float]] | None = None,
    progress: Progress,
) -> SetResult:
    """Find the smallest portfolio for points of one definition, and add it to what is stored for that.

    effort: trials and seconds (from now on) are for the whole set, kept for each point. known: work that was measured
    on the machine before, in other sets, with its seconds; what is measured here is added. Raises NothingWorked where
    no kernel was right at any point, JournalError, CacheWriteError, MeasureError where nothing can be measured at all.
    """
    problems = [w.problem for w in points]
    if len({(p.cascade, tuple(sorted(p.dtypes.items()))) for p in problems}) != 1:
        raise ValueError("the points of a set must be of one definition in one dtype")
    every = [_Point(w, Key.of(w.problem, platform_of(device))) for w in points]
    derived = derived_forms(problems[0], cache, fresh, progress, deriver)
    known = [] if known is None else known
    planner, begun = AnySize(), progress.elapsed
    fitting = next((p for p in problems if not does_not_fit(p, device)), problems[0])
    with _measurer(fitting, device, progress) as measurer:
        for number, point in enumerate(every, 1):
            with progress.stage("search"):
                progress.say(f"point {number} of {len(every)}: {point.wanted.title}")
            share = _share(effort, progress.elapsed - begun, number, len(every))
            try:
                _searched(
                    point,
                    planner,
                    measurer,
                    machine,
                    derived,
                    cache,
                    known,
                    share,
                    progress,
                    counted=f"measured at point {number} of {len(every)}",
                    first=not any(p.outcome for p in every),
                    fresh=fresh,
                    sampler=sampler,
                )
            except (MeasureError, NothingWorked) as error:
                point.note = str(error)
                progress.say(f"nothing at this point: {error}")
        finalists = _finalists(every)
        if not finalists:
            why = next((f": {p.note}" for p in every if p.note), "")
            raise NothingWorked(f"no kernel ran and was right at any point of the set{why}")
        results = _finals(every, finalists, measurer, progress)
    return _stored(results, finalists, every[0].key, cache, progress)


@contextmanager
def _measurer(problem: Problem, device: str, progress: Progress) -> Iterator[Measurer]:
    with progress.stage("prepare"), Measurer(problem, device) as measurer:
        measurer.progress = lambda stage, done, of: progress.doing(f"{WORDS.get(stage, stage)}: {done} of {of}")
        yield measurer


def _share(effort: Effort, elapsed: float, number: int, points: int) -> Effort:
    """What one point may take of what is left; a quarter of the time is for the end, where all are timed again."""
    left = max(0.75 * effort.seconds - elapsed, 1.0)
    trials = max(effort.trials // points, min(effort.trials, effort.batch))
    return replace(effort, trials=trials, seconds=left / (points - number + 1))


# ---- one point


def _searched(
    point: _Point,
    planner: AnySize,
    measurer: Measurer,
    machine: Machine,
    derived: Derivations,
    cache: Path,
    known: list[tuple[Work, float]],
    effort: Effort,
    progress: Progress,
    *,
    counted: str,
    first: bool,
    fresh: bool,
    sampler: str,
) -> None:
    """Search at one point; what was measured is added to `known`."""
    problem = point.wanted.problem
    if measurer.problem is not problem:
        measurer.turn_to(problem)
    with progress.stage("price"):
        space = candidates(
            derived.variants, problem, machine, _emitter(measurer.device), at_most=effort.kept, planner=planner
        )
        progress.say(f"{plural(space.considered, 'candidate')}; {len(space.kept):,} worth measuring")
    if not space.kept:
        raise NothingWorked("no candidate is left to measure")
    if why := too_slow(space.kept, effort.seconds, "this point"):
        point.late = True
        raise NothingWorked(why)
    journal = journal_of(cache, point.key)
    # the journal of `tune` at these sizes too, which may be searching
    with progress.stage("search"), only_search(cache, point.key, progress.say):
        if fresh:
            forget(journal)
        study = Study(
            space.kept,
            journal=journal,
            name=study_name(space.kept),
            strategy=strategy(sampler),
            opening=first,  # after which the model knows every kind
        )

        limits = StopRule(effort.trials, effort.seconds, effort.batch)
        hear = heard(progress, limits, min(effort.trials, len(space.kept)), study.resumed, counted)

        def on_trial(trial: Trial[Candidate], so_far: SearchOutcome[Candidate]) -> None:
            hear(so_far)
            told = milliseconds(trial.measurement.seconds) if trial.ok else trial.measurement.status
            best = "  <- best" if so_far.best is trial else ""
            progress.say(
                f"{len(so_far.trials):>4}/{effort.trials} {told:>11}  predicted {milliseconds(trial.predicted):>11}  "
                f"{trial.point.variant.label}; {schedule_text(trial.point.schedule)}{best}"
            )

        measure = partial(_measure, measurer)
        outcome = study.run(measure, Model(space.kept, machine, tuple(known[-KNOWN:])), limits, on_trial)
        progress.say(f"stopped: {outcome.stopped}")
        progress.stands(left=None)
    point.outcome = outcome
    point.worth = {c.key: c for c in space.kept}
    known += [(t.point.work, t.measurement.seconds) for t in outcome.trials if t.ok]


def _measure(measurer: Measurer, points: Sequence[Candidate]) -> list[Measurement]:
    return measurer.measure([p.kernel for p in points])


def _emitter(device: str) -> str:
    return "torch" if device == "cpu" else "triton"


# ---- the end


def _finalists(points: Sequence[_Point]) -> list[Candidate]:
    """The fastest of each point, each kernel once; those first that are among the fastest at most points."""
    counted: dict[PortfolioKernel, tuple[int, Candidate]] = {}
    for point in points:
        right = [t for t in point.outcome.trials if t.ok] if point.outcome else []
        right.sort(key=lambda t: t.measurement.seconds)
        for trial in right[:FINALISTS]:
            if trial.measurement.seconds <= CONTENDER * right[0].measurement.seconds:
                kernel = kernel_of(trial.point)
                count, first = counted.get(kernel, (0, trial.point))
                counted[kernel] = count + 1, first
    ordered = sorted(counted.values(), key=lambda item: -item[0])
    return [c for _, c in ordered[:MOST_FINALISTS]]


def kernel_of(candidate: Candidate) -> PortfolioKernel:
    """What of a candidate a portfolio keeps."""
    return PortfolioKernel(candidate.variant.text, candidate.schedule)


def _finals(
    points: Sequence[_Point], finalists: Sequence[Candidate], measurer: Measurer, progress: Progress
) -> list[PointResult]:
    """Each finalist that has a kernel at a point, timed there in turns with the others and the peers."""
    found = []
    with progress.stage("finals"):
        for number, point in enumerate(points, 1):
            problem = point.wanted.problem
            if point.late:
                found.append(PointResult(point.wanted.title, problem, {}, {}, 0, point.note))
                continue
            kernels = {n: k for n, c in enumerate(finalists) if (k := _kernel_at(c, problem)) is not None}
            progress.say(f"point {number} of {len(points)}: {plural(len(kernels), 'finalist')} timed together")
            measured, note = dict[str, Measurement](), ""
            try:
                if measurer.problem is not problem:
                    measurer.turn_to(problem)
                policy = replace(measurer.policy, effort=FINAL_EFFORT)
                measured = measurer.compare(list(kernels.values()), point.wanted.peers, policy)
            except MeasureError as error:
                note = str(error)
            right = {n: measured[k.digest].seconds for n, k in kernels.items() if _ok(measured, k.digest)}
            peers = {p.label: measured[p.label] for p in point.wanted.peers if p.label in measured}
            if not right and not note:
                note = "; ".join(sorted({f"{m.status}: {m.message}" for m in measured.values() if m.status != "ok"}))
            trials = len(point.outcome.trials) if point.outcome else 0
            found.append(PointResult(point.wanted.title, problem, right, peers, trials, note))
    return found


def _ok(measured: Mapping[str, Measurement], label: str) -> bool:
    return label in measured and measured[label].status == "ok"


def _kernel_at(candidate: Candidate, problem: Problem) -> Kernel | None:
    try:
        return kernel_at(candidate.variant.text, problem, candidate.schedule)
    except ValueError:
        return None


def _stored(
    results: Sequence[PointResult], finalists: Sequence[Candidate], key: Key, cache: Path, progress: Progress
) -> SetResult:
    kernels = tuple(map(kernel_of, finalists))
    times = [r.seconds for r in results if r.seconds]
    if not times:
        raise NothingWorked(f"no finalist was timed at any point: {results[0].note}")
    with progress.stage("store"):
        chosen = tuple(sorted(smallest_set(times)))
        measured = [
            MeasuredPoint(
                tuple(sorted(r.problem.sizes.items())),
                {i: r.seconds[n] for i, n in enumerate(chosen) if n in r.seconds},
                peer_times(r.peers, key.device),
            )
            for r in results
            if any(n in r.seconds for n in chosen)
        ]
        folder, place = Cache(cache), portfolio_key(key)
        before = load_portfolio(folder, place) or Portfolio(place, (), ())
        portfolio = before.with_points([kernels[n] for n in chosen], measured)
        path = store_portfolio(folder, portfolio)
        progress.say(f"{plural(len(chosen), 'kernel')} for {plural(len(measured), 'point')} stored in {path}")
    return SetResult(kernels, tuple(results), chosen, portfolio, path)
