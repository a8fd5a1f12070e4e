"""How the programs of specialised warps come by their work where data says how long each takes.

Few programs are launched, as many as run at once. The group that loads counts in a number in memory which of all
programs it takes next (one atomic addition, made while it still loads for the one before), and hands that on to the
groups that compute, with what it has read of where loops end. So nobody waits for a long program, and what a program
starts with is loaded while the one before it is computed. The counter is a workspace; a kernel that runs before
clears it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eintune.kernels.emit.source_lines import Names
from eintune.space.plan.bounds import numbers
from eintune.space.plan.plan import LoopPlan, Program
from eintune.space.plan.values import Load, Value
from eintune.space.plan.warp_specialisation import is_divided
from eintune.space.schedule.schedule import Schedule

from .shared_tiles import barriers

COUNTER = "TAKEN"
"""What the counter is called, unless a tensor has that name."""
PLACES = 2
"""Programs that may be handed on before the first of them is taken: the depth of the queue."""
LAYOUT = "gl.BlockedLayout([1], [32], [{}], [0])"
"""The layout of one number that all threads of `{}` warps hold."""


def varies(plan: LoopPlan) -> bool:
    """Whether the length of a program depends on data: some loop of the plan is bounded by a number from memory."""
    return any(True for loop in plan.loops() for end in loop.ends for _ in numbers(end))


def counters(program: Program, schedule: Schedule) -> tuple[str | None, ...]:
    """For each kernel of a program, the name of the counter that its programs are taken by; None where each is
    launched, or given its work beforehand. The first kernel clears the counters, where its warps are alike."""
    taken = Names({*program.inputs, *program.outputs, *program.workspaces})
    # Something must clear a counter before each launch. Kernels of a sequence run in order, so the first one can, if
    # it is an ordinary one: one with a queue of its own has begun to count when its first programs run.
    divided = [schedule.is_specialised and is_divided(k) for k in program.kernels]
    queued = (own and not divided[0] and varies(k) for own, k in zip(divided, program.kernels, strict=True))
    return tuple(taken.fresh(COUNTER) if wanted else None for wanted in queued)


@dataclass(frozen=True)
class WorkQueue:
    """The programs of one kernel as they are taken.

    counter: the variable of the tensor that counts. numbers: what else is handed on, integers that the group that loads
    has read. groups: that compute, of `warps` warps each; loader_warps: of the one that loads. Then the names of the
    buffer and of its barriers.
    """

    counter: str
    numbers: tuple[Value, ...]
    groups: int
    warps: int
    loader_warps: int
    tiles: str
    full: str
    empty: str

    @classmethod
    def of(cls, plan: LoopPlan, counter: str, groups: int, warps: int, loader_warps: int, names: Names) -> WorkQueue:
        """The queue of a plan; `names` gives out what its parts are called."""
        found = [names.fresh(f"work{part}") for part in ("", "_full", "_empty")]
        return cls(counter, handed_on(plan), groups, warps, loader_warps, *found)

    @property
    def names(self) -> list[str]:
        """The kernel's variables of the buffer and its barriers."""
        return [self.tiles, self.full, self.empty]

    def allocation(self) -> Iterator[str]:
        """The statements that make the buffer and its barriers."""
        # Numbers of one place do not lie side by side but `PLACES` apart, so that an index is `visit % PLACES` plus a
        # constant.
        count = PLACES * (1 + len(self.numbers))
        # Plain words without a swizzle: single integers are written and read by threads, not by TMA.
        layout = "gl.SwizzledSharedLayout(1, 1, 1, [0])"
        yield f"{self.tiles} = gl.allocate_shared_memory(gl.int32, [{count}, 1], {layout})"
        yield from barriers(self.full, self.empty, PLACES, self.groups)

    def hand_on(self, texts: Sequence[str]) -> Iterator[str]:
        """The loading group's statements: `program`, and the numbers as so many texts (none after the last one)."""
        # The parity of the fill before: passes at once the first time round, later waits until all groups took the
        # numbers that still stand in this place.
        yield f"mbarrier.wait({self.empty}.index({self._place(0)}), {self._phase} ^ 1)"
        for n, text in enumerate(["program", *texts]):
            # Tiles of one element: shared memory is written and read as tiles only.
            one = f"gl.full([1], {text}, gl.int32, {LAYOUT.format(self.loader_warps)})"
            yield f"{self.tiles}.index({self._at(n)}).store({one})"
        # These are ordinary stores, not copies by TMA, so no bytes are expected: the arrival alone says that the
        # place is full, and its release makes the stores before it visible to whoever waits.
        yield f"mbarrier.arrive({self.full}.index({self._place(0)}), count=1)"

    def take(self, variables: Sequence[str]) -> Iterator[str]:
        """A computing group's statements: `program`, and the numbers in so many variables."""
        yield f"mbarrier.wait({self.full}.index({self._place(0)}), {self._phase})"
        for n, name in enumerate(["program", *variables]):
            # A maximum over the one element makes a scalar of the tile.
            yield f"{name} = gl.max({self.tiles}.index({self._at(n)}).load({LAYOUT.format(self.warps)}), 0)"
        # Given back before the program is computed, not after: the numbers are in registers now, and the loader may
        # hand on the one after next.
        yield f"mbarrier.arrive({self.empty}.index({self._place(0)}), count=1)"

    def _at(self, number: int) -> str:
        return self._place(PLACES * number)

    @staticmethod
    def _place(offset: int) -> str:
        return f"visit % {PLACES}" + (f" + {offset}" if offset else "")

    _phase = f"visit // {PLACES} & 1"


def handed_on(plan: LoopPlan) -> tuple[Value, ...]:
    """The loaded integers that loops are bounded by, or branches in them."""
    bounds = (b for loop in plan.loops() for s in loop.segments for b in (s.lo, s.hi, *(loop.mask_free or ())))
    every = dict.fromkeys(v for b in bounds for v in numbers(b))
    # What is read once a program. A bound that is computed is refused for specialised warps
    # (`warp_specialisation.fault`), and what is no number of the whole program cannot be handed on as one.
    return tuple(v for v in every if isinstance(v, Load) and not v.axes and v.dtype == "int32" and v in plan.root.items)
