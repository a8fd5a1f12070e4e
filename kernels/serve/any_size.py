"""Kernels that serve any size: made once for a form under a schedule, whatever lengths a program comes with.

What differs between two such kernels of one form and schedule is what `unknown_sizes` could not leave open, and on
which side of a comparison the sizes are.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

from eintune.host.recent import Recent
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.generate.emitters import emit
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.expr import Part, Rank
from eintune.space.ir.gathers import length, tables
from eintune.space.plan.plan import Program
from eintune.space.plan.sizes import MOST
from eintune.space.schedule.any_size import for_any_size
from eintune.space.schedule.schedule import Schedule

if TYPE_CHECKING:
    from eintune.costmodel.counts.work import CountedProgram, Work

_programs: Recent[Hashable, Program] = Recent(512)
_kernels: Recent[Hashable, Kernel] = Recent(512)
_refused: Recent[Hashable, bool] = Recent(512)
"""What has no plan, or no kernel, for any size. Not the errors: those would keep all that was in use when they were
raised."""


def kernel_at(text: str, problem: Problem, schedule: Schedule, wide: bool = False) -> Kernel:
    """The kernel of a cascade's text under a schedule at a problem's sizes: one that is made for any size where there
    is such a one, else one for these sizes alone. wide: for tensors of any strides (`spans`).

    Raises ValueError (CascadeError, IllegalPlan) where the text, the plan or the target does not allow it.
    """
    from eintune.space.lowering.lower import build_program

    found = open_kernel(text, problem, schedule, wide)
    if found is not None:
        return found.at(problem.sizes)
    return emit(build_program(parsed(text), problem, schedule), schedule, wide)


def open_kernel(text: str, problem: Problem, schedule: Schedule, wide: bool = False) -> Kernel | None:
    """What `kernel_at` takes at a problem's sizes: a kernel for any size; None where there is none."""
    cascade, schedule = parsed(text), for_any_size(schedule)
    key = _key(cascade, problem, schedule), wide
    found = _kernels.get(key)
    if found is None and not _refused.get(key):
        try:
            if (program := _program(cascade, problem, schedule)) is not None:
                found = emit(program, schedule, wide)
                # Only now is it known which sizes it needs as numbers.
                _kernels[_key(cascade, problem, schedule), wide] = found
        except ValueError:
            _refused[key] = True
    return found


def plan_at(text: str, problem: Problem, schedule: Schedule) -> Program:
    """The plan of what `kernel_at` gives, at the problem's sizes and to be priced.

    Raises as `kernel_at`.
    """
    from eintune.space.lowering.lower import build_program

    open_schedule = for_any_size(schedule)
    program = _open_program(text, problem, open_schedule)
    if program is None:
        return build_program(parsed(text), problem, _ended(schedule, open_schedule, problem))
    return program.at(problem.sizes)


def work_at(text: str, problem: Problem, schedule: Schedule) -> Work:
    """The work of what `kernel_at` gives, at the problem's sizes; a plan for any size is counted once.

    Raises as `kernel_at`.
    """
    # Only where something is priced: what runs a stored winner loads no cost model.
    from eintune.costmodel.counts.work import CountedProgram, work

    open_schedule = for_any_size(schedule)
    counted = _counted.get(_key(parsed(text), problem, open_schedule))
    if counted is not None:
        return counted.at(problem.sizes)
    program = _open_program(text, problem, open_schedule)
    if program is None:
        from eintune.space.lowering.lower import build_program

        schedule = _ended(schedule, open_schedule, problem)
        return work(build_program(parsed(text), problem, schedule), schedule)
    counted = CountedProgram(program, open_schedule)
    # Only now is it known which sizes it needs as numbers.
    _counted[_key(parsed(text), problem, open_schedule)] = counted
    return counted.at(problem.sizes)


_counted: Recent[Hashable, CountedProgram] = Recent(2048)


def _open_program(text: str, problem: Problem, schedule: Schedule) -> Program | None:
    """The plan for any size that is priced at sizes, under a schedule for any size; None where there is none."""
    # A tile that is as long as its rank, whatever that is, has a length to be priced with only at some sizes.
    endless = any((role.tile or 0) >= MOST for _, role in schedule.roles)
    return None if endless else _program(parsed(text), problem, schedule)


def _ended(schedule: Schedule, open_schedule: Schedule, problem: Problem) -> Schedule:
    """A schedule with no kernel for any size is as it was given; one whose tiles are as long as a rank, whatever that
    is, has them as long as the problem's are."""
    if all((role.tile or 0) < MOST for _, role in open_schedule.roles):
        return schedule
    roles = (
        (r, replace(role, tile=problem.sizes[r]) if role.tile == MOST else role) for r, role in open_schedule.roles
    )
    return replace(open_schedule, roles=tuple(roles))


def open_ranks(text: str, problem: Problem, schedule: Schedule) -> frozenset[Rank]:
    """The ranks whose sizes a kernel for any size leaves open."""
    from eintune.space.lowering import lower

    return lower.open_ranks(parsed(text), problem, for_any_size(schedule))


def _program(cascade: Cascade, problem: Problem, schedule: Schedule) -> Program | None:
    """A form's plan for any size, made once; None where there is none."""
    from eintune.space.lowering.lower import build_for_any_size

    key = _key(cascade, problem, schedule)
    found = _programs.get(key)
    if found is None and not _refused.get(key):
        try:
            found = build_for_any_size(cascade, problem, schedule)
            _programs[_key(cascade, problem, schedule)] = found
        except ValueError:
            _refused[key] = True
    return found


def _key(cascade: Cascade, problem: Problem, schedule: Schedule) -> Hashable:
    from eintune.space.lowering.lower import unknown_sizes

    unknown = unknown_sizes(cascade, problem, schedule)
    numbers = tuple(sorted((r, n) for r, n in problem.sizes.items() if r not in unknown.ranges))
    dtypes, params = tuple(sorted(problem.dtypes.items())), tuple(sorted(problem.params.items()))
    return cascade, schedule, dtypes, params, numbers, tuple(unknown.ranges.items()), unknown.ordered


@functools.lru_cache(maxsize=64)
def parsed(text: str) -> Cascade:
    """The cascade of a text, read once."""
    return Cascade.parse(text)


# ---- sizes that are alike

EXACT = 256
"""Sizes up to here are priced as they are: head dims, groups, few queries, pages."""


def rounded_up(problem: Problem, steps: int) -> Problem:
    """A problem with its sizes rounded up to so many steps in each doubling."""
    sizes = {r: rounded(n, steps) for r, n in problem.sizes.items()}
    for part, axis in _tables(problem.cascade):  # a table is as long as what addresses it
        sizes[axis] = max(sizes[axis], length(part, sizes[part.rank]))
    return replace(problem, sizes=sizes)


@functools.lru_cache(maxsize=256)
def _tables(text: str) -> tuple[tuple[Part, Rank], ...]:
    """Quotients of indices in a definition, with the axes that they address."""
    return tuple(tables(e.expr for e in parsed(text).einsums))


def rounded(size: int, steps: int, exact: int = EXACT) -> int:
    """A size rounded up to so many steps in each doubling, from `exact` on."""
    if size <= exact:
        return size
    step = 1 << max(0, (size - 1).bit_length() - 1 - (steps.bit_length() - 1))
    return -(-size // step) * step
