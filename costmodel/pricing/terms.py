"""Work on a machine as arrays: seconds of each unit at its full rate, ready for any calibration.

One row is one launch, one column of it a phase; a candidate is one launch, or several one after the other.
Everything that a calibration does not change is computed once; `Terms.seconds` is then a few array operations for
hundreds of candidates.

The model. R programs share a multiprocessor. In one execution of a phase each needs the matrix unit (or, where
that takes longer, shared memory, from which its operands come), the fp32 lanes and the special-function unit for
u_1..u_3 seconds. Were nothing hidden, R of them took R * sum(u); were all else hidden behind the busiest unit,
R * max(u). A group of four warps hides a share `overlap` of the difference, and G groups on the SM hide
1 - (1 - overlap)^G of it. Loads that a loop pipelines run beside all that and bound it from below; other loads
come on top. A chain of dependent steps costs its latency once, whatever R is. Programs of equal length run in
whole waves; unequal ones are packed as they come, with half of a last program's length idle at the end, and never
faster than the longest one alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from eintune.costmodel.counts.estimate import Resources
from eintune.costmodel.counts.operations import FLOPS_PER_SLOT
from eintune.costmodel.counts.resources import fit_needs, programs_per_sm
from eintune.costmodel.counts.traffic import hbm_bytes
from eintune.costmodel.counts.work import Phase, ProductCost, Work
from eintune.costmodel.machines.machine import Machine

from .calibration import Calibration
from .products import layout

Floats: TypeAlias = np.ndarray[Any, np.dtype[Any]]

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
FOLLOWING = 0.25
"""Seconds of a launch that is queued while another kernel runs, in those of one that is not: the gap between two."""
EVEN = 1.05
"""Programs whose longest is within 5 % of the mean count as equal."""
SHARP = 4.0
"""Exponent of the soft maximum of two limits."""


@dataclass(frozen=True)
class Placement:
    """How a kernel lies on a machine: its resources, programs an SM holds, waves, bytes that reach HBM."""

    resources: Resources
    per_sm: int
    waves: float
    hbm_bytes: float


def place(counted: Work, machine: Machine, resources: Resources | None = None) -> Placement:
    """Place a kernel on a machine; `resources` from a compiler win over predicted ones.

    A kernel that does not fit at all (`resources.illegal`) is placed as if one program fitted.
    """
    need = resources or fit_needs(
        counted.needs, counted.warps, counted.stages, machine, counted.pipelined, counted.specialised
    )
    per_sm = max(programs_per_sm(need, machine), 1)
    slots = per_sm * machine.sms
    moved = hbm_bytes(counted, machine.l2_bytes, slots)
    # Tensor by tensor operators leave results in memory, where fused kernels keep them in registers: what does not
    # fit the cache is written and read again.
    if machine.kind == "cpu":  # operands of whole operators: the caches hold a tile, or memory is read for it
        moved += sum(p.executions * counted.programs * sum(_streamed(p, machine)) for p in counted.phases)
    return Placement(need, per_sm, counted.programs / slots, moved)


def _streamed(phase: Phase, machine: Machine) -> list[int]:
    return [b for b in phase.operand_bytes if b > machine.l2_bytes]


@dataclass(frozen=True)
class Terms:
    """Arrays over candidates (rows), phases and units.

    A row is one launch; `first` is 1 where it is the first of a candidate and 0 where it follows in one.
    units: (rows, phases, units) seconds of one program that has an SM to itself, at full rates. executions, steps,
    pipelined (1 where loads run beside the rest, else 0): (rows, phases). hbm: seconds for all bytes. sms: a number;
    programs, per_sm, groups (of four warps on an SM), longest, ending (relative lengths): (rows,).
    """

    units: Floats
    executions: Floats
    steps: Floats
    waits: Floats
    pipelined: Floats
    hbm: Floats
    programs: Floats
    sms: float
    per_sm: Floats
    groups: Floats
    longest: Floats
    ending: Floats
    first: Floats

    @property
    def count(self) -> int:
        """The number of candidates."""
        return int(self.first.sum())

    def by_candidate(self, launches: Floats) -> Floats:
        """Sums of what launches take, over those of each candidate."""
        if self.first.all():
            return launches
        sums: Floats = np.add.reduceat(launches, np.flatnonzero(self.first), axis=0)
        return sums

    def unit_seconds(self, c: Calibration) -> Floats:
        """(candidates, units) seconds of all launches by unit, each alone and all SMs busy."""
        per_program = (self._scaled(c) * self.executions[:, :, None]).sum(axis=1)
        return self.by_candidate(per_program * (self.programs / self.sms)[:, None])

    def seconds(self, c: Calibration) -> Floats:
        """(candidates,) predicted seconds of all launches."""
        rows = self.programs
        # Launches smaller than the machine leave SMs with fewer programs than would fit, and those run faster, having
        # the units to themselves.
        last = np.minimum(np.maximum(np.ceil(rows / self.sms), 1), self.per_sm)
        slots = self.per_sm * self.sms
        together = self._together(c, self.per_sm)
        # Equal programs end together: a last wave that is not full costs its own time, at its own (lower) crowding,
        # not a share of a whole wave's.
        full = np.floor(rows / slots)
        rest = rows - full * slots
        partial = self._together(c, np.clip(np.ceil(rest / self.sms), 1, self.per_sm))
        even = full * together + np.where(rest > 0, partial, 0.0)
        # Unequal ones fill each gap as it comes. At the end half of the places have nothing left on average, for half
        # of what the last programs take.
        fewer = self._together(c, np.maximum(np.ceil(self.per_sm / 2), 1))
        packed = rows / slots * together + np.where(rows > slots, 0.5 * self.ending * fewer, 0.0)
        # No packing is shorter than the longest item: a causal kernel's last rows started last, say.
        uneven = np.maximum(packed, self.longest * self._together(c, last))
        compute = np.where(self.longest <= EVEN, even, uneven)
        # The second of two kernels is in the queue while the first runs: most of its launch is hidden.
        launch = c.launch_seconds * np.where(self.first > 0, 1.0, FOLLOWING)
        # HBM serves all SMs at once, so it bounds the kernel as a whole, beside the SMs' own time: a roofline with a
        # rounded ridge.
        return self.by_candidate(_soft_max(compute, self.hbm / c.memory_efficiency) + launch)

    def _scaled(self, c: Calibration) -> Floats:
        memory = c.memory_efficiency
        efficiency = np.array([c.tensor_efficiency, c.fma_efficiency, c.special_efficiency, 1.0, memory])
        scaled: Floats = self.units / efficiency
        return scaled

    def _together(self, c: Calibration, running: Floats) -> Floats:
        """Seconds in which `running` programs of one SM finish."""
        # fp32 lanes and special functions are issued by the same schedulers to different pipes, so of one program's
        # elementwise work the longer of the two counts (softly), not their sum. Loads that a loop pipelines do not
        # stand in this line: they are fetched beside it.
        tensor, fma, special, shared, l2 = np.moveaxis(self._scaled(c), 2, 0)
        serial = np.stack([tensor, shared, _soft_max(fma, special), l2 * (1 - self.pipelined)])
        busiest, total = serial.max(axis=0), serial.sum(axis=0)
        # What a group of warps leaves uncovered, each further group covers a share of: they are at different places
        # of their loops, one at a product while another computes weights.
        exposed = (1 - c.overlap) ** (self.groups * running / self.per_sm)
        busy = _soft_max(busiest + exposed[:, None] * (total - busiest), l2 * self.pipelined)
        # Throughput is shared by the programs of an SM; a chain of dependent instructions is waited for by all of
        # them at once, so its latency is paid once.
        phase = running[:, None] * busy + self.steps * c.step_seconds
        seconds: Floats = (phase * self.executions + self.waits * c.load_seconds).sum(axis=1)
        return seconds


def _soft_max(a: Floats, b: Floats) -> Floats:
    """A maximum whose corner is rounded: near the corner both limits are felt (2^(1/4) of them where they meet)."""
    # Relative to the larger one, as a fourth power of small seconds would underflow.
    top = np.maximum(np.maximum(a, b), 1e-30)
    result: Floats = top * ((a / top) ** SHARP + (b / top) ** SHARP) ** (1 / SHARP)
    return result


def terms(
    candidates: Sequence[Work], machine: Machine, placements: Sequence[Sequence[Placement]] | None = None
) -> Terms:
    """Candidates on a machine, in the order given. placements: of the launches of each."""
    # One array over all launches of all candidates, padded to the most phases: executions of 0 make a padded phase
    # cost nothing.
    works = [w for c in candidates for w in c.launches]
    placed = [place(w, machine) for w in works] if placements is None else [p for ps in placements for p in ps]
    width = max((len(w.phases) for w in works), default=1)
    units = np.zeros((len(works), width, len(UNITS)))
    executions, steps, waits, pipelined = (np.zeros((len(works), width)) for _ in range(4))
    for i, (counted, at) in enumerate(zip(works, placed, strict=True)):
        for j, phase in enumerate(counted.phases):
            units[i, j] = _unit_seconds(phase, counted, at, machine)
            executions[i, j] = phase.executions
            steps[i, j] = _steps(phase, counted, machine)
            waits[i, j] = _waits(phase, counted, machine)
            pipelined[i, j] = phase.looped and counted.stages > 1 and machine.kind == "gpu"
    per_sm = np.array([float(p.per_sm) for p in placed])
    return Terms(
        units=units,
        executions=executions,
        steps=steps,
        waits=waits,
        pipelined=pipelined,
        hbm=np.array([p.hbm_bytes / machine.hbm_bytes_per_second for p in placed]),
        programs=np.array([float(w.programs) for w in works]),
        sms=float(machine.sms),
        per_sm=per_sm,
        groups=np.array([n * _groups(w, machine) for n, w in zip(per_sm, works, strict=True)]),
        longest=np.array([w.longest for w in works]),
        ending=np.array([_ending(w, n * machine.sms) for w, n in zip(works, per_sm, strict=True)]),
        first=np.array([float(i == 0) for c in candidates for i in range(1 + len(c.then))]),
    )


def _unit_seconds(phase: Phase, counted: Work, at: Placement, machine: Machine) -> list[float]:
    """Seconds of each of `UNITS` for one execution of one program that has an SM to itself."""
    t, sms = phase.traffic, machine.sms
    if machine.kind == "cpu":
        tensor = sum(p.flops / _rate(p, machine) for p in phase.products)
        cached = sum(b for b in phase.operand_bytes if b <= machine.l2_bytes)
        return [tensor, 0.0, t.special_ops / machine.special_rate, 0.0, cached / machine.l2_bytes_per_second]
    layouts = [layout(p, counted.warps, machine) for p in phase.products]
    copies = max((x.copies for x in layouts), default=1.0)
    # Written and read once an iteration; outside a loop once a program, which does not count.
    spilled = 2.0 * at.resources.spill_bytes * machine.threads(counted.warps) if phase.looped else 0.0
    # what products read counts with them, what is loaded with the L2 cache that it comes from
    read = sum(p.right_bytes + (0 if p.computed else p.left_bytes) for p in phase.products)
    shared = max(t.shared_bytes - read - t.l2_bytes, 0.0) + spilled + sum(x.exchanged for x in layouts)
    # A tile by pointers takes each thread an address computation and a predicate for 16 bytes; by descriptor one
    # thread issues one instruction for the whole tile.
    copied = 0.0 if counted.uses_descriptors and phase.looped else t.l2_bytes / LOAD_BYTES
    # Warps that find no rows of their own repeat elementwise work along with products (`WarpLayout.copies`).
    slots = t.fma_flops * copies + FLOPS_PER_SLOT * LOAD_SLOTS * copied
    return [
        sum(x.seconds for x in layouts),
        slots / machine.fma_flops * sms,
        t.special_ops * copies / machine.special_rate * sms,
        shared / machine.shared_bytes_per_second * sms,
        t.l2_bytes / machine.l2_bytes_per_second * sms,
    ]


def _rate(p: ProductCost, machine: Machine) -> float:
    full = machine.tensor_rate(p.dtype)
    return full if p.rows >= machine.matrix_rows else full * machine.narrow_matrix_fraction


def _steps(phase: Phase, counted: Work, machine: Machine) -> float:
    """Dependent latencies of one execution: operators on a CPU; on a GPU twice as many where a row is reduced
    across warps. Where a pipelined loop hands accumulators on to its next segment, the compiler waits for each matrix
    instruction before the next one (ptxas says so: C7515)."""
    if machine.kind == "cpu":
        return phase.operators
    # A row reduction across warps goes through shared memory, with a barrier on either side.
    layouts = [layout(p, counted.warps, machine) for p in phase.products]
    serial = sum(x.instructions for x in layouts) if phase.divided and counted.stages > 1 else 0.0
    return phase.steps * (CROSSING if any(x.crossing for x in layouts) else 1) + SERIAL_STEPS * serial


def _waits(phase: Phase, counted: Work, machine: Machine) -> float:
    """Loads from global memory that a program waits for, all executions together.

    Without a pipeline a loop waits for each before it is used. With two stages the next tiles are asked for when
    the product that reads their buffer is done, at the end of an iteration: one wait. More stages hide it, once the
    pipeline is full: one wait each time that a loop is entered. Outside loops all loads are in flight at once.
    """
    if machine.kind == "cpu" or not phase.loads:
        return 0.0
    if not phase.looped:
        return 1.0
    if counted.stages < 2:
        return phase.loads * phase.executions
    # A loader of its own asks for tiles as buffers become free, not at the end of an iteration: it needs only two for
    # that.
    return phase.executions * (counted.stages == 2 and not counted.specialised) + phase.entries


def _groups(counted: Work, machine: Machine) -> float:
    """Groups of four warps of one program, those after the first at what they are worth beside it. Groups that share
    the rows of a product wait for each other all the time: they count as one."""
    rows = max(counted.needs.rows / machine.matrix_rows, 1) if machine.group_warps > 1 else math.inf
    groups = min(counted.warps / GROUP_WARPS, rows)
    if counted.specialised:
        return groups * SPECIALISED
    hiding = groups if groups <= 1 else 1 + LOCKSTEP * (groups - 1)
    return hiding * PIPELINED if counted.pipelined else hiding


def _ending(counted: Work, slots: float) -> float:
    """Mean relative length of the programs that start last and fill the machine once."""
    # A profile is in launch order, so what ends last is about what started last.
    share = min(1.0, slots / counted.programs)
    last = max(1, math.ceil(share * len(counted.profile)))
    return sum(counted.profile[-last:]) / last
