"""The work of one kernel, counted from its plan: hardware-free, small, and all that a time estimate needs.

A plan is walked once (`CountedProgram`), whatever its sizes are; its work at some sizes is then arithmetic on a few
numbers. Pricing a `Work` on a machine is arithmetic too, so candidates are counted once and priced again after every
calibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import LoopPlan, Program
from eintune.space.plan.repair import usual_sizes, usually
from eintune.space.schedule.schedule import Schedule

from .block_work import BlockWork, block_works
from .estimate import Traffic
from .memory_accesses import MemoryAccesses, TensorTraffic
from .program_lengths import ProgramLengths
from .resources import ResourceNeeds, needs, regions
from .trips import TripCounts, tile_step

HBM_BYTE = Traffic(hbm_bytes=1.0)


@dataclass(frozen=True)
class KernelOptions:
    """What a schedule says of a kernel beside its plan. reverse: the order in which programs start. uses_descriptors:
    tiles are loaded by tensor descriptor. pipelined: a loop's last product is. specialised: one group of warps loads,
    `warps` compute."""

    warps: int
    stages: int
    reverse: bool
    uses_descriptors: bool
    pipelined: bool
    specialised: bool

    @classmethod
    def of(cls, schedule: Schedule) -> KernelOptions:
        """Those of a schedule."""
        return cls(
            warps=schedule.warps,
            stages=schedule.stages,
            reverse=schedule.order == "reverse",
            uses_descriptors=schedule.loads != "pointer" or schedule.is_specialised,
            pipelined=schedule.pipelined == "product",
            specialised=schedule.is_specialised,
        )


@dataclass(frozen=True)
class Phase:
    """A block of a program in one segment, at some sizes.

    executions: that a program has. entries: how often a program enters the segment, each time filling the loop's
    pipeline anew. traffic: of one execution of one program (HBM is counted by `Work.streams`).
    """

    block: BlockWork
    executions: float
    entries: float
    traffic: Traffic


@dataclass(frozen=True)
class Work:
    """All counts of one kernel launch, and of those that follow it (`then`).

    blocks: the root block, then each path of segments. needs: of one program. grid: (rank, tiles), fastest varying
    first. executions, entries: of each block, as `Phase` has them. moved: bytes of each access of global memory, by one
    execution. lengths: of programs beside each other. options: of the schedule; all else depends on the plan and its
    sizes. then: later launches of one program. hbm_bytes: by cache and programs that run at a time, once found.
    """

    blocks: tuple[BlockWork, ...]
    needs: ResourceNeeds
    programs: int
    grid: tuple[tuple[Rank, int], ...]
    executions: tuple[float, ...]
    entries: tuple[float, ...]
    moved: tuple[float, ...]
    streams: tuple[TensorTraffic, ...]
    lengths: ProgramLengths
    options: KernelOptions
    then: tuple[Work, ...] = ()
    hbm_bytes: dict[tuple[int, int], float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def launches(self) -> tuple[Work, ...]:
        """All launches of the program, each by itself, in order."""
        return (replace(self, then=()), *self.then) if self.then else (self,)

    @property
    def longest(self) -> float:
        """The longest program over the mean."""
        return self.lengths.longest

    @property
    def profile(self) -> tuple[float, ...]:
        """Relative length (mean 1) of the longest program in each of some even bins of the order in which programs
        start."""
        return self.lengths.profile(self.options.reverse)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The blocks at these sizes."""
        return tuple(
            Phase(
                b, n, entries, Traffic.total([(b.traffic, 1.0), *((levels, self.moved[i]) for i, levels in b.accesses)])
            )
            for b, n, entries in zip(self.blocks, self.executions, self.entries, strict=True)
        )

    def under(self, schedule: Schedule) -> Work:
        """The same plan's work under a schedule that differs in warps, what they do, stages, order, loads or pipelined
        products only: no counting again."""
        return self._under(KernelOptions.of(schedule))

    def _under(self, options: KernelOptions) -> Work:
        return replace(self, options=options, then=tuple(w._under(options) for w in self.then))

    @property
    def traffic(self) -> Traffic:
        """All programs together; HBM at its least, each tensor once."""
        return Traffic.total(self._parts())

    def _parts(self) -> Iterator[tuple[Traffic, float]]:
        """What the traffic is the sum of, each with how often."""
        yield HBM_BYTE, sum(s.total_bytes for s in self.streams)
        for b, executions in zip(self.blocks, self.executions, strict=True):
            yield b.traffic, executions * self.programs
            for n, levels in b.accesses:
                yield levels, executions * self.programs * self.moved[n]
        for w in self.then:
            yield from w._parts()


class CountedProgram:
    """A program that is counted once, for any sizes: its plans may have sizes that are no numbers."""

    def __init__(self, program: LoopPlan | Program, schedule: Schedule) -> None:
        options = KernelOptions.of(schedule)
        self.kernels = tuple(CountedKernel(plan, schedule, options) for plan in Program.of(program).kernels)

    def at(self, sizes: Mapping[Rank, int]) -> Work:
        """The work at some sizes, of which those that the program knows need not be given. Raises UnknownSize for one
        that is missing."""
        first, *then = [k.at(sizes) for k in self.kernels]
        return replace(first, then=tuple(then)) if then else first


class CountedKernel:
    """One kernel of a program. blocks, needs, options: as `Work` has them."""

    def __init__(self, plan: LoopPlan, schedule: Schedule, options: KernelOptions) -> None:
        self._sizes = plan.sizes
        self._repairing = plan if plan.repairs else None
        if plan.repairs:  # what it does where there is nothing to repair
            plan = usually(plan)
        self._trips = TripCounts(plan)
        self._memory = MemoryAccesses(plan, regions(plan))
        self.blocks = block_works(plan, schedule, self._memory, self._trips.paths)
        self.needs = needs(plan)
        self.options = options
        self._steps = {r: tile_step(plan, r) for r in plan.grid}
        tiled = [r for r in plan.grid if plan.roles[r].tile]
        self._reversible = tiled[-1] if tiled else None
        count = len(self._memory.accesses)
        self._users = [[i for i, b in enumerate(self.blocks) if n in dict(b.accesses)] for n in range(count)]
        """The blocks of each access."""
        self._efforts = [(b.traffic.effort, [n for n, _ in b.accesses]) for b in self.blocks]
        """Of each block without global memory, of which each byte counts once; and its accesses."""

    def at(self, sizes: Mapping[Rank, int]) -> Work:
        """As `CountedProgram.at`."""
        known = self._sizes.numbers_at(sizes)
        if self._repairing:
            known = usual_sizes(self._repairing, known)
        counts = {r: -(-known[r] // step) for r, step in self._steps.items()}
        programs = prod(counts.values())
        runs = self._trips.at(known, self._trips.whole_grid(counts))
        executions = (1.0, *[r.mean for r in runs])
        found = self._memory.at(known)
        moved = found.moved
        asked = [sum([executions[i] for i in users]) for users in self._users]
        efforts = [effort + sum([moved[n] for n in loaded]) for effort, loaded in self._efforts]
        return Work(
            blocks=self.blocks,
            needs=self.needs,
            programs=programs,
            grid=tuple(counts.items()),
            executions=executions,
            entries=(1.0, *[r.entries for r in runs]),
            moved=tuple(moved),
            streams=self._memory.streams_at(found, asked, counts),
            lengths=ProgramLengths(self._trips, known, efforts, runs, counts, programs, self._reversible),
            options=self.options,
        )


def work(plan: LoopPlan | Program, schedule: Schedule) -> Work:
    """Count a plan's or a program's work at its own sizes; `CountedProgram` serves other sizes, `Work.under` other
    schedules of the plan. Raises UnknownSize for a plan whose sizes are no numbers."""
    return CountedProgram(plan, schedule).at({})
