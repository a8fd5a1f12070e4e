"""Which of our kernels a benchmark runs: each derived kind by its best predicted schedules, and the tuned winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from eintune.costmodel.counts.resources import illegal
from eintune.costmodel.machines.machine import Machine
from eintune.host.notices import one_line
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.serve.choices import choices, make_kernel
from eintune.kernels.store.cache import ROWS, Cache, Record
from eintune.search.measure.measurer import Measurer
from eintune.search.text.formatting import plural
from eintune.search.text.progress import Progress
from eintune.search.text.schedules import schedule_text
from eintune.search.tune.candidates import Candidate, everything
from eintune.search.tune.derivations import derivations
from eintune.search.tune.finals import NothingWorked
from eintune.search.tune.one_search import only_search
from eintune.search.tune.stored import key_of, stored
from eintune.search.tune.tune import Effort, tune
from eintune.space.cascade.problem import Problem

SMALL = "bench"
"""The folder in the cache for winners of a small search: the tuner itself must not take them for its own."""


@dataclass(frozen=True)
class Chosen:
    """One kernel, and its cascade and schedule in words."""

    kernel: Kernel
    detail: str


@dataclass(frozen=True)
class Winner:
    """chosen: None where there is none; origin: where it comes from, or why there is none."""

    chosen: Chosen | None
    origin: str


@dataclass(frozen=True)
class Picks:
    """kinds: the kernels of each derived kind ("eintune 1-pass, …"), the best predicted first; fewest passes first.
    lost: the kinds that have no kernel on this machine, and why."""

    kinds: Mapping[str, tuple[Chosen, ...]]
    lost: Mapping[str, str]


def picks(problem: Problem, machine: Machine, device: str, cache: Path, handful: int) -> Picks:
    """Each derived kind's `handful` best predicted kernels."""
    emitter = emitter_of(device)
    variants = derivations(problem.definition, cache / "derived").variants
    ranked = sorted(everything(variants, problem, machine, emitter), key=lambda c: c.estimate.seconds)
    kinds: dict[str, tuple[Chosen, ...]] = {}
    lost: dict[str, str] = {}
    for variant in sorted(variants, key=lambda v: v.passes):
        name = f"eintune {variant.label}"
        few, reason = _legal([c for c in ranked if c.variant == variant], machine, handful)
        if few:
            kinds[name] = few
        else:
            lost[name] = reason
    return Picks(kinds, lost)


def _legal(ranked: Sequence[Candidate], machine: Machine, handful: int) -> tuple[tuple[Chosen, ...], str]:
    """The first few that have a kernel of their own, and the last reason why one had none."""
    few: dict[str, Candidate] = {}
    reason = "no schedule has a plan"
    for c in ranked:
        if len(few) == handful:
            break
        why = str(illegal(c.estimate.resources, machine) or "")
        try:
            if not why:
                few.setdefault(c.key, c)
        except ValueError as error:  # the emitter cannot express this plan
            why = str(error)
        reason = why or reason
    return tuple(_chosen(c) for c in few.values()), reason


def emitter_of(device: str) -> str:
    """The emitter whose kernels are meant for a device."""
    return "triton" if device == "cuda" else "torch"


def _chosen(c: Candidate) -> Chosen:
    return Chosen(c.kernel, f"{c.variant.label}; {schedule_text(c.schedule)}")


def winner(
    problem: Problem, device: str, machine: Machine, cache: Path, effort: Effort | None, progress: Progress
) -> Winner:
    """The stored winner, else that of an earlier small search, else of one made now (`effort`; None: do without)."""
    if found := _kept(problem, device, cache):
        return found
    if effort is None:
        return Winner(None, "none is stored, and --no-tune was given")
    with progress.stage("tune"), only_search(cache / SMALL, key_of(problem, device), progress.say) as waited:
        if waited and (found := _kept(problem, device, cache)):
            return found
        progress.say(
            f"no winner is stored: a small search, at most {plural(effort.trials, 'candidate')} in {effort.seconds:g} s"
        )
        try:
            with Measurer(problem, device) as measurer:
                result = tune(problem, measurer, machine=machine, cache=cache / SMALL, effort=effort)
        except NothingWorked as error:
            return Winner(None, f"the small search found none: {error}")
        except Exception as error:  # whatever it is: no kernel of ours must not cost the peers' times
            return Winner(None, f"the small search failed: {one_line(error)}")
    point = result.finals.winner.point
    measured = plural(len(result.outcome.trials), "candidate")
    return Winner(_chosen(point), f"a small search, {measured} measured (`tune` searches further)")


def served(problem: Problem, device: str, cache: Path) -> Winner:
    """What a program is served that calls for this problem, the first of `choices`."""
    for choice in choices(problem, torch.device(device), ROWS, Cache(cache)):
        return Winner(Chosen(choice.kernel, choice.notice.removeprefix("eintune: ")), choice.notice)
    return Winner(None, "nothing but plain operators serves it")


def _kept(problem: Problem, device: str, cache: Path) -> Winner | None:
    """What `tune` stored, else what an earlier small search did."""
    for folder, name in ((cache, "stored by tune"), (cache / SMALL, "stored by an earlier small search")):
        record = None if (entry := stored(problem, device, folder)) is None else entry.record
        chosen = record and _from_record(problem, record)
        if chosen:
            return Winner(chosen, name)
    return None


def _from_record(problem: Problem, record: Record) -> Chosen | None:
    """Its kernel, or None where what is generated now is not what was measured."""
    try:
        kernel = make_kernel(record.cascade, problem, record.schedule)
    except (ValueError, KeyError):
        return None
    label = record.statistics.get("label", "")
    if kernel.digest != record.digest:
        return None
    return Chosen(kernel, f"{label}; {schedule_text(record.schedule)}")
