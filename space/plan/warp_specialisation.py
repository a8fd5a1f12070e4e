"""Programs whose groups of warps do different things: one loads tiles, the others compute on them.

A computing group has the rows of one asynchronous matrix instruction; a program has as many of them as its tile has
such rows, and one that only loads. What can be divided so is read off the plan: every product multiplies rows that
groups share out by a tile that is loaded whole.
"""

from __future__ import annotations

from typing import Literal, get_args

from eintune.space.ir.dtypes import SIXTEEN_BIT
from eintune.space.ir.expr import Rank

from .bounds import numbers
from .descriptor_blocks import Read, block_of
from .plan import Loop, LoopPlan, all_values
from .refusals import Refusal
from .values import Dot, Load, Store, TileReduce, Value

WarpSpecialisation = Literal["none", "producer_consumer"]
"""The settings of `Schedule.warp_specialisation`."""

WARP_SPECIALISATION: tuple[WarpSpecialisation, ...] = get_args(WarpSpecialisation)

GROUP_WARPS = 4
"""Warps of a group: those that share one matrix instruction, in the layout that tiles of such plans have."""
GROUP_ROWS = 64
"""Rows of a group: those of one such instruction."""

VECTOR_DTYPES = ("fp32", "int32")
"""What a copy of single numbers moves: four bytes each."""

KIND = "divided work"
"""The kind of a refusal to divide a plan among warps."""


def groups(warps: int) -> int:
    """How many groups compute, in a schedule of so many warps that do."""
    return warps // GROUP_WARPS


def length(plan: LoopPlan, rank: Rank, row: Rank) -> int | None:
    """Elements of a rank in the tile of one group; None where it has no tile."""
    tile = plan.roles[rank].tile
    return min(tile, GROUP_ROWS) if tile and rank == row else tile


def products_of(plan: LoopPlan) -> list[Dot]:
    """The matrix products of a plan, in order."""
    return [v for v in all_values(plan.root) if isinstance(v, Dot)]


def is_divided(plan: LoopPlan) -> bool:
    """Whether specialised warps divide the work of a kernel: it has products, and repairs no other kernel's tiles,
    which plain warps do."""
    return plan.repairs is None and bool(products_of(plan))


def run_in_background(loop: Loop) -> bool:
    """Whether a loop has more products than one that is in time and one that comes later: then all of them run in the
    background, each waited for where it is read."""
    return sum(isinstance(v, Dot) for v in loop.body.items) > 2


def streamed_vectors(plan: LoopPlan, loop: Loop, row: Rank) -> list[Load]:
    """The numbers of columns (32 bits each) that come with a loop's tiles through shared memory: each thread reads
    those of many columns, whose addresses would fill its registers."""
    if not run_in_background(loop):
        return []
    loads = (v for v in loop.body.items if isinstance(v, Load) and v.axes == (loop.rank,) and loop.rank != row)
    return [v for v in loads if not v.args and all(isinstance(i, str) for i in v.index) and v.dtype in VECTOR_DTYPES]


def row_of(plan: LoopPlan) -> Rank:
    """The rank whose tiles the groups divide among them, of a plan without a `fault`: the rows of every product."""
    return products_of(plan)[0].axes[0]


def sides(product: Value, row: Rank) -> tuple[Value, Value]:
    """The left and the right operand of a product: which has the rows, and which has not."""
    a, b = product.args[:2]
    return (a, b) if row in a.axes else (b, a)


def tile_of(plan: LoopPlan, v: Load | Store, row: Rank) -> tuple[tuple[Rank, ...], tuple[int, ...]] | None:
    """The ranks that index a tensor, and the block of it that one group loads or stores; None where it is no whole
    tile."""
    name, index = v.tensor, v.index
    axes, looked_up = (v.args[0].axes, v.args[1:]) if isinstance(v, Store) else (v.axes, v.args)
    ranks = tuple(i for i in index if isinstance(i, str) and i in plan.roles)
    in_order = tuple(r for r in ranks if r in axes) == axes and len(set(ranks)) == len(index)
    if looked_up or not in_order or plan.dtypes[name] not in SIXTEEN_BIT:
        return None
    block = block_of(Read(ranks, plan.dtypes[name]), plan.sizes, lambda r: length(plan, r, row))
    return (ranks, block) if block else None


def fault(plan: LoopPlan) -> Refusal | None:
    """Why specialised warps cannot divide a plan, naming the rule and the value; None where they can."""
    products = products_of(plan)
    rows = {v.axes[:1] for v in products}
    if len(rows) != 1 or rows == {()}:
        return Refusal(KIND, f"products of specialised warps share their rows, but these have {sorted(rows)}")
    ((row,),) = rows
    for loop in plan.root.items:
        if isinstance(loop, Loop) and any(isinstance(x, Loop) for x in loop.body.items):
            return Refusal(KIND, f"specialised warps run no loop inside another, but one is in that over {loop.rank}")
    ends = (e for loop in plan.loops() for s in loop.segments for e in (s.lo, s.hi))
    for v in (v for e in ends for v in numbers(e)):
        if not isinstance(v, Load) or v.args:
            return Refusal(KIND, f"all groups know where loops of specialised warps end, but {v.name} is computed")
    loads = {x for v in products for x in v.args[:2] if isinstance(x, Load)}
    found = (_fault_of(plan, v, row, loads) for v in all_values(plan.root))
    return next(filter(None, found), None)


def _fault_of(plan: LoopPlan, v: Value, row: Rank, loads: set[Load]) -> Refusal | None:
    if isinstance(v, Load) and v in loads:
        if tile_of(plan, v, row) is None:
            wanted = f"whole tiles of {' or '.join(SIXTEEN_BIT)}"
            return Refusal(KIND, f"specialised warps multiply {wanted}, but got {v.tensor} at {v.index}")
        if row in v.axes and v not in plan.root.items:
            return Refusal(KIND, f"specialised warps stream what all groups read, but {v.name} has rows of each")
        return None
    if any(a in loads for a in v.args) and not isinstance(v, Dot):
        return Refusal(KIND, f"specialised warps load tiles for products only, but {v.name} ({v.op}) reads one")
    if len(v.axes) > 2 or (len(v.axes) == 2 and v.axes[0] != row):
        return Refusal(
            KIND, f"specialised warps hold tiles of rows ({row}) and columns, but {v.name} has axes {v.axes}"
        )
    if isinstance(v, TileReduce) and v.axis == row:
        return Refusal(KIND, f"specialised warps reduce along rows, but {v.name} is over {row}")
    return _fault_of_product(v, row, loads) if isinstance(v, Dot) else None


def _fault_of_product(v: Dot, row: Rank, loads: set[Load]) -> Refusal | None:
    left, right = sides(v, row)
    if set(left.axes) != {row, v.contracted} or len(right.axes) != 2 or row in right.axes:
        return Refusal(
            KIND, f"specialised warps multiply matrices, but {v.name} multiplies {left.axes} by {right.axes}"
        )
    if right not in loads or left.dtype not in SIXTEEN_BIT:
        got = f"multiplies {left.dtype} by a {right.op}"
        return Refusal(KIND, f"specialised warps multiply by loaded tiles, but {v.name} {got}")
    return None
