"""A kernel on a machine: seconds of each unit at its full rate, as far as neither sizes nor a calibration change them.

What sizes change is linear in it: the bytes that a block's accesses of global memory move, and how often it runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eintune.costmodel.counts.block_work import BlockWork, ProductCost
from eintune.costmodel.counts.estimate import Resources
from eintune.costmodel.counts.operations import FLOPS_PER_SLOT
from eintune.costmodel.counts.resources import ResourceNeeds, fit_needs, programs_per_sm
from eintune.costmodel.counts.traffic import hbm_bytes
from eintune.costmodel.counts.work import KernelOptions, Work
from eintune.costmodel.machines.machine import Machine

from .products import WarpLayout, layout

UNITS = ("tensor", "fma", "special", "shared", "l2")
GROUP_WARPS = 4
"""A multiprocessor has four schedulers: four warps keep it busy."""
LOCKSTEP = 0.5
"""Groups of one program wait for each other at every tile, so a further one hides half of what a program would."""
CROSSING = 4
SERIAL_STEPS = 0.6
"""Latency of one matrix instruction that is waited for, in steps."""
LOAD_SLOTS = 4
"""Issue slots of a thread's load: the copy, its 64-bit address, its filter. A tensor descriptor takes none."""
LOAD_BYTES = 16
"""Of one thread's load."""
PIPELINED = 1.2
"""What a group with a pipelined product hides, in groups: it works beside its own product, not only beside others'."""
SPECIALISED = 3.2
"""What a group of specialised warps hides, in groups: it waits for tiles only, and its last product is pipelined.
Fitted to 83 such kernels of five problems measured on the H200; of 377 of 19 problems that were measured there since,
medians of predicted over measured are 0.81 to 1.18."""


COLUMNS = len(UNITS) + 4
"""Numbers of a block in `PlacedKernel.rows`: seconds of each unit, executions, steps, waits, and whether loads are
pipelined."""


@dataclass(frozen=True)
class Placement:
    """How a kernel lies on a machine: its resources, programs an SM holds, waves, bytes that reach HBM."""

    resources: Resources
    per_sm: int
    waves: float
    hbm_bytes: float


class _BlockSeconds(NamedTuple):
    """One execution of a block by a program that has an SM to itself.

    tensor, special, fma, l2: seconds, without what the accesses of global memory take. fma_per_byte: of L2. accesses:
    by number, with the bytes of shared memory beside those of L2 for each byte moved. shared_bytes: that the block
    moves in shared memory without what products read, which counts with them; more_shared_bytes: beside those. steps:
    dependent latencies. waits: for loads, in an execution, each time that the block is entered, and once. pipelined: 1
    where loads run beside the rest, else 0.
    """

    tensor: float
    special: float
    fma: float
    fma_per_byte: float
    l2: float
    accesses: tuple[tuple[int, float], ...]
    shared_bytes: float
    more_shared_bytes: float
    steps: float
    waits: tuple[float, float, float]
    pipelined: float


class PlacedKernel:
    """One kernel under a schedule's options on a machine, in whatever order its programs start. blocks, needs,
    options: as `Work` has them. resources: from a compiler; predicted by default.

    A kernel that does not fit at all (`resources.illegal`) is placed as if one program fitted. Raises MachineError
    where the machine has no unit for a product's dtype.
    """

    def __init__(
        self,
        blocks: Sequence[BlockWork],
        needs: ResourceNeeds,
        options: KernelOptions,
        machine: Machine,
        resources: Resources | None = None,
    ) -> None:
        self.blocks, self.needs, self.machine, self._options = blocks, needs, machine, options
        self.resources = resources or fit_needs(
            needs, options.warps, options.stages, machine, options.pipelined, options.specialised
        )
        self.per_sm = max(programs_per_sm(self.resources, machine), 1)
        self.groups = _groups(needs, options, machine)
        """Of four warps of one program."""
        self.slots = self.per_sm * machine.sms
        """Programs that run at a time."""
        made = self._on_cpu if machine.kind == "cpu" else self._on_gpu
        self._blocks = [made(b) for b in blocks]
        # On a CPU operands of whole operators are counted, not tiles that are loaded.
        moves = 0.0 if machine.kind == "cpu" else float(machine.sms)
        self._shared_seconds = moves / machine.shared_bytes_per_second if moves else 0.0
        self._l2_seconds = moves / machine.l2_bytes_per_second
        # Tensor by tensor operators leave results in memory, where fused kernels keep them in registers: what does not
        # fit the cache is written and read again.
        self._streamed = [
            sum(n for n in b.operand_bytes if n > machine.l2_bytes) if machine.kind == "cpu" else 0 for b in blocks
        ]

    def hbm_bytes(self, counted: Work) -> float:
        """Bytes that reach HBM."""
        moved = hbm_bytes(counted, self.machine.l2_bytes, self.slots)
        if any(self._streamed):
            moved += sum(n * b * counted.programs for n, b in zip(counted.executions, self._streamed, strict=True))
        return moved

    def placement(self, counted: Work) -> Placement:
        """Of the kernel at some sizes."""
        return Placement(self.resources, self.per_sm, counted.programs / self.slots, self.hbm_bytes(counted))

    def rows(self, counted: Work) -> list[float]:
        """COLUMNS numbers of each block, at some sizes."""
        found: list[float] = []
        moved = counted.moved
        for b, executions, entries in zip(self._blocks, counted.executions, counted.entries, strict=True):
            l2, shared = 0.0, b.shared_bytes
            for n, beside in b.accesses:
                l2 += moved[n]
                shared += moved[n] * beside
            each, entered, once = b.waits
            found += (
                b.tensor,
                b.fma + b.fma_per_byte * l2,
                b.special,
                (max(shared, 0.0) + b.more_shared_bytes) * self._shared_seconds,
                b.l2 + l2 * self._l2_seconds,
                executions,
                b.steps,
                each * executions + entered * entries + once,
                b.pipelined,
            )
        return found

    def _on_cpu(self, b: BlockWork) -> _BlockSeconds:
        machine = self.machine
        cached = sum(n for n in b.operand_bytes if n <= machine.l2_bytes)
        return _BlockSeconds(
            tensor=sum(p.flops / _rate(p, machine) for p in b.products),
            special=b.traffic.special_ops / machine.special_rate,
            fma=0.0,
            fma_per_byte=0.0,
            l2=cached / machine.l2_bytes_per_second,
            accesses=(),
            shared_bytes=0.0,
            more_shared_bytes=0.0,
            steps=b.operators,
            waits=(0.0, 0.0, 0.0),
            pipelined=0.0,
        )

    def _on_gpu(self, b: BlockWork) -> _BlockSeconds:
        machine, options = self.machine, self._options
        sms = machine.sms
        layouts = [layout(p, options.warps, machine) for p in b.products]
        # Warps that find no rows of their own repeat elementwise work along with products (`WarpLayout.copies`).
        copies = max((x.copies for x in layouts), default=1.0)
        # Written and read once an iteration; outside a loop once a program, which does not count.
        spilled = 2.0 * self.resources.spill_bytes * machine.threads(options.warps) if b.looped else 0.0
        # what products read counts with them, what is loaded with the L2 cache that it comes from
        read = sum(p.right_bytes + (0 if p.computed else p.left_bytes) for p in b.products)
        # A tile by pointers takes each thread an address computation and a predicate for 16 bytes; by descriptor one
        # thread issues one instruction for the whole tile.
        copied = 0.0 if options.uses_descriptors and b.looped else FLOPS_PER_SLOT * LOAD_SLOTS / LOAD_BYTES
        return _BlockSeconds(
            tensor=sum(x.seconds for x in layouts),
            special=b.traffic.special_ops * copies / machine.special_rate * sms,
            fma=b.traffic.fma_flops * copies / machine.fma_flops * sms,
            fma_per_byte=copied / machine.fma_flops * sms,
            l2=0.0,
            accesses=tuple((n, levels.shared_bytes - levels.l2_bytes) for n, levels in b.accesses),
            shared_bytes=b.traffic.shared_bytes - read,
            more_shared_bytes=spilled + sum(x.exchanged for x in layouts),
            steps=_steps(b, layouts, options),
            waits=_waits(b, options),
            pipelined=float(b.looped and options.stages > 1 and machine.kind == "gpu"),
        )


def place(counted: Work, machine: Machine, resources: Resources | None = None) -> Placement:
    """Place a kernel on a machine; `resources` from a compiler win over predicted ones."""
    return PlacedKernel(counted.blocks, counted.needs, counted.options, machine, resources).placement(counted)


def _rate(p: ProductCost, machine: Machine) -> float:
    full = machine.tensor_rate(p.dtype)
    return full if p.rows >= machine.matrix_rows else full * machine.narrow_matrix_fraction


def _steps(b: BlockWork, layouts: Sequence[WarpLayout], options: KernelOptions) -> float:
    """Dependent latencies of one execution on a GPU, twice as many where a row is reduced across warps. Where a
    pipelined loop hands accumulators on to its next segment, the compiler waits for each matrix instruction before the
    next one (ptxas says so: C7515)."""
    # A row reduction across warps goes through shared memory, with a barrier on either side.
    serial = sum(x.instructions for x in layouts) if b.divided and options.stages > 1 else 0.0
    return b.steps * (CROSSING if any(x.crossing for x in layouts) else 1) + SERIAL_STEPS * serial


def _waits(b: BlockWork, options: KernelOptions) -> tuple[float, float, float]:
    """Loads from global memory that a program waits for: in each execution, each time that the block is entered, once.

    Without a pipeline a loop waits for each before it is used. With two stages the next tiles are asked for when
    the product that reads their buffer is done, at the end of an iteration: one wait. More stages hide it, once the
    pipeline is full: one wait each time that a loop is entered. Outside loops all loads are in flight at once.
    """
    if not b.loads:
        return 0.0, 0.0, 0.0
    if not b.looped:
        return 0.0, 0.0, 1.0
    if options.stages < 2:
        return float(b.loads), 0.0, 0.0
    # A loader of its own asks for tiles as buffers become free, not at the end of an iteration: it needs only two for
    # that.
    return float(options.stages == 2 and not options.specialised), 1.0, 0.0


def _groups(needs: ResourceNeeds, options: KernelOptions, machine: Machine) -> float:
    """Groups of four warps of one program, those after the first at what they are worth beside it. Groups that share
    the rows of a product wait for each other all the time: they count as one."""
    rows = max(needs.rows / machine.matrix_rows, 1) if machine.group_warps > 1 else math.inf
    groups = min(options.warps / GROUP_WARPS, rows)
    if options.specialised:
        return groups * SPECIALISED
    hiding = groups if groups <= 1 else 1 + LOCKSTEP * (groups - 1)
    return hiding * PIPELINED if options.pipelined else hiding
