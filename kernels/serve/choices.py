"""Which kernels could serve a problem, best first: its own record, its neighbours', the cost model's picks.

Everything is an iterator, so that a hit costs one file and nothing that it does not need is imported.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from eintune.costmodel.machines.machine import Machine
from eintune.host.directories import cache_directory
from eintune.host.notices import say_once
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.generate.emitters import EMITTERS, emit
from eintune.kernels.reference.agreement import agrees
from eintune.kernels.store.cache import Cache, Entry, Key, Record
from eintune.kernels.store.kept_forms import follows, forms_of
from eintune.kernels.store.platform import platform_of
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.schedule.schedule import Schedule

SCHEDULES = 48
"""How many schedules of one cascade the cost model looks at without tuning: about a second of planning."""
CASCADES = 2
"""How many derived cascades it looks at, those with the fewest passes first."""
PICKS = 4
"""How many of its picks are tried."""
NEIGHBOURS = 4
LOOKED_AT = 64
"""How many similar records are looked at for them: a cache from elsewhere may be full of what cannot be used."""


@dataclass(frozen=True)
class KernelChoice:
    """A kernel that may serve, and where it comes from: what to say, once, when it does.

    plain: the same for tensors that `kernel` refuses because of where they lie in memory, if there are such. wide:
    makes the same for tensors whose strides are too large for it. about: what the notice is about (see `say_once`).
    form: the text of the cascade that it computes.
    """

    kernel: Kernel
    notice: str
    level: int = logging.WARNING
    plain: Kernel | None = None
    wide: Callable[[], Kernel] | None = None
    about: Hashable = None
    form: str = ""


def choices(problem: Problem, device: torch.device, layout: str, cache: Cache | None = None) -> Iterator[KernelChoice]:
    """Kernels for a problem on a device, the best first. None of them has been run."""
    cache = cache or Cache()
    key = Key.of(problem, platform_of(device), layout=layout)
    emitter = emitter_for(problem, device)
    # From the surest to the least sure, lazily: a hit reads one file and imports neither the planner nor the cost
    # model.
    yield from _recorded(problem, key, cache, emitter)
    yield from _neighbours(problem, key, cache, emitter)
    yield from _picks(problem, device, emitter, cache.directory)


def signature(problem: Problem) -> tuple[str, ...]:
    """A problem without its sizes: the key under which notices about it are said once."""
    return (problem.workload, problem.cascade, *(f"{n} {d}" for n, d in sorted(problem.dtypes.items())))


def emitter_for(problem: Problem, device: torch.device) -> str:
    """Triton on a GPU; plain PyTorch on a CPU, in float64, and where Triton is missing."""
    wide = "fp64" in problem.dtypes.values()
    return "triton" if device.type == "cuda" and not wide and EMITTERS["triton"].available else "torch"


def make_kernel(text: str, problem: Problem, schedule: Schedule, wide: bool = False) -> Kernel:
    """The kernel of a cascade's text under a schedule; wide: for tensors of any strides (`spans`).

    Raises ValueError (CascadeError, IllegalPlan) where the text, the plan or the target does not allow it.
    """
    from eintune.space.lowering.lower import build_program

    return emit(build_program(_parsed(text), problem, schedule), schedule, wide)


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Cascade:
    return Cascade.parse(text)


# ---- records


def _recorded(problem: Problem, key: Key, cache: Cache, emitter: str) -> Iterator[KernelChoice]:
    for entry in cache.stored(key):
        kernels = _from_record(entry, problem, emitter, cache.directory, exact=True)
        if kernels is None:
            continue
        kernel, plain, wide = kernels
        # The text of the kernel is made again from cascade and schedule. Where the code generator has changed since,
        # what was measured is not what would run.
        if kernel.digest != entry.record.digest:
            say_once(
                f"eintune: the record {key.file_name} is not used: its kernel is generated with digest "
                f"{kernel.digest[:12]} now, and {entry.record.digest[:12]} was measured"
            )
            continue
        notice = f"eintune: {key.workload} runs the stored winner {key.file_name}"
        yield KernelChoice(kernel, notice, logging.DEBUG, plain, wide, form=entry.record.cascade)


def _neighbours(problem: Problem, key: Key, cache: Cache, emitter: str) -> Iterator[KernelChoice]:
    """Of the nearest entries, the first NEIGHBOURS that have a kernel here."""
    found = 0
    for entry in cache.neighbours(key)[:LOOKED_AT]:
        record = entry.record
        # Another machine's winner may rely on what this one lacks; its plain form runs anywhere.
        if entry.key.machine != key.machine:  # this one may have no hardware for descriptors or specialised warps
            record = replace(record, schedule=plain_schedule(record.schedule))
        kernels = _from_record(replace(entry, record=record), problem, emitter, cache.directory, exact=False)
        if kernels is not None:
            kernel, plain, wide = kernels
            level = _neighbour_level(key, entry.key)
            # Said once for a problem at whatever sizes: a program with growing sequences would say it at each step.
            about = ("neighbour", level, *signature(problem))
            yield KernelChoice(
                kernel, _neighbour_notice(problem, key, entry), level, plain, wide, about, record.cascade
            )
            found += 1
        if found == NEIGHBOURS:
            return


def _from_record(
    entry: Entry, problem: Problem, emitter: str, directory: Path, *, exact: bool
) -> tuple[Kernel, Kernel | None, Callable[[], Kernel]] | None:
    """The record's kernel at this problem's size, its plain form and what makes a wide one (see `KernelChoice`), or
    None (said once where it should have been possible)."""
    record, name = entry.record, entry.path.name
    if record.schedule.emitter != emitter or record.schedule.precision != "ieee":
        return None
    try:
        # A record is data from a file. Its cascade is run only if this user's own derivation, or what ships, has it
        # as a form of the definition.
        if not follows(entry, problem.cascade, directory):
            return None
        cascade = _parsed(record.cascade)
        # And checked in numbers all the same, on random data in float64.
        if not agrees(cascade, problem.definition, problem.params):
            say_once(f"eintune: the record {name} is not used: its cascade does not compute the definition")
            return None
        # A record that did not ship is data from a file: its schedule must be one that the space has, or it could ask
        # for anything.
        if exact and not entry.shipped and not _legal(record.schedule, cascade, problem):
            say_once(f"eintune: the record {name} is not used: its schedule is none that the cascade may have")
            return None
        schedule, kernel = _scheduled(record, cascade, problem, exact)
        pointers = plain_schedule(schedule)
        wide = functools.partial(make_kernel, record.cascade, problem, pointers, wide=True)
        return kernel, make_kernel(record.cascade, problem, pointers) if kernel.uses_descriptors else None, wide
    except (ValueError, KeyError, RecursionError) as error:
        level = logging.WARNING if exact else logging.INFO
        say_once(f"eintune: the record {name} is not used: {error}", level, about=("record", name, type(error), level))
        return None


def _legal(schedule: Schedule, cascade: Cascade, problem: Problem) -> bool:
    from eintune.space.schedule.space import schedules

    return schedule in schedules(cascade, problem, schedule.emitter)


def _scheduled(record: Record, cascade: Cascade, problem: Problem, exact: bool) -> tuple[Schedule, Kernel]:
    """A record's kernel at this problem's size, by its own schedule if `exact`, else by the one that is nearest to it;
    where that has no kernel here (fp32 is not divided among warps), by the one that is nearest to its plain form."""
    if exact:
        return record.schedule, make_kernel(record.cascade, problem, record.schedule)
    schedule = nearest_schedule(record.schedule, cascade, problem)
    plain = plain_schedule(record.schedule)
    try:
        return schedule, make_kernel(record.cascade, problem, schedule)
    except ValueError:
        # There is no plainer form to try: the reason is the caller's to hear.
        if record.schedule == plain:
            raise
        schedule = nearest_schedule(plain, cascade, problem)
        return schedule, make_kernel(record.cascade, problem, schedule)


def plain_schedule(schedule: Schedule) -> Schedule:
    """The schedule for tensors and machines of any kind: without descriptors, and without what takes them."""
    # Without warp specialisation there is nothing to keep a reference for (`Rescaling`), and a pipeline needs its two
    # buffers.
    if schedule.is_specialised:  # whose tiles fit in two buffers at least
        schedule = replace(schedule, warp_specialisation="none", rescaling="eager", stages=2)
    return replace(schedule, loads="pointer", pipelined="none")


def nearest_schedule(wanted: Schedule, cascade: Cascade, problem: Problem) -> Schedule:
    """The legal schedule at this problem's sizes that is most like one of another size.

    Raises ValueError where the cascade has no schedule at these sizes.
    """
    from eintune.space.schedule.space import schedules

    options = schedules(cascade, problem, wanted.emitter)
    if wanted == plain_schedule(wanted):
        options = [s for s in options if s == plain_schedule(s)]
    if not options:
        raise ValueError(f"no schedule of the cascade is legal at the sizes {problem.sizes}")
    return min(options, key=lambda option: unlikeness(wanted, option))


def unlikeness(a: Schedule, b: Schedule) -> float:
    """Doublings between the tile sizes, warps and stages of two schedules; each other difference counts four."""
    # Sizes by ratio: from 64 to 128 is as far as from 32 to 64. Any other difference counts as four doublings.
    total = abs(math.log2(a.warps / b.warps)) + abs(math.log2(a.stages / b.stages))
    apart = {"emitter", "roles", "warps", "stages"}
    total += 4.0 * sum(bool(getattr(a, f.name) != getattr(b, f.name)) for f in fields(a) if f.name not in apart)
    roles = dict(a.roles)
    for rank, role in b.roles:
        other = roles.get(rank)
        if other is None or other.outer != role.outer or (other.tile is None) != (role.tile is None):
            total += 4.0
        elif role.outer is not None and role.tile and other.tile:
            total += abs(math.log2(role.tile / other.tile)) + abs(math.log2(role.num_splits / other.num_splits))
        if other is not None and other.pack != role.pack:
            total += 4.0
    return total


def _neighbour_level(key: Key, other: Key) -> int:
    """Another layout, scalar or policy at the same size is as good as a hit."""
    same = (key.sizes, key.machine, key.processors, key.emitter) == (
        other.sizes,
        other.machine,
        other.processors,
        other.emitter,
    )
    return logging.INFO if same else logging.WARNING


def _neighbour_notice(problem: Problem, key: Key, entry: Entry) -> str:
    differences = "; ".join(key.differences(entry.key)[:6])
    return (
        f"eintune: {problem.workload} {_shape(problem)} was not tuned here; it runs the winner of a similar "
        f"problem ({differences})"
    )


def _shape(problem: Problem) -> str:
    return " ".join(f"{r}={n}" for r, n in problem.sizes.items())


# ---- the cost model's picks


def _picks(problem: Problem, device: torch.device, emitter: str, directory: Path) -> Iterator[KernelChoice]:
    notice = (
        f"eintune: {problem.workload} {_shape(problem)} was never tuned on this machine; it runs what the cost "
        "model picks (run `tune` to search)"
    )
    for text, schedule in ranked(problem, device, emitter, directory)[:PICKS]:
        try:
            wide = functools.partial(make_kernel, text, problem, schedule, wide=True)
            kernel, about = make_kernel(text, problem, schedule), ("pick", *signature(problem))
            yield KernelChoice(kernel, notice, wide=wide, about=about, form=text)
        except ValueError as error:
            about = ("no pick", *signature(problem))
            say_once(f"eintune: a pick of the cost model is not used: {error}", logging.INFO, about=about)


def ranked(
    problem: Problem, device: torch.device, emitter: str, directory: Path | None = None
) -> list[tuple[str, Schedule]]:
    """Cascades under schedules, the fastest by the cost model first; what cannot run is left out. directory: the cache
    that keeps derived forms."""
    from eintune.costmodel.counts.resources import illegal
    from eintune.costmodel.counts.work import Work, work
    from eintune.costmodel.pricing.time import estimate_works
    from eintune.space.lowering.lower import IllegalPlan, build_program
    from eintune.space.schedule.space import schedules

    # Without a search the model picks: a second of planning, as the first call of a program waits for it.
    machine = _machine(device)
    found: list[tuple[str, Schedule, Work]] = []  # of kernels that run on any tensors
    for text in _cascades(problem, directory or cache_directory()):
        cascade = _parsed(text)
        try:
            # Descriptors and specialised warps put conditions on where tensors lie, which is known only at the call.
            every = [s for s in schedules(cascade, problem, emitter) if s.loads == "pointer" and not s.is_specialised]
        except IllegalPlan as error:
            say_once(f"eintune: a cascade is not laid out: {error}", logging.INFO)
            continue
        for schedule in _spread(every, SCHEDULES):
            try:
                found.append((text, schedule, work(build_program(cascade, problem, schedule), schedule)))
            except IllegalPlan:
                continue
    estimates = estimate_works([w for _, _, w in found], machine) if found else []
    priced = [(e.seconds, position) for position, e in enumerate(estimates) if illegal(e.resources, machine) is None]
    return [found[position][:2] for _, position in sorted(priced)]


def _machine(device: torch.device) -> Machine:
    from eintune.costmodel.machines.detect import cuda_machine
    from eintune.costmodel.machines.machine import load_machine, machine_for_device

    if device.type == "cpu":
        return load_machine("cpu")
    name = machine_for_device(platform_of(device).machine)
    return load_machine(name) if name else cuda_machine(str(device))


def _cascades(problem: Problem, directory: Path) -> list[str]:
    """The forms of the definition with the fewest passes, shipped, kept or derived now; itself without any."""
    return list(forms_of(problem.cascade, directory)[:CASCADES]) or [problem.cascade]


def _spread(every: list[Schedule], at_most: int) -> list[Schedule]:
    """At most `at_most` of a list's items, evenly spread."""
    return every if len(every) <= at_most else [every[i * len(every) // at_most] for i in range(at_most)]
