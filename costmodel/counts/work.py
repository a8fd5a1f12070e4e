"""The work of one kernel, counted from its plan: hardware-free, small, and all that a time estimate needs.

Counting walks the plan once; pricing a `Work` on a machine is arithmetic, so candidates are counted once and
priced again after every calibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np

from eintune.space.ir.dtypes import DTYPES
from eintune.space.ir.expr import Part, Rank
from eintune.space.plan.lazy_rescaling import lazy_rescalings
from eintune.space.plan.plan import Block, Known, Loop, LoopPlan, Program
from eintune.space.plan.predication import passes, source, unneeded
from eintune.space.plan.repair import usually
from eintune.space.plan.values import (
    Carried,
    Constant,
    Dot,
    Index,
    IndexPart,
    Lane,
    Load,
    SizeOf,
    Store,
    TileReduce,
    TileStart,
    Value,
    Within,
    is_product,
)
from eintune.space.schedule.schedule import Schedule
from eintune.space.tile_ir.tiles import Region

from .estimate import Traffic
from .operations import FLOPS_PER_SLOT, FREE, ElementCost, element_cost
from .resources import ResourceNeeds, needs, product_rows, regions, tile_bytes, tile_elements
from .transfers import PlacedTile, Transfer, as_traffic, move, product
from .trips import Floats, Runs, Segments, launch_order, mentioned, tiles, trips, uneven_ranks, whole_grid

PROFILE_BINS = 64
PROFILE_SAMPLES = 4096

SECTOR_BYTES = 32
"""What one access moves at the least."""


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
class Phase:
    """A block of a program in one segment: what one execution does, and how many executions a program has.

    entries: how often a program enters the segment, each time filling the loop's pipeline anew. traffic: of one
    execution of one program (HBM is counted by `streams`). steps: length of the longest chain of products and
    reductions, each of which waits for the one before. loads: of tiles from global memory. operators: tensor
    operations, were each run by itself; operand_bytes: bytes of operands and result of each elementwise one.
    divided: the loop runs in segments that may be empty, which hand their accumulators on.
    """

    executions: float
    entries: float
    traffic: Traffic
    products: tuple[ProductCost, ...]
    steps: int
    loads: int
    operators: int
    operand_bytes: tuple[int, ...]
    looped: bool
    divided: bool


@dataclass(frozen=True)
class TensorTraffic:
    """Global memory that programs read or write: one tensor.

    ranks: grid ranks that its tile depends on. distinct_bytes: of one tile. requested_bytes: per program, repeats
    included. total_bytes: the whole tensor's.
    """

    tensor: str
    ranks: frozenset[Rank]
    distinct_bytes: float
    requested_bytes: float
    total_bytes: float


@dataclass(frozen=True)
class Work:
    """All counts of one kernel launch, and of those that follow it (`then`).

    grid: (rank, tiles), fastest varying first. profiles: relative length (mean 1) of the longest program in each of
    some even bins of the launch order, started forward and in reverse. longest: the longest program over the mean.
    warps, stages, reverse, uses_descriptors (tiles loaded by tensor descriptor), pipelined (a loop's last product is),
    specialised (one group of warps loads, `warps` compute): of the schedule; all else depends on the plan alone. then:
    later launches of one program.
    """

    programs: int
    grid: tuple[tuple[Rank, int], ...]
    phases: tuple[Phase, ...]
    streams: tuple[TensorTraffic, ...]
    profiles: tuple[tuple[float, ...], tuple[float, ...]]
    longest: float
    needs: ResourceNeeds
    warps: int
    stages: int
    reverse: bool
    uses_descriptors: bool
    pipelined: bool
    specialised: bool
    then: tuple[Work, ...] = ()

    @property
    def launches(self) -> tuple[Work, ...]:
        """All launches of the program, each by itself, in order."""
        return (replace(self, then=()), *self.then) if self.then else (self,)

    @property
    def profile(self) -> tuple[float, ...]:
        """The profile of the order in which programs start."""
        return self.profiles[self.reverse]

    def under(self, schedule: Schedule) -> Work:
        """The same plan's work under a schedule that differs in warps, what they do, stages, order, loads or pipelined
        products only: no counting again."""
        return replace(
            self,
            warps=schedule.warps,
            stages=schedule.stages,
            reverse=schedule.order == "reverse",
            uses_descriptors=_uses_descriptors(schedule),
            pipelined=schedule.pipelined == "product",
            specialised=schedule.is_specialised,
            then=tuple(w.under(schedule) for w in self.then),
        )

    @property
    def traffic(self) -> Traffic:
        """All programs together; HBM at its least, each tensor once."""
        total = Traffic(hbm_bytes=sum(s.total_bytes for s in self.streams))
        for phase in self.phases:
            total = total + phase.traffic * (phase.executions * self.programs)
        return sum((w.traffic for w in self.then), total)


def work(plan: LoopPlan | Program, schedule: Schedule) -> Work:
    """Count a plan's or a program's work. Takes about two milliseconds a plan; `Work.under` serves its other
    schedules."""
    first, *then = [_counted(p, schedule) for p in Program.of(plan).kernels]
    return replace(first, then=tuple(then)) if then else first


def _counted(plan: LoopPlan, schedule: Schedule) -> Work:
    if plan.repairs:  # what it does where there is nothing to repair
        plan = usually(plan)
    every = trips(plan, whole_grid(plan))
    counter = _Counter(plan, schedule, regions(plan))
    phases = tuple(counter.phases(every))
    lengths = _lengths(phases, every)
    mean = float(lengths.mean()) or 1.0
    return Work(
        programs=plan.programs(),
        grid=tuple((r, tiles(plan, r)) for r in plan.grid),
        phases=phases,
        streams=tuple(counter.streams()),
        profiles=(_profile(plan, phases, mean, False), _profile(plan, phases, mean, True)),
        longest=float(lengths.max()) / mean,
        needs=needs(plan),
        warps=schedule.warps,
        stages=schedule.stages,
        reverse=schedule.order == "reverse",
        uses_descriptors=_uses_descriptors(schedule),
        pipelined=schedule.pipelined == "product",
        specialised=schedule.is_specialised,
    )


def _uses_descriptors(schedule: Schedule) -> bool:
    return schedule.loads != "pointer" or schedule.is_specialised


def _profile(plan: LoopPlan, phases: tuple[Phase, ...], mean: float, reverse: bool) -> tuple[float, ...]:
    if not uneven_ranks(plan):
        return (1.0,)
    return _bins(_lengths(phases, trips(plan, launch_order(plan, reverse, PROFILE_SAMPLES))) / mean)


def _effort(t: Traffic) -> float:
    """One number for how long work takes, near enough to compare programs of one kernel with each other."""
    # Rates beside each other on a typical GPU: a matrix unit is 16 times the fp32 lanes, those 16 times special
    # functions.
    return t.tensor_flops / 16 + t.fma_flops + 16 * t.special_ops + t.l2_bytes


def _lengths(phases: tuple[Phase, ...], runs: Segments) -> Floats:
    """Relative lengths of sampled programs: the root block and every segment, in the order of `phases`."""
    total: Floats = np.zeros(1)
    for phase, executions in zip(phases, [np.ones(1), *(r.iterations for r in runs.values())], strict=True):
        total = total + _effort(phase.traffic) * executions
    return total


def _bins(values: Floats) -> tuple[float, ...]:
    parts = np.array_split(values, PROFILE_BINS) if len(values) >= PROFILE_BINS else [values]
    return tuple(float(p.max()) for p in parts)


class _Counter:
    """One walk over a plan. Collects phases, and what each tensor's loads and stores ask for."""

    def __init__(self, plan: LoopPlan, schedule: Schedule, place: Mapping[Value, Region]) -> None:
        self.plan = plan
        self.precision = schedule.precision
        self.place = place
        self.requested: dict[tuple[str, frozenset[Rank]], float] = {}
        self.distinct: dict[tuple[str, frozenset[Rank]], float] = {}
        self.fused = _fused(plan)
        lazy = lazy_rescalings(plan).values() if schedule.rescaling == "lazy" else ()
        # With lazy rescaling the maximum and what follows from it are found only where it no longer serves.
        self.rare = frozenset(v for found in lazy for v in found.max_update)
        """What is evaluated so seldom that it costs nothing."""

    def phases(self, runs: Segments) -> Iterator[Phase]:
        """The root block, then every path of segments in the order of `runs`."""
        yield self._phase(self.plan.root)
        loops = {id(loop): loop for loop in self.plan.loops()}
        for path, segment in runs.items():
            divided = _divided(loops[path[-1][0]])
            # What the segments around this one know holds inside it too.
            known = frozenset[Known]().union(*(loops[i].segments[n].known for i, n in path))
            # As the printers do it: in a segment without masks the indices and bounds that only masks read are not
            # computed either.
            idle = unneeded(loops[path[-1][0]], partial(source, is_passed=partial(passes, known=known)))
            yield self._phase(loops[path[-1][0]].body, idle, known, segment, divided)

    def _phase(
        self,
        block: Block,
        idle: frozenset[Value] = frozenset(),
        known: frozenset[Known] = frozenset(),
        segment: Runs | None = None,
        divided: bool = False,
    ) -> Phase:
        """One block, without the filters and selections that hold and what nothing else needs; `segment`: of a loop,
        None for the root block."""
        executions = float(segment.iterations.mean()) if segment else 1.0
        entries = float(segment.entries.mean()) if segment else 1.0
        present = [v for v in block.items if not isinstance(v, Loop) and v not in self.rare]
        values = [v for v in present if v not in idle and not passes(v, known)]
        transfers: list[Transfer] = []
        products: list[ProductCost] = []
        slots = special = 0.0
        for v in values:
            cost, elements = self._cost(v)
            slots += cost.slots * elements
            special += cost.special * elements
            transfers += self._transfers(v)
            if isinstance(v, Dot):
                products.append(self._product(v))
            if isinstance(v, Load | Store):
                self._request(v, executions)
        traffic = as_traffic(transfers) + Traffic(
            tensor_flops=sum(p.flops for p in products), fma_flops=slots * FLOPS_PER_SLOT, special_ops=special
        )
        run = [v for v in values if not isinstance(v, Constant | Carried | Index | Lane | TileStart | SizeOf | Load)]
        operand_bytes = tuple(self._operand_bytes(v) for v in run if not isinstance(v, Dot))
        loads = sum(isinstance(v, Load) for v in values)
        return Phase(
            executions=executions,
            entries=entries,
            traffic=traffic,
            products=tuple(products),
            # a filter that holds is no step, but what it would have filtered goes through it
            steps=_steps(present),
            loads=loads,
            operators=len(run),
            operand_bytes=operand_bytes,
            looped=segment is not None,
            divided=divided,
        )

    def _cost(self, v: Value) -> tuple[ElementCost, float]:
        elements = tile_elements(self.plan, v.args[0] if isinstance(v, TileReduce) else v)
        return (FREE if v in self.fused or isinstance(v, Dot) else element_cost(v.op)), elements

    def _transfers(self, v: Value) -> list[Transfer]:
        match v:
            case Load():
                # Padding is masked and moves nothing; scattered elements move a whole sector each.
                tile = PlacedTile(Region.GLOBAL, tile_bytes(self.plan, v) * self._valid(v.axes) * self._scattered(v))
                return list(move(tile, self.place[v]))
            case Store():
                nbytes = tile_elements(self.plan, v.args[0]) * self._width(v) * self._valid(v.args[0].axes)
                # A result is spread over threads as products leave it. It goes through shared memory so that
                # neighbours store neighbouring addresses.
                staged = PlacedTile(Region.REGISTERS, nbytes), PlacedTile(Region.SHARED, nbytes)
                return [*move(staged[0], Region.SHARED), *move(staged[1], Region.GLOBAL)]
            case Dot():
                left, right = v.args[:2]
                found: list[Transfer] = []
                if self.place[right] == Region.REGISTERS:  # a computed right operand goes through shared memory
                    found += move(PlacedTile(Region.REGISTERS, tile_bytes(self.plan, right)), Region.SHARED)
                operands = [
                    PlacedTile(self.place[left], tile_bytes(self.plan, left)),
                    PlacedTile(Region.SHARED, tile_bytes(self.plan, right)),
                ]
                return [*found, *product(operands)]
            case _:
                # an elementwise reader of a tile in shared memory loads it first
                return [
                    t
                    for a in v.args
                    if self.place.get(a) == Region.SHARED
                    for t in move(PlacedTile(Region.SHARED, tile_bytes(self.plan, a)), Region.REGISTERS)
                ]

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
            computed=self.place[left] == Region.REGISTERS,
        )

    def _operand_bytes(self, v: Value) -> int:
        return tile_bytes(self.plan, v) + sum(tile_bytes(self.plan, a) for a in v.args)

    # ---- global memory

    def _valid(self, axes: tuple[Rank, ...]) -> float:
        """The share of a tile's elements (0 to 1) that lies inside the tensor, as a mean over all tiles."""
        return prod(self.plan.sizes[a] / (tiles(self.plan, a) * self.plan.length(a)) for a in axes)

    def _width(self, v: Load | Store) -> int:
        return DTYPES[self.plan.dtypes.get(v.tensor, v.dtype)].bytes

    def _scattered(self, v: Load | Store) -> float:
        """How many bytes move for each that is read: 1, or a sector's for one element where the last axis is looked up,
        so that elements do not lie side by side."""
        return max(1.0, SECTOR_BYTES / self._width(v)) if v.index and v.index[-1] is None else 1.0

    def _request(self, v: Load | Store, executions: float) -> None:
        name = v.tensor
        tile = v.args[0] if isinstance(v, Store) else v
        places = list(self._places(v))
        # A rank in parts varies with the program's part.
        varies = (self.plan.splits[r].rank if r in self.plan.splits else r for r, _ in places)
        key = name, frozenset(r for r in varies if r in self.plan.grid)
        nbytes = tile_elements(self.plan, tile) * self._width(v) * self._valid(tile.axes) * self._scattered(v)
        self.requested[key] = self.requested.get(key, 0.0) + nbytes * executions
        # What a program touches at all, repeats counted once: what a cache must hold for them to be hits.
        span = prod(length for _, length in places) * self._width(v) * self._scattered(v)
        self.distinct[key] = max(self.distinct.get(key, 0.0), span)

    def _places(self, v: Load | Store) -> Iterator[tuple[Rank, float]]:
        """The ranks that an access varies with, and how many different places a program visits along each; what is
        looked up in a table is as different as the table's index."""
        numbers = iter(v.args)
        for i in v.index:
            match i:
                case None:
                    yield from self._looked_up(next(numbers))
                case Within():
                    next(numbers)
                case Part():
                    count = self._visited(i.rank)
                    yield i.rank, max(count / i.by, 1.0) if i.op == "//" else min(count, i.by)
                case str():
                    yield i, self._visited(i)

    def _looked_up(self, number: Value) -> Iterator[tuple[Rank, float]]:
        """As `_places`, for an axis that is addressed by a value: the ranks that the value varies with."""
        if isinstance(number, Load):
            yield from self._places(number)
            return
        match number:
            case Index():
                yield number.rank, self._visited(number.rank)
            case IndexPart():
                yield number.part.rank, self._visited(number.part.rank)
        for a in number.args:
            yield from self._looked_up(a)

    def _visited(self, rank: Rank) -> float:
        """How many indices of a rank a program visits, on average."""
        tile = self.plan.roles[rank].tile
        if rank in self.plan.splits:
            return min(int(self.plan.splits[rank].length), self.plan.sizes[rank])
        if rank not in self.plan.grid:
            return self.plan.sizes[rank]
        return tile * self._valid((rank,)) if tile else 1

    def streams(self) -> Iterator[TensorTraffic]:
        """One stream a tensor and way of indexing it; call after `phases`."""
        counts = {r: tiles(self.plan, r) for r in self.plan.grid}
        for (name, ranks), requested in self.requested.items():
            distinct = min(self.distinct[name, ranks], requested) or 1.0
            total = distinct * prod(counts[r] for r in ranks)
            yield TensorTraffic(name, ranks, distinct, requested, total)


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
