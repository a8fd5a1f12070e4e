"""Which kernels could serve a problem, best first: its own record, else what the cost model says is fastest of the
winners that were stored at other sizes and of its own picks.

Everything is an iterator, so that a hit costs one file and nothing that it does not need is imported.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from eintune.host.notices import say_once, was_said
from eintune.host.recent import Recent
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.generate.emitters import EMITTERS, emit
from eintune.kernels.reference.agreement import agrees
from eintune.kernels.store.cache import Cache, Entry, Key, Record
from eintune.kernels.store.kept_forms import follows
from eintune.kernels.store.platform import platform_of
from eintune.kernels.store.portfolio import portfolio_entries
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.schedule.schedule import Schedule

from .adapted import nearest_schedule, plain_schedule
from .any_size import kernel_at, open_kernel, open_ranks, parsed, rounded_up

if TYPE_CHECKING:
    from .priced import Priced

TRIED = 8
"""How many kernels are tried at sizes that nothing is stored for, before plain operators serve."""
LOOKED_AT = 64
"""How many similar records are looked at: a cache from elsewhere may be full of what cannot be used."""


@dataclass(frozen=True)
class KernelChoice:
    """A kernel that may serve, and where it comes from: what to say, once, when it does.

    plain: makes the same for tensors that `kernel` refuses because of where they lie in memory, if there are such.
    wide: makes the same for tensors whose strides are too large for it. about: what the notice is about (see
    `say_once`).
    form: the text of the cascade that it computes.
    """

    kernel: Kernel
    notice: str
    level: int = logging.WARNING
    plain: Callable[[], Kernel] | None = None
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
    entries = cache.neighbours(key)[:LOOKED_AT]
    yield from _same_size(problem, key, entries, cache, emitter)
    from eintune.kernels.store.nearest import Measured

    measured = Measured.of(entries, portfolio_entries(cache, key))
    yield from _unseen(problem, key, measured, device, emitter, cache.directory)


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

    return emit(build_program(parsed(text), problem, schedule), schedule, wide)


# ---- records


def _recorded(problem: Problem, key: Key, cache: Cache, emitter: str) -> Iterator[KernelChoice]:
    for entry in cache.stored(key):
        made = _from_record(entry, problem, emitter, cache.directory, exact=True)
        if made is None:
            continue
        kernel = made.kernel
        # The text of the kernel is made again from cascade and schedule. Where the code generator has changed since,
        # what was measured is not what would run.
        if kernel.digest != entry.record.digest:
            say_once(
                f"eintune: the record {key.file_name} is not used: its kernel is generated with digest "
                f"{kernel.digest[:12]} now, and {entry.record.digest[:12]} was measured"
            )
            continue
        notice = f"eintune: {key.workload} runs the stored winner {key.file_name}"
        yield KernelChoice(kernel, notice, logging.DEBUG, made.plain, made.wide, form=entry.record.cascade)


def _same_size(
    problem: Problem, key: Key, entries: Sequence[Entry], cache: Cache, emitter: str
) -> Iterator[KernelChoice]:
    """Of the nearest entries those of the same sizes and the same machine: another layout, scalar or policy there is as
    good as a hit."""
    for entry in entries:
        if _is_as_good(key, entry.key):
            made = _from_record(entry, problem, emitter, cache.directory, exact=False)
            if made is not None:
                yield _of_entry(problem, key, entry, made, logging.INFO)


def _unseen(
    problem: Problem, key: Key, entries: Sequence[Entry], device: torch.device, emitter: str, directory: Path
) -> Iterator[KernelChoice]:
    """What serves sizes that nothing is stored for, the fastest by prediction first (see `priced`).

    Sizes that are rounded to the same have the same answers (`_facts`): a program whose lengths grow meets new sizes at
    each step, and only takes the kernels that are made for any size to them.
    """
    from .priced import priced_few, priced_near

    cell = (_facts(problem, key, entries), emitter, directory)
    known = _alike.get(cell) or ()
    if known and not known[0].kernels.takes(problem):
        known = ()  # of sizes that differ in what the kernels need as numbers
    found, first, without_gap = 0, 0, True
    for one in known:
        if (made := one.kernels.at(problem)) is None:
            without_gap = False
            break
        yield replace(one.choice, kernel=made.kernel, plain=made.plain, wide=made.wide)
        found, first = found + 1, one.number + 1
    # All that could serve is priced only where none of the few that should be the fastest runs.
    ways = (way(problem, key, entries, device, emitter, directory) for way in (priced_few, priced_near))
    for number, p in enumerate(chain.from_iterable(ways)):
        if number < first:
            continue
        if found == TRIED:
            return
        made, choice = _unconfirmed(problem, p) if p.entry is None else _confirmed(problem, key, p, emitter, directory)
        if made is None or choice is None:
            continue
        kernels = made.for_any_size(problem)
        without_gap &= kernels is not None
        if kernels is not None and without_gap:
            known = _alike[cell] = (*known, _Known(number, kernels, choice))
        yield choice
        found += 1


def _confirmed(
    problem: Problem, key: Key, p: Priced, emitter: str, directory: Path
) -> tuple[_Made | None, KernelChoice | None]:
    assert p.entry is not None
    adapted = replace(p.entry, record=replace(p.entry.record, schedule=p.schedule))
    made = _from_record(adapted, problem, emitter, directory, exact=False)
    level = logging.INFO if p.entry.any_size else logging.WARNING
    return made, _of_entry(problem, key, p.entry, made, level) if made else None


@dataclass(frozen=True, slots=True)
class _Made:
    """The kernel of a form under a schedule at a problem's sizes, its plain form and what makes a wide one (see
    `KernelChoice`)."""

    text: str
    schedule: Schedule
    kernel: Kernel
    plain: Callable[[], Kernel] | None
    wide: Callable[[], Kernel]

    def for_any_size(self, problem: Problem) -> _ForAnySize | None:
        """The same for any sizes that are alike (`_facts`); None where a kernel is for these alone."""
        pointers = plain_schedule(self.schedule)
        schedules = (self.schedule, pointers) if self.plain else (self.schedule,)
        kernels = [k for s in schedules if (k := open_kernel(self.text, problem, s))]
        if len(kernels) < len(schedules):
            return None
        free = frozenset.intersection(*(open_ranks(self.text, problem, s) for s in schedules))
        fixed = tuple((r, n) for r, n in problem.sizes.items() if r not in free)
        return _ForAnySize(self.text, self.schedule, kernels[0], kernels[1] if self.plain else None, fixed)


@dataclass(frozen=True, slots=True)
class _ForAnySize:
    """As `_Made`, for any sizes. fixed: the sizes that are numbers in the kernels."""

    text: str
    schedule: Schedule
    kernel: Kernel
    plain: Kernel | None
    fixed: tuple[tuple[str, int], ...]

    def takes(self, problem: Problem) -> bool:
        """Whether the sizes that are numbers in the kernels are a problem's."""
        return all(problem.sizes[r] == n for r, n in self.fixed)

    def at(self, problem: Problem) -> _Made | None:
        """At a problem's sizes; None for those that the kernels are not for."""
        if not self.takes(problem):
            return None
        sizes = problem.sizes
        try:
            kernel = self.kernel.at(sizes)
        except ValueError:
            return None
        plain = functools.partial(self.plain.at, sizes) if self.plain else None
        pointers = plain_schedule(self.schedule)
        wide = functools.partial(kernel_at, self.text, problem, pointers, wide=True)
        return _Made(self.text, self.schedule, kernel, plain, wide)


@dataclass(frozen=True, slots=True)
class _Known:
    """One answer for sizes that are alike. number: its place among what was priced."""

    number: int
    kernels: _ForAnySize
    choice: KernelChoice


_alike: Recent[Hashable, tuple[_Known, ...]] = Recent(4096)


def _facts(problem: Problem, key: Key, entries: Sequence[Entry]) -> Hashable:
    """What is equal for problems that `priced_near` answers alike, and whose kernels for any size may know the same of
    their sizes: which are at most which, and whether ALIGNED divides them."""
    from eintune.kernels.store.nearest import token_of
    from eintune.space.lowering.lower import ALIGNED

    from .priced import FINE

    sizes, near = problem.sizes, rounded_up(problem, FINE).sizes
    place = {n: i for i, n in enumerate(sorted(set(sizes.values())))}
    facts = tuple([(r, near[r], place[n], n % ALIGNED == 0) for r, n in sorted(sizes.items())])
    return replace(key, sizes=()), token_of(entries), facts


def _of_entry(problem: Problem, key: Key, entry: Entry, made: _Made, level: int) -> KernelChoice:
    # Said once for a problem at whatever sizes: a program with growing sequences would say it at each step.
    about = ("neighbour", level, *signature(problem))
    notice = "" if was_said(about) else _neighbour_notice(problem, key, entry)
    return KernelChoice(made.kernel, notice, level, made.plain, made.wide, about, entry.record.cascade)


def _from_record(entry: Entry, problem: Problem, emitter: str, directory: Path, *, exact: bool) -> _Made | None:
    """The record's kernel at this problem's size, or None (said once where it should have been possible)."""
    record, name = entry.record, entry.path.name
    if record.schedule.emitter != emitter or record.schedule.precision != "ieee":
        return None
    try:
        # A record is data from a file. Its cascade is run only if this user's own derivation, or what ships, has it
        # as a form of the definition.
        if not follows(entry, problem.cascade, directory):
            return None
        cascade = parsed(record.cascade)
        # And checked in numbers all the same, on random data in float64.
        if not _agrees(record.cascade, problem.cascade, tuple(sorted(problem.params.items()))):
            say_once(f"eintune: the record {name} is not used: its cascade does not compute the definition")
            return None
        # A record that did not ship is data from a file: its schedule must be one that the space has, or it could ask
        # for anything.
        if exact and not entry.shipped and not _legal(record.schedule, cascade, problem):
            say_once(f"eintune: the record {name} is not used: its schedule is none that the cascade may have")
            return None
        schedule, kernel = _scheduled(record, cascade, problem, exact)
        pointers = plain_schedule(schedule)
        make = make_kernel if exact else kernel_at
        wide = functools.partial(make, record.cascade, problem, pointers, wide=True)
        plain = functools.partial(_given, make(record.cascade, problem, pointers)) if kernel.uses_descriptors else None
        return _Made(record.cascade, schedule, kernel, plain, wide)
    except (ValueError, KeyError, RecursionError) as error:
        level = logging.WARNING if exact else logging.INFO
        say_once(f"eintune: the record {name} is not used: {error}", level, about=("record", name, type(error), level))
        return None


def _given(kernel: Kernel) -> Kernel:
    return kernel


@functools.lru_cache(maxsize=256)
def _agrees(form: str, definition: str, params: tuple[tuple[str, float], ...]) -> bool:
    """`agrees` of texts, asked once: a program whose lengths grow asks at each of them."""
    return agrees(parsed(form), parsed(definition), dict(params))


def _legal(schedule: Schedule, cascade: Cascade, problem: Problem) -> bool:
    from eintune.space.schedule.space import schedules

    return schedule in schedules(cascade, problem, schedule.emitter)


def _scheduled(record: Record, cascade: Cascade, problem: Problem, exact: bool) -> tuple[Schedule, Kernel]:
    """A record's kernel at this problem's size, by its own schedule if `exact`, else by the one that is nearest to it;
    where that has no kernel here (fp32 is not divided among warps), by the one that is nearest to its plain form."""
    if exact:
        return record.schedule, make_kernel(record.cascade, problem, record.schedule)
    try:
        return record.schedule, kernel_at(record.cascade, problem, record.schedule)
    except ValueError:
        pass
    schedule = nearest_schedule(record.schedule, cascade, problem)
    plain = plain_schedule(record.schedule)
    try:
        return schedule, kernel_at(record.cascade, problem, schedule)
    except ValueError:
        # There is no plainer form to try: the reason is the caller's to hear.
        if record.schedule == plain:
            raise
        schedule = nearest_schedule(plain, cascade, problem)
        return schedule, kernel_at(record.cascade, problem, schedule)


def _is_as_good(key: Key, other: Key) -> bool:
    """Whether what was measured under another key holds for this one."""
    return (key.sizes, key.machine, key.processors, key.emitter) == (
        other.sizes,
        other.machine,
        other.processors,
        other.emitter,
    )


def _neighbour_notice(problem: Problem, key: Key, entry: Entry) -> str:
    differences = "; ".join(key.differences(entry.key)[:6])
    if entry.any_size:
        served = f"eintune: {problem.workload} {_shape(problem)} is served by a kernel of a portfolio"
        return f"{served}, {entry.path.name} ({differences})"
    return (
        f"eintune: {problem.workload} {_shape(problem)} was not tuned here; it runs the winner of a similar "
        f"problem ({differences})"
    )


def _shape(problem: Problem) -> str:
    return " ".join(f"{r}={n}" for r, n in problem.sizes.items())


def _unconfirmed(problem: Problem, p: Priced) -> tuple[_Made | None, KernelChoice | None]:
    """The kernel of a pick of the cost model; None (said once) where it has none after all."""
    text, schedule = p.text, p.schedule
    notice = (
        f"eintune: {problem.workload} {_shape(problem)} was never tuned on this machine; it runs what the cost "
        "model picks (run `tune` to search)"
    )
    try:
        kernel, pointers = kernel_at(text, problem, schedule), plain_schedule(schedule)
        # Where tensors lie is known only at the call: those that no descriptor takes get the plain form.
        plain = functools.partial(_given, kernel_at(text, problem, pointers)) if kernel.uses_descriptors else None
    except ValueError as error:
        about = ("no pick", *signature(problem))
        say_once(f"eintune: a pick of the cost model is not used: {error}", logging.INFO, about=about)
        return None, None
    wide = functools.partial(kernel_at, text, problem, pointers, wide=True)
    choice = KernelChoice(kernel, notice, plain=plain, wide=wide, about=("pick", *signature(problem)), form=text)
    return _Made(text, schedule, kernel, plain, wide), choice
