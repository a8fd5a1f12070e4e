"""Work on a machine as arrays: seconds of each unit at its full rate, ready for any calibration.

One row is one candidate, one column of it a phase. Everything that a calibration does not change is computed
once; `Terms.seconds` is then a few array operations for hundreds of candidates.

The model. R programs share a multiprocessor. In one execution of a phase each needs its units for u_1..u_k
seconds (matrix, fp32 lanes, special functions, shared memory, L2). Were nothing hidden, R of them took
R * sum(u); were all else hidden behind the busiest unit, R * max(u). A group of four warps hides a share `overlap`
of the difference, and G groups on the SM hide 1 - (1 - overlap)^G of it. A chain of dependent steps costs
latency once, whatever R is. Programs of equal length run in whole waves; unequal ones are packed as they come,
with half of a last program's length idle at the end, and never faster than the longest one alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .estimate import Resources
from .machine import Machine
from .resources import fit_needs, programs_per_sm
from .traffic import hbm_bytes
from .work import Phase, Work

if TYPE_CHECKING:
    from .calibration import Calibration

Floats: TypeAlias = np.ndarray[Any, np.dtype[Any]]

UNITS = ("tensor", "fma", "special", "shared", "l2")
GROUP_WARPS = 4
"""A multiprocessor has four schedulers: four warps keep it busy."""
EVEN = 1.05
"""Programs whose longest is within 5 % of the mean count as equal."""
SHARP = 4.0
"""Exponent of the soft maximum of compute time and HBM time."""


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
    need = resources or fit_needs(counted.needs, counted.warps, machine)
    per_sm = max(programs_per_sm(need, machine), 1)
    slots = per_sm * machine.sms
    moved = hbm_bytes(counted, machine.l2_bytes, slots)
    if machine.kind == "cpu":  # operands of whole operators: the caches hold a tile, or memory is read for it
        moved += sum(p.executions * counted.programs * sum(_streamed(p, machine)) for p in counted.phases)
    return Placement(need, per_sm, counted.programs / slots, moved)


def _streamed(phase: Phase, machine: Machine) -> list[int]:
    return [b for b in phase.operand_bytes if b > machine.l2_bytes]


@dataclass(frozen=True)
class Terms:
    """Arrays over candidates (rows), phases and units.

    units: (rows, phases, units) seconds of one program on a whole SM at full rates. executions, steps: (rows,
    phases). share: the machine's whole time over one program's; the rest as in the module's text.
    """

    units: Floats
    executions: Floats
    steps: Floats
    hbm: Floats
    programs: Floats
    sms: float
    per_sm: Floats
    groups: Floats
    longest: Floats
    ending: Floats

    @property
    def count(self) -> int:
        """The number of candidates."""
        return len(self.programs)

    def unit_seconds(self, c: Calibration) -> Floats:
        """(rows, units) seconds of the whole launch by unit, each alone and all SMs busy."""
        per_program = (self._scaled(c) * self.executions[:, :, None]).sum(axis=1)
        return per_program * (self.programs / self.sms)[:, None]

    def seconds(self, c: Calibration) -> Floats:
        """(rows,) predicted seconds of the launch."""
        rows = self.programs
        last = np.minimum(np.maximum(np.ceil(rows / self.sms), 1), self.per_sm)
        slots = self.per_sm * self.sms
        together = self._together(c, self.per_sm)
        full = np.floor(rows / slots)
        rest = rows - full * slots
        partial = self._together(c, np.clip(np.ceil(rest / self.sms), 1, self.per_sm))
        even = full * together + np.where(rest > 0, partial, 0.0)
        packed = rows / slots * together + np.where(rows > slots, 0.5 * self.ending * together, 0.0)
        uneven = np.maximum(packed, self.longest * self._together(c, last))
        compute = np.where(self.longest <= EVEN, even, uneven)
        memory = self.hbm / c.memory_efficiency
        top = np.maximum(compute, memory)
        with np.errstate(invalid="ignore"):
            soft = top * ((compute / top) ** SHARP + (memory / top) ** SHARP) ** (1 / SHARP)
        return np.where(top > 0, soft, 0.0) + c.launch_seconds

    def _scaled(self, c: Calibration) -> Floats:
        memory = c.memory_efficiency
        return self.units / np.array([c.tensor_efficiency, c.fma_efficiency, c.special_efficiency, memory, memory])

    def _together(self, c: Calibration, running: Floats) -> Floats:
        """Seconds in which `running` programs of one SM finish."""
        scaled = self._scaled(c)
        busiest, total = scaled.max(axis=2), scaled.sum(axis=2)
        groups = self.groups * running / self.per_sm
        open_share = (1 - c.overlap) ** groups
        busy = running[:, None] * (busiest + open_share[:, None] * (total - busiest))
        phase = busy + self.steps * c.step_seconds
        return (phase * self.executions).sum(axis=1)


def terms(works: Sequence[Work], machine: Machine, placements: Sequence[Placement] | None = None) -> Terms:
    """Candidates on a machine, in the order given."""
    placed = list(placements) if placements is not None else [place(w, machine) for w in works]
    width = max((len(w.phases) for w in works), default=1)
    units = np.zeros((len(works), width, len(UNITS)))
    executions, steps = np.zeros((len(works), width)), np.zeros((len(works), width))
    for i, (counted, at) in enumerate(zip(works, placed, strict=True)):
        for j, phase in enumerate(counted.phases):
            units[i, j] = _unit_seconds(phase, counted, at, machine)
            executions[i, j] = phase.executions
            steps[i, j] = _steps(phase, counted, machine)
    per_sm = np.array([float(p.per_sm) for p in placed])
    return Terms(
        units=units,
        executions=executions,
        steps=steps,
        hbm=np.array([p.hbm_bytes / machine.hbm_bytes_per_second for p in placed]),
        programs=np.array([float(w.programs) for w in works]),
        sms=float(machine.sms),
        per_sm=per_sm,
        groups=np.array([n * max(w.warps, 1) / GROUP_WARPS for n, w in zip(per_sm, works, strict=True)]),
        longest=np.array([w.longest for w in works]),
        ending=np.array([_ending(w, n * machine.sms) for w, n in zip(works, per_sm, strict=True)]),
    )


def _unit_seconds(phase: Phase, counted: Work, at: Placement, machine: Machine) -> list[float]:
    """Seconds of each of `UNITS` for one execution of one program that has an SM to itself."""
    t, sms = phase.traffic, machine.sms
    tensor = sum(p.flops / _rate(p.dtype, p.rows, machine) for p in phase.products)
    if machine.kind == "cpu":
        cached = sum(b for b in phase.operand_bytes if b <= machine.l2_bytes)
        return [tensor, 0.0, t.special_ops / machine.special_rate, 0.0, cached / machine.l2_bytes_per_second]
    spilled = 2.0 * at.resources.spill_bytes * machine.threads(counted.warps) if phase.looped else 0.0
    return [
        tensor * sms,
        t.fma_flops / machine.fma_flops * sms,
        t.special_ops / machine.special_rate * sms,
        (t.shared_bytes + spilled) / machine.shared_bytes_per_second * sms,
        t.l2_bytes / machine.l2_bytes_per_second * sms,
    ]


def _rate(dtype: str, rows: int, machine: Machine) -> float:
    full = machine.tensor_rate(dtype)
    return full if rows >= machine.matrix_rows else full * machine.narrow_matrix_fraction


def _steps(phase: Phase, counted: Work, machine: Machine) -> float:
    """Dependent latencies of one execution: operators on a CPU; on a GPU twice as many where the rows of a product
    do not go round the warp groups, so that a row is reduced across warps."""
    if machine.kind == "cpu":
        return phase.operators
    groups = max(counted.warps / machine.group_warps, 1)
    crossing = any(p.rows < machine.matrix_rows * groups for p in phase.products)
    return phase.steps * (2 if crossing else 1)


def _ending(counted: Work, slots: float) -> float:
    """Mean relative length of the programs that start last and fill the machine once."""
    share = min(1.0, slots / counted.programs)
    last = max(1, math.ceil(share * len(counted.profile)))
    return sum(counted.profile[-last:]) / last
