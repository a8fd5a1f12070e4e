"""Values that a row does not see are multiplied all the same: what is done about the tiles that they spoil.

What each row hides for itself (`unseen_values`) is weighted by 0 but multiplied as it is. Where such a value is NaN or
infinite, so is the sum, in every row of the tile: 0 times NaN is NaN. Such values are padding, and mostly zeros. So a
program runs as if they were finite, and looks at its sums once, at the end: were they numbers, it stores them. If not,
it computes its tile again, piece by piece, as a plan of its own says, which decides by row. A NaN that is real comes
out again. Usually nothing is in doubt, and all that is left is one sum of what a program stores.

Specialised warps cannot compute in another way in between. Their programs note, for each group of rows, whether
a sum turned out to be no number, and a kernel after theirs, of plain warps, computes those tiles again. It has the
same programs, and usually only reads the notes.

A rewriting of a plan, as `bounds_prepass` is: what is watched are the sums that a loop leaves over such values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import TypeVar

from eintune.space.ir.expr import Rank, Tensor

from .check import check
from .plan import Block, Doubt, Loop, LoopPlan, Notes, all_values
from .roles import Role
from .sizes import Derived, SizeRange, Sizes
from .values import Cast, Constant, Dot, Elementwise, Load, Store, TileReduce, Value
from .warp_specialisation import GROUP_ROWS, fault, is_divided, row_of

V = TypeVar("V", Cast, Constant, Elementwise, TileReduce)

NOTES = "DOUBTS"
"""What the notes are called, unless a tensor has that name."""
PROGRAMS, GROUPS = "doubt_programs", "doubt_groups"
"""The axes of the notes."""
LAUNCHED = 128
"""Programs of the kernel that repairs, at least, where there are so many tiles: enough that many multiprocessors share
the work, few enough that they all start at once."""
MOST_EACH, UNKNOWN_EACH = 512, 64
"""Tiles of one of them, at most; and at once, where it is not known how many tiles there are."""


def with_repair(plan: LoopPlan, rows: LoopPlan, specialised: bool) -> tuple[LoopPlan, ...]:
    """A plan with `unfiltered` values and what computes its tiles again. rows: what decides by row. specialised:
    whether warps are, where there is work to divide.

    `plan` alone where specialised warps refuse it, `rows` alone where a loop stores what may be in doubt, so that
    nothing is known of it at the end.
    """
    try:
        if not specialised or not is_divided(plan):
            return (_doubting(plan, rows),)
        if fault(plan):
            return (plan,)
        name = NOTES
        while name in (*plan.dtypes, *rows.dtypes):
            name += "_"
        made = _noting(plan, name), _repairing(rows, plan, name)
    except _Unwatched:
        return (rows,)
    for kernel in made:
        check(kernel)
    return made


class _Unwatched(Exception):
    """Nothing says at a program's end whether all of it was a number."""


def tiles_each(plan: LoopPlan) -> int:
    """How many tiles, one after the other, each program of a kernel that repairs looks at: a power of two."""
    if PROGRAMS not in plan.sizes:
        return UNKNOWN_EACH
    several = max(min(plan.sizes[PROGRAMS] // LAUNCHED, MOST_EACH), 1)
    return 1 << several.bit_length() - 1


def usually(plan: LoopPlan) -> LoopPlan:
    """What a kernel that repairs does where nothing is in doubt, as a plan to be priced: it reads the notes. Its sizes
    are `usual_sizes`."""
    assert plan.repairs
    *programs, groups = plan.inputs[plan.repairs].ranks
    sizes = Sizes({GROUPS: plan.sizes[groups]}, {PROGRAMS: SizeRange()})
    if all(r in plan.sizes for r in programs):
        sizes = sizes.plus(usual_sizes(plan, plan.sizes))
    axes, dtype = (PROGRAMS, GROUPS), "int32"
    read = Load(tensor=plan.repairs, index=axes, axes=axes, dtype=dtype, name="doubts")
    rows = TileReduce(reduction="max", axis=GROUPS, args=(read,), axes=axes[:1], dtype=dtype, name="doubts_rows")
    some = TileReduce(reduction="max", axis=PROGRAMS, args=(rows,), dtype=dtype, name="doubts_some")
    return LoopPlan(
        roles={PROGRAMS: Role("grid", tiles_each(plan)), GROUPS: Role(None, sizes[GROUPS])},
        sizes=sizes,
        order=axes,
        grid=axes[:1],
        root=Block(frozenset(), [read, rows, some]),
        inputs={plan.repairs: Tensor(plan.repairs, axes, "int")},
        outputs={},
        dtypes={plan.repairs: dtype},
    )


def usual_sizes(plan: LoopPlan, sizes: Mapping[Rank, int]) -> dict[Rank, int]:
    """The sizes of what a kernel that repairs usually does, by those of its own ranks."""
    assert plan.repairs
    *programs, groups = plan.inputs[plan.repairs].ranks
    return {PROGRAMS: prod(sizes[r] for r in programs), GROUPS: sizes[groups]}


def _with_notes(sizes: Sizes, plan: LoopPlan) -> tuple[Sizes, tuple[Rank, ...]]:
    """Sizes with those of the notes on a plan's programs, and the axes of these."""
    sizes = sizes.plus({GROUPS: -(-plan.length(row_of(plan)) // GROUP_ROWS)})
    if not any(r in plan.sizes.ranges for r in plan.grid):
        return sizes.plus({PROGRAMS: plan.programs()}), (PROGRAMS, GROUPS)
    axes = {f"{PROGRAMS}_{r}": r for r in reversed(plan.grid)}
    for name, r in axes.items():
        sizes = sizes.deriving(name, Derived(r, by=plan.program_tile(r)))
    return sizes, (*axes, GROUPS)


def _doubting(plan: LoopPlan, rows: LoopPlan) -> LoopPlan:
    """The plan with one condition, that something watched is no number, and then all that it stores."""
    made = _Appended(plan)
    for x in plan.root.items:
        made.items += [] if isinstance(x, Store) else [x]
        made.watch(x, lambda v: v.axes[:1])
    if not made.doubts:
        raise _Unwatched
    some: Value | None = None
    for doubt in made.doubts.values():
        found: Value = made.append(Cast(args=(doubt,), axes=doubt.axes, dtype="int32", name="doubts"))
        for axis in doubt.axes:
            found = made.append(TileReduce(reduction="max", axis=axis, args=(found,), dtype="int32", name="doubt"))
        if some:
            found = made.append(Elementwise(operator="max", args=(some, found), dtype="int32", name="doubt"))
        some = found
    assert some
    none = made.append(Constant(number=0.0, dtype="int32", name="none"))
    in_doubt = made.append(Elementwise(operator="gt", args=(some, none), dtype="bool", name="in_doubt"))
    made.items += [x for x in plan.root.items if isinstance(x, Store)]
    found_plan = replace(
        plan,
        root=Block(plan.root.ranks, made.items),
        inputs={**plan.inputs, **rows.inputs},
        dtypes={**plan.dtypes, **rows.dtypes},
        doubt=Doubt(in_doubt, rows),
    )
    check(found_plan)
    return found_plan


def _noting(plan: LoopPlan, name: str) -> LoopPlan:
    """The plan with a note on each group of its rows: whether what is watched is no number there."""
    row, made = row_of(plan), _Appended(plan)
    for x in plan.root.items:
        made.items.append(x)
        made.watch(x, lambda _: (row,))
    if not made.doubts:
        raise _Unwatched
    sizes, axes = _with_notes(plan.sizes, plan)
    return replace(
        plan,
        root=Block(plan.root.ranks, made.items),
        sizes=sizes,
        outputs={**plan.outputs, name: axes},
        dtypes={**plan.dtypes, name: "int32"},
        notes=Notes(name, made.doubts[row,]),
    )


class _Appended:
    """The items of a plan's root block with conditions on what is watched. doubts: by axes, whether some of it is no
    number."""

    def __init__(self, plan: LoopPlan) -> None:
        self.items: list[Value | Loop] = []
        self.doubts: dict[tuple[Rank, ...], Value] = {}
        self._ranks = plan.unfiltered
        self._names = {v.name for v in all_values(plan.root)}

    def watch(self, item: Value | Loop, axes: Callable[[Value], tuple[Rank, ...]]) -> None:
        """Add what is known after an item to the condition along some of its axes."""
        # Right after the loop: the sum of a row takes a register, where the row itself would be kept until the end.
        for v in _watched(item, self._ranks):
            kept, title = axes(v), f"{v.name}_total"
            for axis in reversed([q for q in v.axes if q not in kept]):
                # NaN if one element is. Of infinities too, maybe, and then the tile is computed twice.
                left = tuple(q for q in v.axes if q != axis)
                v = self.append(TileReduce(reduction="add", axis=axis, args=(v,), axes=left, dtype=v.dtype, name=title))
            # What is not equal to itself is no number.
            found = self.append(Elementwise(operator="ne", args=(v, v), axes=kept, dtype="bool", name="in_doubt"))
            if before := self.doubts.get(kept):
                both = before, found
                found = self.append(Elementwise(operator="or", args=both, axes=kept, dtype="bool", name="in_doubt"))
            self.doubts[kept] = found

    def append(self, v: V) -> V:
        """A value at the end, by a name of its own."""
        while v.name in self._names:
            v.name += "_"
        self._names.add(v.name)
        self.items.append(v)
        return v


def _repairing(rows: LoopPlan, plan: LoopPlan, name: str) -> LoopPlan:
    sizes, axes = _with_notes(rows.sizes, plan)
    return replace(
        rows,
        sizes=sizes,
        inputs={**rows.inputs, name: Tensor(name, axes, "int")},
        dtypes={**rows.dtypes, name: "int32"},
        repairs=name,
        pieces={r: plan.program_tile(r) for r in plan.grid if plan.roles[r] != rows.roles[r]},
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
            raise _Unwatched
    yield from (c.value for c in item.carries if c.value in found)


def _sums(v: Value, ranks: frozenset[Rank]) -> bool:
    """Whether a value is a sum over one of some ranks."""
    return (isinstance(v, Dot) and v.contracted in ranks) or (
        isinstance(v, TileReduce) and v.reduction == "add" and v.axis in ranks
    )
