"""What one execution of each block of a plan does, as far as no size changes it: one walk over the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from eintune.space.plan.lazy_rescaling import lazy_rescalings
from eintune.space.plan.plan import Block, Known, Loop, LoopPlan
from eintune.space.plan.predication import passes, source, unneeded
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
    is_product,
)
from eintune.space.schedule.schedule import Schedule
from eintune.space.tile_ir.tiles import Region

from .bound_code import mentioned
from .estimate import Traffic
from .memory_accesses import MemoryAccesses
from .operations import FLOPS_PER_SLOT, FREE, ElementCost, element_cost
from .resources import product_rows, tile_bytes, tile_elements
from .transfers import PlacedTile, Transfer, as_traffic, move, product
from .trips import LoopPath


@dataclass(frozen=True)
class ProductCost:
    """One matrix product: operand dtype, rows and columns of its result, FLOP with padding, bytes of its operands.

    computed: the left operand was computed (it sits in registers), not loaded.
    """

    dtype: str
    rows: int
    columns: int
    flops: float
    left_bytes: int
    right_bytes: int
    computed: bool


@dataclass(frozen=True)
class BlockWork:
    """A block of a program in one segment: what one execution does at any sizes.

    traffic: without global memory. accesses: of global memory, each the number of one among those of the plan, and the
    traffic of each byte that it moves. steps: length of the longest chain of products and reductions, each of which
    waits for the one before. loads: of tiles from global memory. operators: tensor operations, were each run by itself;
    operand_bytes: bytes of operands and result of each elementwise one. looped: it is a loop's body. divided: the loop
    runs in segments that may be empty, which hand their accumulators on.
    """

    traffic: Traffic
    accesses: tuple[tuple[int, Traffic], ...]
    products: tuple[ProductCost, ...]
    steps: int
    loads: int
    operators: int
    operand_bytes: tuple[int, ...]
    looped: bool
    divided: bool


def block_works(
    plan: LoopPlan, schedule: Schedule, memory: MemoryAccesses, paths: Sequence[LoopPath]
) -> tuple[BlockWork, ...]:
    """The root block's work, then that of every path. memory: where accesses are noted."""
    walk = _Walk(plan, schedule, memory)
    return (walk.block(plan.root), *map(walk.path, paths))


class _Walk:
    """What the blocks of a plan have in common."""

    def __init__(self, plan: LoopPlan, schedule: Schedule, memory: MemoryAccesses) -> None:
        self.plan = plan
        self.precision = schedule.precision
        self.memory = memory
        self.fused = _fused(plan)
        lazy = lazy_rescalings(plan).values() if schedule.rescaling == "lazy" else ()
        # With lazy rescaling the maximum and what follows from it are found only where it no longer serves.
        self.rare = frozenset(v for found in lazy for v in found.max_update)
        """What is evaluated so seldom that it costs nothing."""

    def path(self, path: LoopPath) -> BlockWork:
        """A loop's body in one segment."""
        # What the segments around this one know holds inside it too.
        known = frozenset[Known]().union(*(segment.known for _, segment in path.segments))
        # As the printers do it: in a segment without masks the indices and bounds that only masks read are not
        # computed either.
        idle = unneeded(path.loop, partial(source, is_passed=partial(passes, known=known)))
        return self.block(path.loop.body, idle, known, path.loop)

    def block(
        self,
        block: Block,
        idle: frozenset[Value] = frozenset(),
        known: frozenset[Known] = frozenset(),
        loop: Loop | None = None,
    ) -> BlockWork:
        """One block, without the filters and selections that hold and what nothing else needs; `loop`: whose body it
        is, None for the root block."""
        present = [v for v in block.items if not isinstance(v, Loop) and v not in self.rare]
        values = [v for v in present if v not in idle and not passes(v, known)]
        transfers: list[Transfer] = []
        slots = special = 0.0
        for v in values:
            cost, elements = self._cost(v)
            slots += cost.slots * elements
            special += cost.special * elements
            transfers += self._transfers(v)
        products = tuple(self._product(v) for v in values if isinstance(v, Dot))
        accesses = [self.memory.number(v) for v in values if isinstance(v, Load | Store)]
        run = [v for v in values if not isinstance(v, Constant | Carried | Index | Lane | TileStart | SizeOf | Load)]
        return BlockWork(
            traffic=as_traffic(transfers)
            + Traffic(
                tensor_flops=sum(p.flops for p in products), fma_flops=slots * FLOPS_PER_SLOT, special_ops=special
            ),
            accesses=tuple((n, self.memory.accesses[n].levels) for n in accesses),
            products=products,
            # a filter that holds is no step, but what it would have filtered goes through it
            steps=_steps(present),
            loads=sum(isinstance(v, Load) for v in values),
            operators=len(run),
            operand_bytes=tuple(self._operand_bytes(v) for v in run if not isinstance(v, Dot)),
            looped=loop is not None,
            divided=loop is not None and _divided(loop),
        )

    def _cost(self, v: Value) -> tuple[ElementCost, float]:
        elements = tile_elements(self.plan, v.args[0] if isinstance(v, TileReduce) else v)
        return (FREE if v in self.fused or isinstance(v, Dot) else element_cost(v.op)), elements

    def _transfers(self, v: Value) -> Iterator[Transfer]:
        """Between the levels of a multiprocessor."""
        place = self.memory.place
        match v:
            case Load() | Store():  # `MemoryAccesses` has them
                return
            case Dot():
                left, right = v.args[:2]
                if place[right] == Region.REGISTERS:  # a computed right operand goes through shared memory
                    yield from move(PlacedTile(Region.REGISTERS, tile_bytes(self.plan, right)), Region.SHARED)
                yield from product(
                    [
                        PlacedTile(place[left], tile_bytes(self.plan, left)),
                        PlacedTile(Region.SHARED, tile_bytes(self.plan, right)),
                    ]
                )
            case _:
                # an elementwise reader of a tile in shared memory loads it first
                for a in v.args:
                    if place.get(a) == Region.SHARED:
                        yield from move(PlacedTile(Region.SHARED, tile_bytes(self.plan, a)), Region.REGISTERS)

    def _product(self, v: Dot) -> ProductCost:
        left = v.args[0]
        # fp32 operands are multiplied as the schedule's precision says, at the rate of that.
        dtype = self.precision if left.dtype == "fp32" and self.precision != "ieee" else left.dtype
        flops = 2.0 * tile_elements(self.plan, v) * self.plan.length(v.contracted)
        rows = product_rows(self.plan, v)
        return ProductCost(
            dtype=dtype,
            rows=rows,
            columns=tile_elements(self.plan, v) // rows,
            flops=flops,
            left_bytes=tile_bytes(self.plan, left),
            right_bytes=tile_bytes(self.plan, v.args[1]),
            computed=self.memory.place[left] == Region.REGISTERS,
        )

    def _operand_bytes(self, v: Value) -> int:
        return tile_bytes(self.plan, v) + sum(tile_bytes(self.plan, a) for a in v.args)


def _divided(loop: Loop) -> bool:
    """Whether a loop runs in segments of which some may be empty for some programs."""
    bounds = [b for s in loop.segments for b in (s.lo, s.hi)]
    return len(loop.segments) > 1 and not loop.joined and any(mentioned(b) for b in bounds)


def _steps(values: Sequence[Value]) -> int:
    """The longest chain of products and reductions."""
    depth: dict[Value, int] = {}
    for v in values:
        # Elementwise work is throughput; products and reductions have a latency that the next one in the chain waits
        # for.
        depth[v] = isinstance(v, Dot | TileReduce) + max((depth.get(a, 0) for a in v.args), default=0)
    return max(depth.values(), default=0)


def _fused(plan: LoopPlan) -> frozenset[Value]:
    """Multiplications whose only use is an addition or subtraction of the same tile: one FMA with it, which has room
    for one of them."""
    users: dict[Value, list[Value]] = {}

    def visit(block: Block) -> None:
        for item in block.items:
            if isinstance(item, Loop):
                visit(item.body)
            else:
                for a in item.args:
                    users.setdefault(a, []).append(item)

    visit(plan.root)
    multiplied = (
        (by[0], v)
        for v, by in users.items()
        if is_product(v) and len(by) == 1 and by[0].op in ("add", "sub") and by[0].axes == v.axes
    )
    return frozenset(dict(multiplied).values())
