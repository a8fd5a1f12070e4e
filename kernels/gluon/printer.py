"""What the groups of a program of specialised warps share, and the group that loads."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from eintune.kernels.emit.bound_text import BoundText, shifted
from eintune.kernels.emit.source_lines import INDENT, SourceScope
from eintune.kernels.emit.triton_dialect import HELPERS
from eintune.kernels.emit.triton_printer import TritonPrinter
from eintune.space.ir.expr import Rank
from eintune.space.plan.bounds import Bound, FloorTo, Least, Lit, Sum, numbers
from eintune.space.plan.lazy_rescaling import lazy_rescalings
from eintune.space.plan.plan import Loop, LoopPlan, Segment
from eintune.space.plan.values import Value
from eintune.space.plan.warp_specialisation import GROUP_ROWS
from eintune.space.schedule.schedule import Schedule

from .helpers import GLUON_HELPERS
from .shared_tiles import SharedTiles, SharedVector
from .work_queue import WorkQueue

RESERVED = (
    *("gluon", "gl", "mbarrier", "tma", "fence_async_shared", "warpgroup_mma", "warpgroup_mma_wait", "float", "i"),
    *("async_copy", "range", "str", "getattr"),
    *("load_block", "store_block", "group_barrier", *HELPERS),
    *(name for text in GLUON_HELPERS.values() for name in re.findall(r"^def (\w+)", text, re.MULTILINE)),
    *("program", "programs", "here", "launched", "backwards", "rows", "visit", "group", "following"),
)
"""Names that the generated module uses itself."""


@dataclass(frozen=True)
class PipelineSlot:
    """Where the tiles of an iteration lie, as texts. slot: the buffer of each ring. phase: the parity (0 or 1) of the
    number of times that it was filled before, which is what waiting for its barrier takes."""

    slot: str
    phase: str


@dataclass(frozen=True)
class IterationOrder:
    """How a loop goes over its tiles, as texts.

    low, high: where they begin and end. top: where the last of them begins, if it is the first to come; None for
    upwards. Loops whose folds keep a reference run from their ends: there a filter that looks back leaves something of
    every row, and scores that fall with the distance are largest, so that the reference serves from the start.
    """

    low: str
    high: str
    tile: int
    top: str | None = None

    @property
    def first(self) -> str:
        """Where the tile begins that comes first."""
        return self.top or self.low

    @property
    def last(self) -> str:
        """An index in the tile that comes last."""
        return self.low if self.top else f"({self.high} - 1)"

    def before(self, first: str) -> str | None:
        """The text of how many tiles come before the one that begins at `first`; None where that is the first one."""
        if first == self.first:
            return None
        if self.top:
            return f"({self.top} - {first}) // {self.tile}" if first != "0" else f"{self.top} // {self.tile}"
        return f"({first} - {self.low}) // {self.tile}" if self.low != "0" else f"{first} // {self.tile}"

    def range(self, peeled: bool = False) -> str:
        """Where tiles begin, in the order in which they come. peeled: without the first."""
        first, step = (_plus(self.first, -self.tile if self.top else self.tile) if peeled else self.first), self.tile
        return f"range({first}, {_plus(self.low, -1)}, -{step})" if self.top else f"range({first}, {self.high}, {step})"


def _plus(text: str, number: int) -> str:
    return str(int(text) + number) if text.isdigit() else shifted(text, number)


class GluonPrinter(TritonPrinter):
    """What the loading and the computing groups print alike: names, the loop over programs, the slots of a ring.

    queue: how programs are taken; None where each is given its work beforehand.
    """

    def __init__(
        self,
        plan: LoopPlan,
        schedule: Schedule,
        row: Rank,
        tiles: Sequence[SharedTiles],
        vectors: Sequence[SharedVector],
        entry: str,
        queue: WorkQueue | None = None,
    ) -> None:
        # Before the names of ranks and tensors are given out: a tensor called `visit` must not take the name of the
        # loop.
        own = [f"{entry}_load", f"{entry}_compute", *(queue.names if queue else ())]
        self.reserved = (*RESERVED, *own, *(name for t in tiles for name in (*t.names, t.descriptor)))
        self.reserved += tuple(x.vectors for x in vectors)
        super().__init__(plan, schedule, entry, [queue.counter] if queue else [])
        # All sizes, in one order, whether this group mentions them or not: both groups name them alike.
        for r in plan.sizes.ranges:
            self.size(r)
        self.queue = queue
        self.lazy = lazy_rescalings(plan) if schedule.rescaling == "lazy" else {}
        """The loops that keep a reference (lazy rescaling), with the parts of their folds."""
        # Everything stands in the loop over programs, one level deeper than in an ordinary kernel.
        self.scopes = [SourceScope(None, 2)]
        self.row = row
        self.tiles = {t.load: t for t in tiles}
        self.vectors = {x.load: x for x in vectors}
        # Counted from the start of the kernel: a ring does not start anew with each program, and neither do the
        # parities of its barriers. Loader and groups count alike, which is all that keeps them in step.
        self.passed = {id(loop): self.names.fresh(f"{loop.rank}_passed") for loop in plan.loops()}
        """How many tiles of each loop came before this program's."""
        self._program()
        # After `_program`, which names what bounds are made of.
        self.bounds = BoundText(plan, self.scalar, dict(self.start), self.size, self.least, self.greatest, self.name)

    def finish(self) -> list[str]:
        """All lines: what is counted, and the loop over programs."""
        before, after = self.taken(self.queue) if self.queue else (self._given(), [])
        # Before the loop over programs, not in it.
        before = [*(f"{name} = 0" for name in self.passed.values()), *before]
        return [*(INDENT + line for line in before), *super().finish(), *(INDENT + line for line in after)]

    @abstractmethod
    def taken(self, queue: WorkQueue) -> tuple[list[str], list[str]]:
        """The lines before and after the body of a loop over programs that are taken from a queue."""

    def _given(self) -> list[str]:
        """The head of a loop over the programs of one CTA that are fixed beforehand. Programs lie in rows of as many as
        are launched, every other row backwards, and a CTA has one column: so long and short programs add up to about
        the same in each column where lengths rise or fall along the grid."""
        lines, every = self.programs()
        # A snake: position k of an even row is k, of an odd row the last but k. The last row may be short; the fourth
        # line counts it in only where this CTA's place in its direction exists.
        return [
            *lines,
            "here, launched = gl.program_id(0), gl.num_programs(0)",
            "backwards = launched - 1 - 2 * here",
            f"rows = {every} // launched",
            f"rows = ({every} + launched - 1 - here - rows % 2 * backwards) // launched",
            "for visit in range(0, rows):",
            f"{INDENT}program = visit * launched + here + visit % 2 * backwards",
        ]

    def programs(self) -> tuple[list[str], str]:
        """How many programs there are: lines that find it, and its text."""
        if not self.plan.sizes.ranges:
            return [], str(self.plan.programs())
        tiles = ((self.size(r), self.plan.roles[r].tile or 1) for r in self.plan.grid)
        counts = (f"(({size} + {tile - 1}) // {tile})" if tile > 1 else size for size, tile in tiles)
        return [f"programs = {' * '.join(counts)}"], "programs"

    def _program_number(self) -> None:
        """Nothing to print: `program` is the variable of the loop over programs."""

    def order(self, loop: Loop) -> IterationOrder | None:
        """How a loop goes over its tiles; None where it never has any. Writes the lines that name its ends."""
        rank, segment = loop.rank, loop.whole()
        low, high = self.bounds.text(segment.lo), self.bounds.text(segment.hi)
        # No barrier may be waited for then, nor a tile counted: the loader comes to the same conclusion from the same
        # texts.
        if low == high:
            return None
        low, high = self.here(f"{rank}_from", low), self.here(f"{rank}_to", high)
        if loop not in self.lazy:
            return IterationOrder(low, high, loop.tile)
        # Where the tile of the last index begins, when tiles are counted from where the loop starts (which need not
        # be a multiple of the tile).
        last = Sum(((1, segment.hi), (1, Lit(-1))))
        top: Bound = Sum(((1, segment.lo), (1, FloorTo(Sum(((1, last), (-1, segment.lo))), loop.tile))))
        # Rounding down moves an empty loop's end to a tile that is not there; one below the start makes the range
        # empty.
        if self.lazy[loop].guarded and not self.bounds.below(segment.lo, segment.hi):
            top = Least((top, last))  # which is below the loop's start where it is empty
        return IterationOrder(low, high, loop.tile, self.here(f"{rank}_top", self.bounds.text(top)))

    def turn(self, loop: Loop, order: IterationOrder, first: str, before: int = 0) -> PipelineSlot:
        """The slot and phase of the tile that begins at `first`, or of the tile `before` iterations earlier."""
        rank, buffers = loop.rank, self.schedule.stages
        turn = self.passed[id(loop)]
        if passed := order.before(first):
            turn = self.here(f"{rank}_turn", f"{turn} + {passed}")
        if before:
            turn = self.here(f"{rank}_before", f"{turn} - {before}")
        # Turn n is fill n // buffers of its slot, and parities of fills alternate from 0. This is CUTLASS's
        # `PipelineState`, computed from one counter in place of two that are carried.
        return PipelineSlot(
            self.here(f"{rank}_slot", f"{turn} % {buffers}"), self.here("phase", f"{turn} // {buffers} & 1")
        )

    def pass_on(self, loop: Loop, order: IterationOrder) -> None:
        """Print the addition of a loop's tiles to the count of those that came before."""
        low, high = order.low, order.high
        # Spelled as a number where it is one, so that the compiler need not find that out.
        if low.isdigit() and high.isdigit():
            count = str(-(-(int(high) - int(low)) // loop.tile))
        else:
            length = f"{high} - {low}" if low != "0" else high
            count = f"({length} + {loop.tile - 1}) // {loop.tile}"
            # An empty loop's bounds may cross by more than a tile, and a negative count would turn the rings back.
            if not self.runs_always(loop.whole()):
                count = self.greatest(count, "0")
        self.write(f"{self.passed[id(loop)]} += {count}")

    def runs_always(self, segment: Segment) -> bool:
        """Whether a segment has an iteration in every program."""
        # From the largest that the start can be to the smallest that the end can be.
        (_, low), (high, _) = (self.bounds.span(self.bounds.simple(end)) for end in (segment.lo, segment.hi))
        return low < high

    def coordinates(self, index: Sequence[Rank]) -> str:
        """The first element of a block."""
        return ", ".join(self.start[r] if self.tiled(r) else self.scalar[r] for r in index)

    def own_first(self, group: str) -> str:
        """The first row of a group."""
        first = self.start[self.row]
        return f"{group} * {GROUP_ROWS}" if first == "0" else f"{first} + {group} * {GROUP_ROWS}"


class Loader(GluonPrinter):
    """What the group that loads does: the tiles that stay, then those of each loop."""

    def lines(self) -> list[str]:
        # The loader evaluates nothing of the plan but what says how far loops go: it has few registers (`division`),
        # and holds no tiles.
        for v in self._needed():
            self.value(v)
        if self.queue:
            # Before any tile is copied: the groups that compute have been waiting for this, and their own preparation
            # (indices, the filters of rows) can run while the first copies do.
            for line in self.queue.hand_on([self.name(v) for v in self.queue.numbers]):
                self.write(line)
            counter = self.tensor[self.queue.counter]
            # Asked for now, read when this program is loaded: the round trip to the L2 cache hides behind the copies.
            # Relaxed, as nothing else is ordered by it. The first programs are those of the launch, so counting
            # begins behind them.
            self.write(f"following = gl.num_programs(0) + gl.atomic_add({counter}, 1, sem='relaxed')")
        for item in self.plan.root.items:
            if isinstance(item, Loop):
                self.loop(item)
            elif item in self.tiles:
                self._load_once(self.tiles[item])
        return self.finish()

    def taken(self, queue: WorkQueue) -> tuple[list[str], list[str]]:
        lines, every = self.programs()
        before = [*lines, "visit = 0", "program = gl.program_id(0)", f"while program < {every}:"]
        # A number beyond the last program is handed on too: it is what ends the loops of those that compute.
        return before, [f"{INDENT}visit += 1", f"{INDENT}program = following", *queue.hand_on([])]

    def _needed(self) -> list[Value]:
        """The values that the loading group evaluates, in order: numbers that bound loops or are handed on in the
        queue."""
        ends = {v for loop in self.plan.loops() for b in loop.ends for v in numbers(b)}
        ends.update(self.queue.numbers if self.queue else ())
        return [v for v in self.plan.root.items if isinstance(v, Value) and v in ends]

    def _load_once(self, t: SharedTiles) -> None:
        for group in range(t.groups if t.own else 1):
            # Each group's rows are a block of their own: the copies of several groups differ only in where they
            # start.
            first = self.start[self.row]
            if group:
                self.start[self.row] = self.own_first(str(group))
            place, phase = t.resident(str(group))
            # Parity of the fill before this one. At first there is none, and a new barrier answers at once to the
            # parity that has not begun: that is why every buffer counts as empty without anybody's arrival.
            self.write(f"mbarrier.wait({t.empty}.index({place}), {phase} ^ 1)")
            self._copy(t, place)
            self.start[self.row] = first

    def _copy(self, t: SharedTiles, place: str) -> None:
        # Announced before the copy is issued: the barrier's phase ends with its one arrival (this one) and the last
        # of these bytes. The size is the whole block's even at a tensor's edge, where TMA fills in zeros and counts
        # them.
        self.write(f"mbarrier.expect({t.full}.index({place}), {t.nbytes})")
        at = f"{t.descriptor}, [{self.coordinates(t.index)}], {t.full}.index({place}), {t.tiles}.index({place})"
        self.write(f"load_block({at})")

    def _copy_vectors(self, t: SharedTiles, place: str) -> None:
        """Print the copies of what comes with a tile."""
        vectors = [x for x in self.vectors.values() if x.tile is t]
        for x in vectors:
            address, valid = self.addressed(x.load)
            mask = f", mask={valid}" if valid else ""
            self.write(f"async_copy.async_copy_global_to_shared({x.vectors}.index({place}), {address}{mask})")
        # Each thread adds an arrival of its own to the phase, made when its copies are there; the one that the barrier
        # counts comes after, with the tile's bytes, so that the phase cannot end before.
        if vectors:
            self.write(f"async_copy.mbarrier_arrive({t.full}.index({place}))")

    def _lanes(self, axis: Rank) -> str:
        length = self.plan.roles[axis].tile
        return self.define(f"lane_{axis}", f"gl.arange(0, {length}, gl.BlockedLayout([1], [32], [1], [0]))", None)

    def loop(self, loop: Loop) -> None:
        ring = [t for t in self.tiles.values() if t.load in loop.body.items]
        # A loop that streams no tile into a product is no business of the loader's.
        order = self.order(loop) if ring else None
        if order is None:
            return
        self.write(f"for {self.start[loop.rank]} in {order.range()}:")
        with self.nested(loop.rank):
            turn = self.turn(loop, order, self.start[loop.rank])
            for t in ring:
                # In the order in which products read them, each with a barrier of its own: the scores' product need
                # not wait until the values have arrived as well.
                self.write(f"mbarrier.wait({t.empty}.index({turn.slot}), {turn.phase} ^ 1)")
                self._copy_vectors(t, turn.slot)
                self._copy(t, turn.slot)
        self.pass_on(loop, order)
