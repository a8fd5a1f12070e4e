"""A kernel that takes values for finite, and one after it that computes the tiles again where they were not.

What only the rows of a tile together hide (`unseen_values`) is weighted by 0 but multiplied all the same where warps
are specialised, since those multiply tiles that never were in registers. Where such a value is NaN or infinite, so is
the sum, in every row: 0 times NaN is NaN. Such values are padding, and mostly zeros. So the kernel runs as if they were
finite and notes, for each group of rows of each program, whether a sum turned out to be no number. The kernel after
it, plain and with all filters, has the same programs: it computes those again that are in doubt. A NaN that is real
comes out again. Usually nothing is in doubt, and all that the second kernel does is read the notes.

A rewriting of a plan, as `bounds_prepass` is: what is watched are the sums that a loop leaves over such values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from eintune.space.ir.expr import Rank, Tensor

from .check import check
from .plan import Block, Loop, LoopPlan, Notes, all_values
from .roles import IllegalPlan, Role
from .values import Dot, Elementwise, Load, Store, TileReduce, Value
from .warp_specialisation import GROUP_ROWS, fault, is_divided, row_of

NOTES = "DOUBTS"
"""What the notes are called, unless a tensor has that name."""
PROGRAMS, GROUPS = "doubt_programs", "doubt_groups"
"""The axes of the notes."""
LAUNCHED = 128
"""Programs of the kernel that repairs, at least, where there are so many tiles: enough that many multiprocessors share
the work, few enough that they all start at once."""
MOST_EACH = 512
"""Tiles of one of them, at most."""


def with_repair(plan: LoopPlan, plain: LoopPlan) -> tuple[LoopPlan, ...]:
    """A plan with `unfiltered` values and what repairs its tiles. plain: the same with all filters.

    That plan alone where nothing divides its work, and `plan` alone where specialised warps refuse it. Raises
    UnknownSize where the number of programs is none, IllegalPlan where a loop stores what may be in doubt.
    """
    if not is_divided(plan):
        return (plain,)
    if fault(plan):
        return (plan,)
    numbers = {PROGRAMS: plan.programs(), GROUPS: -(-plan.length(row_of(plan)) // GROUP_ROWS)}
    name = NOTES
    while name in (*plan.dtypes, *plain.dtypes):
        name += "_"
    made = _noting(plan, name, numbers), _repairing(plain, name, numbers)
    for kernel in made:
        check(kernel)
    return made


def tiles_each(plan: LoopPlan) -> int:
    """How many tiles, one after the other, each program of a kernel that repairs looks at: a power of two."""
    several = max(min(plan.sizes[PROGRAMS] // LAUNCHED, MOST_EACH), 1)
    return 1 << several.bit_length() - 1


def usually(plan: LoopPlan) -> LoopPlan:
    """What a kernel that repairs does where nothing is in doubt, as a plan to be priced: it reads the notes."""
    assert plan.repairs
    each, groups = tiles_each(plan), plan.sizes[GROUPS]
    axes, dtype = (PROGRAMS, GROUPS), "int32"
    read = Load(tensor=plan.repairs, index=axes, axes=axes, dtype=dtype, name="doubts")
    rows = TileReduce(reduction="max", axis=GROUPS, args=(read,), axes=axes[:1], dtype=dtype, name="doubts_rows")
    some = TileReduce(reduction="max", axis=PROGRAMS, args=(rows,), dtype=dtype, name="doubts_some")
    return LoopPlan(
        roles={PROGRAMS: Role("grid", each), GROUPS: Role(None, groups)},
        sizes=plan.sizes.only(axes),
        order=axes,
        grid=axes[:1],
        root=Block(frozenset(), [read, rows, some]),
        inputs={plan.repairs: plan.inputs[plan.repairs]},
        outputs={},
        dtypes={plan.repairs: dtype},
    )


def _noting(plan: LoopPlan, name: str, numbers: dict[Rank, int]) -> LoopPlan:
    """The plan with a note on each group of its rows: whether what is watched is no number there."""
    row, names = row_of(plan), {v.name for v in all_values(plan.root)}
    items: list[Value | Loop] = []
    doubt: Value | None = None
    for x in plan.root.items:
        items.append(x)
        # Right after the loop: the sum of a row takes a register, where the row itself would be kept until the end.
        for v in _watched(x, plan.unfiltered):
            for axis in v.axes[1:]:
                # NaN if one element is. Of infinities too, maybe, and then the tile is computed twice.
                title = _fresh(f"{v.name}_total", names)
                v = TileReduce(reduction="add", axis=axis, args=(v,), axes=(row,), dtype=v.dtype, name=title)
                items.append(v)
            # What is not equal to itself is no number.
            found = Elementwise(operator="ne", args=(v, v), axes=(row,), dtype="bool", name=_fresh("in_doubt", names))
            items.append(found)
            if doubt:
                both, title = (doubt, found), _fresh("in_doubt", names)
                found = Elementwise(operator="or", args=both, axes=(row,), dtype="bool", name=title)
                items.append(found)
            doubt = found
    if doubt is None:
        raise IllegalPlan("what may be in doubt is a sum", f"there is none over {sorted(plan.unfiltered)}")
    return replace(
        plan,
        root=Block(plan.root.ranks, items),
        sizes=plan.sizes.plus(numbers),
        outputs={**plan.outputs, name: (PROGRAMS, GROUPS)},
        dtypes={**plan.dtypes, name: "int32"},
        notes=Notes(name, doubt),
    )


def _repairing(plain: LoopPlan, name: str, numbers: dict[Rank, int]) -> LoopPlan:
    return replace(
        plain,
        sizes=plain.sizes.plus(numbers),
        inputs={**plain.inputs, name: Tensor(name, (PROGRAMS, GROUPS), "int")},
        dtypes={**plain.dtypes, name: "int32"},
        repairs=name,
    )


def _watched(item: Value | Loop, ranks: frozenset[Rank]) -> Iterator[Value]:
    """The sums over some ranks that are known after an item of the root block: its own, or those that a loop leaves.
    Raises IllegalPlan where a loop stores something of one."""
    if not isinstance(item, Loop):
        yield from (item,) if _sums(item, ranks) else ()
        return
    found: set[Value] = set()
    before = -1
    # Again until nothing is added: what a carry becomes is what it is in the next iteration.
    while before < len(found):
        before = len(found)
        for v in all_values(item.body):
            if _sums(v, ranks) or not found.isdisjoint(v.args):
                found.add(v)
        found.update(c.value for c in item.carries if c.next in found)
    for v in found:
        if isinstance(v, Store):
            raise IllegalPlan("what may be in doubt is known after a loop", f"that over {item.rank} stores {v.tensor}")
    yield from (c.value for c in item.carries if c.value in found)


def _sums(v: Value, ranks: frozenset[Rank]) -> bool:
    """Whether a value is a sum over one of some ranks."""
    return (isinstance(v, Dot) and v.contracted in ranks) or (
        isinstance(v, TileReduce) and v.reduction == "add" and v.axis in ranks
    )


def _fresh(wanted: str, names: set[str]) -> str:
    name = wanted
    while name in names:
        name += "_"
    names.add(name)
    return name
