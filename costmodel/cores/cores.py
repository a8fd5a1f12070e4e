"""Plans on a machine of cores that work on square tiles, each core with a memory (L1) of its own.

A core multiplies and computes on tiles in its destination registers, of which there are few. What it reads comes
from L1: operands of products as they are multiplied, others as they are copied to a register. Two ways to hold what
is computed between products:

    whole     every intermediate of the core's block sits in destination registers until its last use: nothing moves,
              but all of its tiles must fit at once
    blocked   the block is worked through in sub-blocks that fit; what a product, a reduction, a later iteration or
              an operation over other axes reads is packed to L1 and read from there again

Cores of a row of the grid work on neighbours along the fastest grid rank. A tensor that does not vary along it is
the same for all of them: with multicast it is read from DRAM once a row, and the row goes as far as its longest core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod

from eintune.costmodel.counts.memory_accesses import TensorTraffic
from eintune.costmodel.counts.operations import FLOPS_PER_SLOT
from eintune.costmodel.counts.work import work
from eintune.costmodel.machines.machine import CoreGrid, Machine
from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.refusals import Refusal
from eintune.space.schedule.schedule import Schedule

from .core_tiles import CoreTiles


@dataclass(frozen=True)
class CountedPart:
    """One block of a core's program: executions; of one of them the products' FLOP by dtype, the operations of the
    vector unit, and the bytes from and to L1."""

    executions: float
    flops: tuple[tuple[str, float], ...]
    slots: float
    special: float
    l1_bytes: float


@dataclass(frozen=True)
class CoreWork:
    """A plan's work for one core, counted in whole tiles.

    fullest: the values in destination registers where most are taken, with the slots of each. l1_bytes: what L1
    must hold. streams, grid: of `work.Work`. lengths: relative length of the programs along the fastest grid rank,
    empty where all are equal. buffered: loads of a loop arrive while it computes.
    """

    parts: tuple[CountedPart, ...]
    streams: tuple[TensorTraffic, ...]
    grid: tuple[tuple[Rank, int], ...]
    lengths: tuple[float, ...]
    fullest: tuple[tuple[str, int], ...]
    l1_bytes: int
    blocked: bool
    buffered: bool

    @property
    def destination(self) -> int:
        """The most destination slots at once; a tile of 16-bit elements takes one, of 32 bits two."""
        return sum(n for _, n in self.fullest)


@dataclass(frozen=True)
class CoreEstimate:
    """One plan on rows x columns of cores. dram_bytes: read and written in all. limiter: the unit that takes longest:
    "matrix", "vector", "l1", "network" or "dram"."""

    rows: int
    columns: int
    seconds: float
    dram_bytes: float
    limiter: str
    unit_seconds: tuple[tuple[str, float], ...]


def core_work(plan: LoopPlan, schedule: Schedule, machine: Machine, *, blocked: bool) -> CoreWork:
    """Count a plan. `blocked`: intermediates are worked through in sub-blocks."""
    held = CoreTiles(plan, grid_of(machine), blocked)
    counted = work(plan, schedule)
    trips = counted.lengths.trips
    blocks = [plan.root, *(path.loop.body for path in trips.paths)]
    parts = []
    for block, executions in zip(blocks, counted.executions, strict=True):
        slots, special = held.operations(block)
        parts.append(CountedPart(executions, tuple(held.flops(block).items()), slots, special, held.moved(block)))
    lengths: tuple[float, ...] = ()
    if plan.grid and trips.uneven == plan.grid[:1]:
        total = sum(r.iterations for r in counted.lengths.runs)
        lengths = tuple(float(x) for x in total / (total.mean() or 1.0))
    return CoreWork(
        parts=tuple(parts),
        streams=counted.streams,
        grid=counted.grid,
        lengths=lengths,
        fullest=tuple((v.name, n) for v, n in held.fullest().items() if n),
        l1_bytes=held.l1(schedule.stages),
        blocked=blocked,
        buffered=schedule.stages > 1,
    )


def unfit(counted: CoreWork, machine: Machine) -> Refusal | None:
    """Why a core cannot hold the work; None where it can."""
    grid = grid_of(machine)
    if counted.destination > grid.destination_tiles:
        held = "sub-blocked" if counted.blocked else "unblocked"
        return Refusal(
            "destination slots",
            f"{held} intermediates need {counted.destination} at once, a core of {machine.name} has "
            f"{grid.destination_tiles}",
        )
    if counted.l1_bytes > grid.l1_bytes:
        return Refusal("L1", f"needs {counted.l1_bytes} bytes, a core of {machine.name} has {grid.l1_bytes}")
    return None


def price(counted: CoreWork, machine: Machine, rows: int, columns: int) -> CoreEstimate:
    """Seconds on `rows` x `columns` cores. Raises MachineError for a dtype that the matrix unit does not take."""
    grid, clock = grid_of(machine), machine.clock_hz
    along = counted.grid[0][1] if counted.grid else 1
    group = min(columns, along)
    groups = ceil(along / group) * prod(n for _, n in counted.grid[1:])
    rounds = ceil(groups / rows)
    matrix = sum(p.executions * f / machine.tensor_rate(d) for p in counted.parts for d, f in p.flops) * machine.sms
    slots = sum(p.executions * p.slots for p in counted.parts) * FLOPS_PER_SLOT / machine.fma_flops * machine.sms
    special = sum(p.executions * p.special for p in counted.parts) / machine.special_rate * machine.sms
    l1 = sum(p.executions * p.l1_bytes for p in counted.parts) / (grid.l1_bytes_per_clock * clock)
    network = sum(s.requested_bytes for s in counted.streams) / (grid.noc_bytes_per_clock * clock)
    dram_bytes = sum(s.requested_bytes * _reads(s, counted, grid, groups) for s in counted.streams)
    dram = dram_bytes / machine.hbm_bytes_per_second
    compute = max(matrix + slots + special, l1)
    times = rounds * _stretch(counted.lengths, group)
    core = {"matrix": matrix, "vector": slots + special, "l1": l1, "network": network}
    units = {u: s * times for u, s in core.items()} | {"dram": dram}
    busy, moved = compute * times, max(network * times, dram)
    return CoreEstimate(
        rows,
        columns,
        (max(busy, moved) if counted.buffered else busy + moved) + machine.launch_seconds,
        dram_bytes,
        max(units, key=lambda u: units[u]),
        tuple(units.items()),
    )


def grids(machine: Machine) -> Iterator[tuple[int, int]]:
    """Every grid of cores, 1x1 to the whole machine."""
    grid = grid_of(machine)
    yield from ((r, c) for r in range(1, grid.rows + 1) for c in range(1, grid.columns + 1))


def grid_of(machine: Machine) -> CoreGrid:
    """Raises ValueError for a machine that is no grid of cores."""
    if machine.grid is None:
        raise ValueError(f"cores are of a machine with a grid of them, but {machine.name} is a {machine.kind}")
    return machine.grid


def _reads(stream: TensorTraffic, counted: CoreWork, grid: CoreGrid, groups: int) -> int:
    """How often the stream is read from DRAM: by every program, or once for each row of cores that shares it."""
    varies = bool(counted.grid) and counted.grid[0][0] in stream.ranks
    return prod(n for _, n in counted.grid) if varies or not grid.multicast else groups


def _stretch(lengths: tuple[float, ...], group: int) -> float:
    """How much longer rows take than their mean programs, since the cores of a row go through the same tiles."""
    if not lengths:
        return 1.0
    rows = [lengths[i : i + group] for i in range(0, len(lengths), group)]
    return sum(max(row) for row in rows) / len(rows)
