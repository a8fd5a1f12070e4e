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

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from eintune.costmodel.counts.estimate import Resources
from eintune.costmodel.counts.work import Work
from eintune.costmodel.machines.machine import Machine
from eintune.host.recent import Recent

from .calibration import Calibration
from .placed_kernel import COLUMNS, UNITS, PlacedKernel

Floats: TypeAlias = np.ndarray[Any, np.dtype[Any]]

FOLLOWING = 0.25
"""Seconds of a launch that is queued while another kernel runs, in those of one that is not: the gap between two."""
EVEN = 1.05
"""Programs whose longest is within 5 % of the mean count as equal."""


@dataclass(frozen=True)
class Terms:
    """Arrays over candidates (rows), phases and units.

    A row is one launch; `first` is 1 where it is the first of a candidate and 0 where it follows in one. units: (rows,
    phases, units) seconds of one program that has an SM to itself, at full rates. executions, steps, waits, pipelined
    (1 where loads run beside the rest, else 0): (rows, phases). hbm: (rows,) seconds for all bytes. each: (rows,)
    programs of an SM. running, groups, weights: (rows, 4) for each number of programs on an SM that `Crowding` has, the
    groups of four warps of so many, and how often it lasts as long as these take.
    """

    units: Floats
    executions: Floats
    steps: Floats
    waits: Floats
    pipelined: Floats
    hbm: Floats
    each: Floats
    running: Floats
    groups: Floats
    weights: Floats
    first: Floats

    @property
    def count(self) -> int:
        """The number of candidates."""
        return int(self.first.sum())

    @classmethod
    def joined(cls, parts: Sequence[Terms]) -> Terms:
        """The rows of several, one after the other; fewer phases are padded with idle ones."""
        width = max(p.executions.shape[1] for p in parts)

        def column(name: str) -> Floats:
            arrays = [getattr(p, name) for p in parts]
            if name in ("units", "executions", "steps", "waits", "pipelined"):
                arrays = [np.pad(a, [(0, 0), (0, width - a.shape[1]), *[(0, 0)] * (a.ndim - 2)]) for a in arrays]
            return np.concatenate(arrays)

        return cls(**{f.name: column(f.name) for f in fields(cls)})

    def by_candidate(self, launches: Floats) -> Floats:
        """Sums of what launches take, over those of each candidate."""
        if self.first.all():
            return launches
        sums: Floats = np.add.reduceat(launches, np.flatnonzero(self.first), axis=0)
        return sums

    def unit_seconds(self, c: Calibration) -> Floats:
        """(candidates, units) seconds of all launches by unit, each alone and all SMs busy."""
        per_program = (self.units / c.efficiencies * self.executions[:, :, None]).sum(axis=1)
        return self.by_candidate(per_program * self.each[:, None])

    def seconds(self, c: Calibration) -> Floats:
        """(candidates,) predicted seconds of all launches."""
        *parts, longest = (self.weights * self._together(c)).T
        # No packing is shorter than the longest item: a causal kernel's last rows started last, say.
        compute = np.maximum(sum(parts), longest)
        # The second of two kernels is in the queue while the first runs: most of its launch is hidden.
        launch = c.launch_seconds * np.maximum(self.first, FOLLOWING)
        # HBM serves all SMs at once, so it bounds the kernel as a whole, beside the SMs' own time: a roofline with a
        # rounded ridge.
        return self.by_candidate(_soft_max(compute, self.hbm / c.memory_efficiency) + launch)

    def _together(self, c: Calibration) -> Floats:
        """(rows, 4) seconds in which `running` programs of one SM finish."""
        # fp32 lanes and special functions are issued by the same schedulers to different pipes, so of one program's
        # elementwise work the longer of the two counts (softly), not their sum. Loads that a loop pipelines do not
        # stand in this line: they are fetched beside it.
        tensor, fma, special, shared, l2 = (self.units / c.efficiencies).transpose(2, 0, 1)
        beside = l2 * self.pipelined
        issued, waited = _soft_max(fma, special), l2 - beside
        busiest = np.maximum(np.maximum(tensor, shared), np.maximum(issued, waited))
        rest = tensor + shared + issued + waited - busiest
        # What a group of warps leaves uncovered, each further group covers a share of: they are at different places
        # of their loops, one at a product while another computes weights.
        exposed = (1 - c.overlap) ** self.groups
        busy = _soft_max(busiest[:, None] + exposed[:, :, None] * rest[:, None], beside[:, None])
        # Throughput is shared by the programs of an SM; a chain of dependent instructions is waited for by all of
        # them at once, so its latency is paid once.
        latency = self.steps * self.executions * c.step_seconds + self.waits * c.load_seconds
        seconds: Floats = self.running * (busy * self.executions[:, None]).sum(axis=2) + latency.sum(axis=1)[:, None]
        return seconds


class Crowding(NamedTuple):
    """What of a launch runs at a time on an SM. For each of four numbers of programs, how often it lasts as long as so
    many take: whole waves, the last wave, the end of unequal ones, and the longest alone. It takes the sum of the first
    three, and at least the last."""

    running: tuple[float, float, float, float]
    weights: tuple[float, float, float, float]

    @classmethod
    def of(cls, counted: Work, at: PlacedKernel, sms: int) -> Crowding:
        """Of a placed kernel at some sizes."""
        programs, per_sm = counted.programs, at.per_sm
        full, rest = divmod(programs, at.slots)
        running = (
            float(per_sm),
            float(max(-(-rest // sms), 1)),
            float(max(-(-per_sm // 2), 1)),
            # Launches smaller than the machine leave SMs with fewer programs than would fit, and those run faster,
            # having the units to themselves.
            float(min(max(-(-programs // sms), 1), per_sm)),
        )
        if counted.longest <= EVEN:
            # Equal programs end together: a last wave that is not full costs its own time, at its own (lower)
            # crowding, not a share of a whole wave's.
            return cls(running, (float(full), float(rest > 0), 0.0, 0.0))
        # Unequal ones fill each gap as it comes. At the end half of the places have nothing left on average, for half
        # of what the last programs take.
        ending = counted.lengths.ending(counted.options.reverse, at.slots) if programs > at.slots else 0.0
        return cls(running, (programs / at.slots, 0.0, 0.5 * ending, counted.longest))


def _soft_max(a: Floats, b: Floats) -> Floats:
    """A maximum whose corner is rounded: the fourth root of the sum of fourth powers. Near the corner both limits are
    felt (2^(1/4) of them where they meet)."""
    # Relative to the larger one, as a fourth power of small seconds would underflow.
    top = np.maximum(a, b)
    share = np.minimum(a, b) / np.maximum(top, 1e-30)
    share *= share
    share *= share
    share += 1.0
    result: Floats = top * np.sqrt(np.sqrt(share))
    return result


def terms(candidates: Sequence[Work], machine: Machine, resources: Sequence[Resources | None] | None = None) -> Terms:
    """Candidates on a machine, in the order given. resources: as `placed_kernels`."""
    return terms_of(candidates, placed_kernels(candidates, machine, resources), machine)


def placed_kernels(
    candidates: Sequence[Work], machine: Machine, resources: Sequence[Resources | None] | None = None
) -> list[list[PlacedKernel]]:
    """The launches of each candidate. resources: from a compiler, of a program of several launches its first's."""
    every = resources or [None] * len(candidates)
    # A compiler's answer is about one kernel; the launches after it are small, and predicted.
    return [
        [_placed(c, machine, r), *[_placed(w, machine, None) for w in c.then]]
        for c, r in zip(candidates, every, strict=True)
    ]


def _placed(counted: Work, machine: Machine, resources: Resources | None) -> PlacedKernel:
    # What a kernel that is priced again and again comes to is made once. It keeps what the key has the identity of.
    o = counted.options
    of_schedule = o.warps, o.stages, o.uses_descriptors, o.pipelined, o.specialised
    key = id(counted.blocks), id(counted.needs), id(machine), of_schedule, resources
    found = _known.get(key)
    if found is None:
        found = _known[key] = PlacedKernel(counted.blocks, counted.needs, o, machine, resources)
    return found


_known: Recent[Hashable, PlacedKernel] = Recent(1024)


def terms_of(candidates: Sequence[Work], placed: Sequence[Sequence[PlacedKernel]], machine: Machine) -> Terms:
    """As `terms`, of kernels that are placed."""
    # One array over all launches of all candidates, padded to the most phases: executions of 0 make a padded phase
    # cost nothing.
    launches = [pair for c, ps in zip(candidates, placed, strict=True) for pair in zip((c, *c.then), ps, strict=True)]
    width = max((len(w.blocks) for w, _ in launches), default=1)
    idle = [0.0] * COLUMNS
    blocks = [at.rows(w) + idle * (width - len(w.blocks)) for w, at in launches]
    by_block = np.array(blocks).reshape(len(launches), width, COLUMNS)
    own = [_launch_row(w, at, machine) for w, at in launches]
    by_launch = np.array(own)
    units = len(UNITS)
    return Terms(
        units=by_block[:, :, :units],
        executions=by_block[:, :, units],
        steps=by_block[:, :, units + 1],
        waits=by_block[:, :, units + 2],
        pipelined=by_block[:, :, units + 3],
        hbm=by_launch[:, 0],
        each=by_launch[:, 1],
        running=by_launch[:, 2:6],
        groups=by_launch[:, 6:10],
        weights=by_launch[:, 10:14],
        first=np.array([float(i == 0) for c in candidates for i in range(1 + len(c.then))]),
    )


def _launch_row(counted: Work, at: PlacedKernel, machine: Machine) -> list[float]:
    """Its numbers in `Terms`, but for those of phases."""
    running, weights = Crowding.of(counted, at, machine.sms)
    groups = [at.groups * n for n in running]
    hbm = at.hbm_bytes(counted) / machine.hbm_bytes_per_second
    return [hbm, counted.programs / machine.sms, *running, *groups, *weights]
