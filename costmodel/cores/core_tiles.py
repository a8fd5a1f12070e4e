"""What a plan needs of a core, counted in whole square tiles: registers, memory, operations, bytes moved."""

from __future__ import annotations

from math import ceil, prod

from eintune.costmodel.counts.operations import element_cost
from eintune.costmodel.machines.machine import CoreGrid
from eintune.space.ir.dtypes import DTYPES
from eintune.space.plan.plan import Block, Carry, Loop, LoopPlan, all_values
from eintune.space.plan.values import (
    Carried,
    Constant,
    Dot,
    Index,
    Lane,
    Load,
    SizeOf,
    Store,
    TileReduce,
    TileStart,
    Value,
)

_WIDE = 2
"""Destination slots of a tile of 32-bit elements, in which products accumulate; one of 16 bits takes one."""
_SOURCES = (Load, Constant, Carried, Index, Lane, TileStart, SizeOf)
"""What computes nothing: a product reads a transposed tile as it is."""


class CoreTiles:
    """One plan on cores of `grid`, its intermediates whole in registers or worked through in sub-blocks."""

    def __init__(self, plan: LoopPlan, grid: CoreGrid, blocked: bool) -> None:
        self.plan, self.grid, self.blocked = plan, grid, blocked
        self.users: dict[Value, list[Value]] = {}
        for v in all_values(plan.root):
            for a in v.args:
                self.users.setdefault(a, []).append(v)
        self.carried = {c.next for loop in plan.loops() for c in loop.carries}

    def tiles(self, v: Value) -> int:
        """Tiles of a value: the last two axes lie in squares, a scalar takes none."""
        *outer, row, column = (1, 1, *(self.plan.length(a) for a in v.axes))
        side = self.grid.tile
        return prod(outer) * ceil(row / side) * ceil(column / side) if v.axes else 0

    def _bytes(self, v: Value) -> int:
        return self.tiles(v) * self.grid.tile**2 * DTYPES[v.dtype].bytes

    def _packed(self, v: Value) -> bool:
        """Whether a computed value is written to L1: always for a product, and in sub-blocks wherever what reads it
        is not the next operation on the same tile."""
        users = self.users.get(v, [])
        if isinstance(v, (*_SOURCES, Store)):
            return False
        if any(isinstance(u, Dot) and v in u.args[:2] for u in users):
            return True
        other = any(isinstance(u, TileReduce) or u.axes != v.axes for u in users if not isinstance(u, Store))
        return self.blocked and (v in self.carried or other)

    # ---- work of one execution of a block

    def flops(self, block: Block) -> dict[str, float]:
        """FLOP of the products by dtype."""
        found: dict[str, float] = {}
        for v in _values(block):
            if isinstance(v, Dot):
                own = 2.0 * self.tiles(v) * self._depth(v) * self.grid.tile**3
                found[v.args[0].dtype] = found.get(v.args[0].dtype, 0.0) + own
        return found

    def operations(self, block: Block) -> tuple[float, float]:
        """Slots of the vector unit, and its special functions."""
        slots = special = 0.0
        for v in _values(block):
            if not isinstance(v, Dot):
                cost = element_cost(v.op)
                elements = self.tiles(v.args[0] if isinstance(v, TileReduce) else v) * self.grid.tile**2
                slots += cost.slots * elements
                special += cost.special * elements
        return slots, special

    def moved(self, block: Block) -> float:
        """Bytes from and to L1."""
        return sum(self._moved(v) for v in _values(block))

    def _moved(self, v: Value) -> float:
        if isinstance(v, Load):
            return float(self._bytes(v))
        if isinstance(v, Store):
            return float(self._bytes(v.args[0]))
        written = float(self._bytes(v)) if self._packed(v) else 0.0
        if isinstance(v, Dot):
            return written + self._operands(v)
        packed = (Load, Carried) if self.blocked else Load
        read = (a for a in v.args if isinstance(a, packed) or self._packed(a))
        return written + sum(self._bytes(a) for a in read)

    def _depth(self, product: Dot) -> int:
        """Tiles along the contracted rank."""
        return ceil(self.plan.length(product.contracted) / self.grid.tile)

    def _operands(self, product: Dot) -> float:
        """Bytes that a product reads: s + t tiles a step for a sub-block of s x t tiles of its result."""
        lengths = (1, 1, *(self.plan.length(a) for a in product.axes))[-2:]
        s, t = self._sub_block(*(ceil(n / self.grid.tile) for n in lengths))
        steps = self.tiles(product) * self._depth(product)
        return steps * (1 / s + 1 / t) * self.grid.tile**2 * DTYPES[product.args[0].dtype].bytes

    def _sub_block(self, rows: int, columns: int) -> tuple[int, int]:
        """The sub-block that reads least, of those that fit; the whole block where nothing is blocked."""
        if not self.blocked:
            return rows, columns
        most = self.grid.destination_tiles // _WIDE
        every = ((s, t) for s in range(1, rows + 1) for t in range(1, columns + 1))
        # Each step reads s tiles of one operand and t of the other for s * t products: reads a product are 1/s + 1/t,
        # least where the sub-block is square.
        return min((x for x in every if prod(x) <= most), key=lambda x: 1 / x[0] + 1 / x[1])

    # ---- what must be held

    def fullest(self) -> dict[Value, int]:
        """What stands in destination slots where most of them are taken: the values of the whole block, or one tile
        of each operand of the widest operation, whose result takes the place of one."""
        if not self.blocked:
            return self._peak(self.plan.root, {}, ())
        computed = [v for v in all_values(self.plan.root) if v.axes and not isinstance(v, (*_SOURCES, Store, Dot))]
        each = [{x: _slots(x) for x in dict.fromkeys(v.args) if x.axes} or {v: _slots(v)} for v in computed]
        return max(each, key=lambda held: sum(held.values()), default={})

    def _held(self, v: Value) -> int:
        """Destination slots of a value; what only products read stays in L1."""
        users = self.users.get(v, [])
        read = all(isinstance(u, Dot) for u in users) and bool(users)
        nowhere = isinstance(v, Constant | Index | Lane | Store) or (isinstance(v, Load) and read)
        return 0 if nowhere else self.tiles(v) * _slots(v)

    def _peak(self, block: Block, outside: dict[Value, int], carries: tuple[Carry, ...]) -> dict[Value, int]:
        """The fullest point of a block; `outside`: values that live through it."""
        last: dict[Value, int] = {}
        for i, item in enumerate(block.items):
            for user in all_values(item.body) if isinstance(item, Loop) else [item]:
                last.update(dict.fromkeys(user.args, i))
        last.update((c.next, len(block.items)) for c in carries)
        held = {c.value: self._held(c.value) for c in carries}

        def live(position: int) -> dict[Value, int]:
            return outside | {v: n for v, n in held.items() if n and last.get(v, -1) >= position}

        points = [outside | held]
        for i, item in enumerate(block.items):
            if isinstance(item, Loop):
                points.append(self._peak(item.body, live(i + 1), tuple(item.carries)))
                held.update((c.value, self._held(c.value)) for c in item.carries)
                continue
            # an operation may take its operands' registers; a product's operands are read from L1
            # As in `resources._peak`: live ranges over program order.
            points.append(live(i + 1) | {item: self._held(item)})
            points += [] if isinstance(item, Dot) else [live(i)]
            held[item] = self._held(item)
        return max(points, key=lambda point: sum(point.values()))

    def l1(self, stages: int) -> int:
        """Bytes of L1: tiles that are loaded (one for each stage in a loop), packed and stored."""
        looped = {v for loop in self.plan.loops() for v in all_values(loop.body)}
        total = 0
        for v in all_values(self.plan.root):
            if isinstance(v, Load):
                total += self._bytes(v) * (stages if v in looped else 1)
            elif isinstance(v, Store):
                total += self._bytes(v.args[0])
            elif self._packed(v):
                total += self._bytes(v)
        return total


def _values(block: Block) -> list[Value]:
    """What a block does itself, its loops left out."""
    return [v for v in block.items if not isinstance(v, Loop)]


def _slots(v: Value) -> int:
    """Destination slots of one tile."""
    return _WIDE if DTYPES[v.dtype].bytes > 2 else 1
