"""The whole way: derive, price, measure, keep the winner, report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from eintune.costmodel.machines.machine import Machine
from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.platform import platform_of
from eintune.search.measure.measurement import Measurement
from eintune.search.measure.measurer import MeasureError, Measurer
from eintune.search.measure.peer_times import peer_times
from eintune.search.measure.tasks import Peer
from eintune.search.study.journal import forget
from eintune.search.study.samplers import Strategy, strategy
from eintune.search.study.study import Measure, SearchOutcome, StopRule, Study, Trial
from eintune.search.text.formatting import milliseconds, plural
from eintune.search.text.progress import WORDS, Progress
from eintune.search.text.schedules import schedule_text
from eintune.space.cascade.problem import Problem

from .candidates import Candidate, Candidates, Model, candidates
from .derivations import Derivations, derivations
from .deriver import Deriver
from .finals import Finals, NothingWorked, finals
from .one_search import journal_of
from .provenance import describe, versions
from .run import Run
from .trial_rows import row

MEASURING = ("compile", "check", "time")
"""The measurer's stages."""


@dataclass(frozen=True)
class Effort:
    """How much to do. trials: candidates measured; seconds: after which no new batch starts, counted from the
    start of the run; batch: measured together; kept: candidates that survive pruning."""

    trials: int
    seconds: float
    batch: int
    kept: int = 256


EFFORT = {"cuda": Effort(trials=64, seconds=75.0, batch=16), "cpu": Effort(trials=24, seconds=100.0, batch=4)}


@dataclass(frozen=True)
class Planned:
    """What is known before anything is measured."""

    problem: Problem
    machine: Machine
    derived: Derivations
    space: Candidates


@dataclass(frozen=True)
class TuneResult:
    """What a run of the tuner came to. finals: the winner, and what the finalists and peers took when they were timed
    together; record_path: where the winner is stored; run: everything, as plain data."""

    planned: Planned
    outcome: SearchOutcome[Candidate]
    finals: Finals
    record_path: Path
    run: Run


def plan_candidates(
    problem: Problem,
    machine: Machine,
    emitter: str,
    *,
    cache: Path,
    kept: int = 256,
    fresh: bool = False,
    deriver: Deriver | None = None,
    progress: Progress,
) -> Planned:
    """The derived cascades under every schedule, priced and pruned: all that needs no device."""
    derived = derived_forms(problem, cache, fresh, progress, deriver)
    with progress.stage("price"):
        space = candidates(derived.variants, problem, machine, emitter, at_most=kept)
        progress.say(
            f"{plural(space.considered, 'candidate')} = cascades x {plural(space.schedules, 'schedule')}; "
            f"{len(space.kept):,} worth measuring on {machine.title}"
        )
        for reason, count in space.left_out.items():
            progress.say(f"  {count:>6,} left out: {reason}")
    return Planned(problem, machine, derived, space)


def derived_forms(
    problem: Problem, cache: Path, fresh: bool, progress: Progress, deriver: Deriver | None = None
) -> Derivations:
    """The derived cascades of a problem's definition; deriver: where that definition may be on its way."""
    with progress.stage("derive"):
        derived = (deriver and deriver.result()) or derivations(
            problem.definition, cache / "derived", fresh=fresh, shipped=False
        )
        if counted := derived.statistics.get("statistics"):
            progress.say(
                f"saturated with the laws in {counted['seconds']:.2f} s: {counted['nodes']:,} nodes "
                f"in {counted['classes']:,} classes"
            )
        progress.say(f"{plural(len(derived.variants), 'cascade')} ({derived.origin}), each checked in float64:")
        for variant in derived.variants:
            progress.say(f"  {variant.label}")
    return derived


def tune(
    problem: Problem,
    measurer: Measurer,
    *,
    machine: Machine,
    cache: Path,
    effort: Effort | None = None,
    peers: Sequence[Peer] = (),
    fresh: bool = False,
    deriver: Deriver | None = None,
    sampler: str = "mixed",
    title: str = "",
    command: str = "",
    progress: Progress | None = None,
) -> TuneResult:
    """Find the fastest kernel for `problem` on the measurer's device ("cpu", "cuda"), and store it in `cache`.

    measurer: one of this problem; its processes get ready while candidates are planned. machine: what the model prices
    on. fresh: forget what an interrupted run measured. deriver: of this problem's definition. Raises NothingWorked,
    JournalError, CacheWriteError, MeasureError (only where nothing was found before).
    """
    progress, device = progress or Progress(), measurer.device
    wanted = effort or EFFORT[device]
    started = datetime.now(UTC)
    emitter = "triton" if device == "cuda" else "torch"
    key = Key.of(problem, platform_of(device))
    journal = journal_of(cache, key)
    if fresh:
        forget(journal)
    steps = _Steps(progress)
    measurer.progress = steps.on_progress
    planned = plan_candidates(
        problem, machine, emitter, cache=cache, kept=wanted.kept, fresh=fresh, deriver=deriver, progress=progress
    )
    _check_worth_measuring(planned, wanted)
    # the last of them compiles nothing: it is what takes no time
    measure = partial(steps.measure, measurer, peers[-1] if peers else None)
    outcome, model = _search(planned, measure, journal, wanted, strategy(sampler), progress)
    ended = finals(outcome, measurer, peers, progress)
    with progress.stage("store"):
        path = Cache(cache).store(key, _record(ended, planned, outcome, key.device))
        progress.say(f"winner stored in {path}")
    run = replace(
        _summary(planned, outcome, ended, path, model),
        title=title or problem.workload,
        versions=versions(platform_of(device)),
        command=command,
        started=started.strftime("%Y-%m-%d %H:%M UTC"),
        stages=dict(progress.stages),
    )
    return TuneResult(planned, outcome, ended, path, run)


# ---- search


def _check_worth_measuring(planned: Planned, effort: Effort) -> None:
    """Raises NothingWorked where no candidate is left, or none is expected to end within the budget."""
    if not planned.space.kept:
        raise NothingWorked(f"no candidate is left to measure; left out: {_counts(planned.space.left_out)}")
    if why := too_slow(planned.space.kept, effort.seconds, "the whole search"):
        raise NothingWorked(why)


def too_slow(points: Sequence[Candidate], seconds: float, what: str) -> str:
    """Why no candidate is expected to end within the budget of `what`, or ""."""
    least = min(c.estimate.seconds for c in points)
    if least <= seconds:
        return ""
    return (
        f"the fastest candidate is expected to take {_seconds(least)} a run, but the budget of {what} is "
        f"{_seconds(seconds)}: choose smaller sizes, or a longer --budget"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _problem_json(problem: Problem) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in ("workload", "sizes", "dtypes", "params")}


def _search(
    planned: Planned,
    measure: Measure[Candidate],
    journal: Path,
    effort: Effort,
    chosen: Strategy,
    progress: Progress,
) -> tuple[SearchOutcome[Candidate], Model]:
    points = planned.space.kept
    model = Model(points, planned.machine)
    with progress.stage("search"):
        study = Study(points, journal=journal, name=study_name(points), strategy=chosen)
        if study.cut_bytes:
            progress.say(f"the journal's last line was half-written; {study.cut_bytes} bytes were cut off")
        if study.resumed or study.reaped:
            progress.say(
                f"going on: {plural(study.resumed, 'trial')} measured before, {study.reaped} had been left open"
            )

        limits = StopRule(effort.trials, max(effort.seconds - progress.elapsed, 1.0), effort.batch)
        hear = heard(progress, limits, min(effort.trials, len(points)), study.resumed)

        def on_trial(trial: Trial[Candidate], so_far: SearchOutcome[Candidate]) -> None:
            hear(so_far)
            best = so_far.best
            at = f"{len(so_far.trials)}/{effort.trials}"
            told = milliseconds(trial.measurement.seconds) if trial.ok else trial.measurement.status
            progress.say(
                f"{at:>7} {told:>11}  predicted {milliseconds(trial.predicted):>11}  {trial.point.variant.label}; "
                f"{schedule_text(trial.point.schedule)}" + ("  <- best" if best is trial else "")
            )

        try:
            outcome = study.run(measure, model, limits, on_trial)
        except MeasureError as error:
            outcome = study.so_far(f"nothing more could be measured: {error}")
            if outcome.best is None:
                raise
        progress.say(f"stopped: {outcome.stopped}")
        progress.stands(left=None)
    if outcome.best is None:
        statuses = _counts(_statuses(outcome.trials))
        first = next((t.measurement.message for t in outcome.trials if t.measurement.message), "")
        raise NothingWorked(
            f"none of {plural(len(outcome.trials), 'candidate')} ran and was right: {statuses}; {first}"
        )
    return outcome, model


def heard(
    progress: Progress, limits: StopRule, of: int, before: int, counted: str = "measured"
) -> Callable[[SearchOutcome[Candidate]], None]:
    """What hears each trial of a study, so that `progress` stands where the study does: how many of how many, the best
    and what the model says of it, the time left. before: trials of an earlier run."""
    begun = time.monotonic()
    progress.stands(done=before, of=of, counted=counted, best=None, predicted=None, left=limits.seconds, at_most=True)

    def hear(so_far: SearchOutcome[Candidate]) -> None:
        done, gone = len(so_far.trials), time.monotonic() - begun
        left = min(limits.seconds - gone, (of - done) * gone / max(done - before, 1))
        progress.stands(done=done, left=max(left, 0.0), at_most=False)
        if so_far.best is not None:
            progress.stands(best=so_far.best.measurement.seconds, predicted=so_far.best.predicted)

    return hear


# ---- what is kept


def _summary(planned: Planned, outcome: SearchOutcome[Candidate], ended: Finals, path: Path, model: Model) -> Run:
    """What a run came to, as plain data; where and when it ran is its caller's to add."""
    return Run(
        title=planned.problem.workload,
        problem=_problem_json(planned.problem),
        machine=describe(planned.machine, planned.problem),
        versions={},
        command="",
        started="",
        stages={},
        space=space_json(planned),
        rows=tuple(row(t) for t in outcome.trials),
        peers={name: m.to_json() for name, m in ended.peers.items()},
        winner=_winner_json(ended, path),
        stopped=outcome.stopped,
        calibration=model.calibration.to_json(),
    )


def _record(ended: Finals, planned: Planned, outcome: SearchOutcome[Candidate], device: str) -> Record:
    winner, final = ended.winner, ended.time
    point = winner.point
    return Record(
        cascade=point.variant.text,
        schedule=point.schedule,
        digest=point.key,
        seconds=final.seconds,
        low=final.low,
        high=final.high,
        estimate={"seconds": winner.predicted, "limiter": point.estimate.limiter},
        statistics={
            "label": point.variant.label,
            "passes": point.variant.passes,
            "schedule": schedule_text(point.schedule),
            "considered": planned.space.considered,
            "measured": len(outcome.trials),
            "failed": sum(not t.ok for t in outcome.trials),
            **({"doubt": ended.doubt} if ended.doubt else {}),
        },
        peers=peer_times(ended.peers, device),
    )


def _winner_json(ended: Finals, path: Path) -> dict[str, Any]:
    winner, final = ended.winner, ended.time
    timed = {"seconds": final.seconds, "low": final.low, "high": final.high}
    return {
        **row(winner),
        **timed,
        "cascade_text": winner.point.variant.text,
        "schedule": winner.point.schedule.to_json(),
        "record": str(path),
        "doubt": ended.doubt,
    }


def space_json(planned: Planned) -> dict[str, Any]:
    """The space of a run as plain data."""
    return {
        "cascades": [
            {"label": v.label, "passes": v.passes, "digest": v.digest, "signature": str(v.signature), "text": v.text}
            for v in planned.derived.variants
        ],
        "schedules": planned.space.schedules,
        "candidates": planned.space.considered,
        "kept": len(planned.space.kept),
        "left_out": dict(planned.space.left_out),
    }


def study_name(points: Sequence[Candidate]) -> str:
    """Of a study over these. Trials of another set of candidates are not comparable: their knobs have other values."""
    return sha256(json.dumps(sorted(p.key for p in points)).encode()).hexdigest()[:24]


def _statuses(trials: Sequence[Trial[Candidate]]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for t in trials:
        counted[t.measurement.status] = counted.get(t.measurement.status, 0) + 1
    return counted


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counted.items()) or "none"


class _Steps:
    """Hears the measurer: its stages become the run's, its remarks are passed on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_progress(self, stage: str, done: int, of: int) -> None:
        if stage in MEASURING:
            self._progress.become(stage)
            self._progress.doing(f"{WORDS[stage]}: {done} of {of}" if done else f"{WORDS[stage]} {of}")
        else:
            self._progress.say(stage)

    def measure(self, measurer: Measurer, peer: Peer | None, points: Sequence[Candidate]) -> list[Measurement]:
        """Measure some points; a peer beside the first of them, so that there is something to compare with."""
        beside = (peer,) if peer is not None and self._progress.standing.peer is None else ()
        with self._progress.stage("check"):
            found = measurer.measure([p.kernel for p in points], beside)
        for label, m in measurer.beside.items():
            if m.status == "ok":
                self._progress.stands(peer=(label, m.seconds))
        return found
