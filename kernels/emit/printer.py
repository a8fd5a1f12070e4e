"""The base of every emitter: walks a `LoopPlan` and prints one line a value, one loop a segment.

What is the same in every target language is here: the order of things, bounds, and which filters need not be printed.
A target says how its header is spelt. Nothing here knows a workload or a machine.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any, Protocol

from eintune.space.ir.expr import Predicate, Rank
from eintune.space.plan.plan import Block, Known, Loop, LoopPlan, Segment
from eintune.space.plan.predication import is_true, passed, source, unneeded
from eintune.space.plan.sizes import tail_predicate
from eintune.space.plan.values import Constant, Mask, Store, Value
from eintune.space.schedule.schedule import Schedule

from .bound_text import BoundText
from .source_lines import INDENT, SourceScope
from .value_printer import Affine, Fact, ValuePrinter, affine, constant


@dataclass(frozen=True)
class Branch:
    """The branch of a joined loop that evaluates filters. known: what holds in all tiles in which it is not taken.
    condition: the text under which it is taken; empty where it never is."""

    rank: Rank
    known: frozenset[Fact]
    condition: str


class LoopIterations(Protocol):
    """The iterations of one loop, printed in another way than as its body stands."""

    def body(self) -> None:
        """Print the values of one iteration."""

    def moves(self) -> list[tuple[str, str]]:
        """What is kept for the next iteration: (variable, what it becomes)."""

    def finish(self) -> None:
        """Print what comes after the loop."""


class Printer(ValuePrinter):
    """Prints one plan. Use an instance once: `source()` of the subclass drives it."""

    branches = False
    """Whether a joined loop is printed as one, its filters in a branch; else its segments are printed."""

    def __init__(self, plan: LoopPlan, schedule: Schedule, entry: str = "kernel") -> None:
        super().__init__(plan, schedule, entry)
        self.bounds = BoundText(plan, self.scalar, self.start, self.size, self.least, self.greatest, self.name)
        self.known: frozenset[Fact] = self.always()
        """What holds on the whole of the current tile."""
        # Whether a filter is known to hold is asked many times for each value.
        self._affine: dict[Value, Affine] = {}
        """Filters that were asked for, with numbers for sizes."""
        self._optional: Branch | None = None
        self._unneeded: dict[Value, None] = {}
        """Values of the current body that nothing needs, or only its branch, in order (a dict as an ordered set)."""

    @abstractmethod
    def header(self, loop: Loop, low: str, high: str) -> str:
        """The loop's `for` line; it sets `start[rank]` (or `scalar[rank]` where the rank has no tile)."""

    def always(self) -> frozenset[Fact]:
        """Filters that hold everywhere in this target: by default the tails of tiles that fit exactly."""
        # A tile that fits exactly has no tail, however the plan may ask for it.
        sizes, roles = self.plan.sizes, self.plan.roles
        fitting = (r for r in roles if sizes.has(r) and sizes.is_multiple(r, roles[r].tile or 1))
        return frozenset(affine(tail_predicate(r, sizes), sizes) for r in fitting)

    # ---- what is known

    def geometry(self) -> dict[str, Any]:
        """The fields of a `Kernel` that say how many programs it has and what sizes it is given; complete once the
        source is printed."""
        sizes, tiles = self.plan.sizes, {r: self.plan.program_tile(r) for r in self.plan.grid}
        known = prod(-(-sizes[r] // tile) for r, tile in tiles.items() if r not in sizes.ranges)
        counts = tuple((r, tile) for r, tile in tiles.items() if r in sizes.ranges)
        return {
            "grid": (known,),
            "sizes": tuple(self.size_names),
            "derived": tuple(sizes.derived.items()),
            "counts": counts,
            "divisors": tuple(self.divisors),
            "ranges": tuple((r, known) for r, known in sizes.ranges.items() if r not in sizes.derived),
            "tables": tuple((p.rank, p.by, axis) for p, axis in self.plan.tables()),
            "ordered": tuple(sorted(pair for pair in sizes.ordered if set(pair) <= sizes.ranges.keys())),
        }

    def passes(self, v: Value) -> bool:
        """Whether a value is a filter or a selection that is known to hold on the whole of the current tile."""
        return self._passes(v, self.known)

    def _passes(self, v: Value, known: frozenset[Fact]) -> bool:
        if passed(v) is None or v.op == "rounded":
            return False
        if v.op == "select":
            return is_true(v.args[0], known)
        if not isinstance(v, Mask):
            return False
        if v not in self._affine:
            self._affine[v] = affine(v.predicate, self.plan.sizes)
        terms, const = self._affine[v]
        # Compared as affine forms: equal filters are equal however they were spelled.
        return (terms, const) in known or (not terms and const >= 0)

    def _facts(self, known: Iterable[Known]) -> frozenset[Fact]:
        return frozenset(affine(k, self.plan.sizes) if isinstance(k, Predicate) else k for k in known)

    # ---- the tree

    def root(self) -> None:
        """Print the root block. Where a tile may be computed again, what is stored stands in a branch."""
        if (doubt := self.plan.doubt) is None:
            self.block(self.plan.root)
            return
        stores = [x for x in self.plan.root.items if isinstance(x, Store)]
        self.block(Block(self.plan.root.ranks, [x for x in self.plan.root.items if x not in stores]))
        # What a program defines on demand stays at its top, as without the branch.
        self.write(f"if {self.name(doubt.value)}:")
        with self.nested(""):
            self.again()
        self.write("else:")
        with self.nested(""):
            for x in stores:
                self.value(x)

    def again(self) -> None:
        """Print what computes the program's tile again, by row (`space/plan/repair.py`)."""
        raise ValueError("nothing computes a tile again in this target")

    def called(self, rows: Printer, before: Sequence[str], first: Callable[[Rank], str]) -> None:
        """Print calls of a function that `rows` prints, of a plan of the same grid: one for each of its tiles in this
        program's. before: the texts of what it takes before sizes. first: the text of where this program begins."""
        places: list[str] = []
        with ExitStack() as loops:
            for r in rows.places():
                tile, whole, start = rows.plan.roles[r].tile, self.plan.program_tile(r), first(r)
                if tile and tile < whole:
                    end = self.least(f"{start} + {whole}" if start != "0" else str(whole), self.size(r))
                    start, begin = self.names.fresh(f"{r}_piece"), start
                    self.write(self.counting(start, begin, end, tile))
                    loops.enter_context(self.nested(""))
                places.append(start)
            given = [*before, *(self.size(r) for r in rows.size_names), *places]
            self.write(f"{rows.entry}({', '.join(given)})")

    def counting(self, variable: str, low: str, high: str, step: int) -> str:
        """A `for` line over whole numbers."""
        return f"for {variable} in range({low}, {high}, {step}):"

    def places(self) -> dict[Rank, str]:
        """The variables that say where in the grid a program is."""
        named = {r: self.place(r) for r in self.plan.grid}
        return {r: name for r, name in named.items() if name != "0"}

    def place(self, rank: Rank) -> str:
        """The text of a program's first index of a rank of its grid."""
        return self.start[rank] if self.tiled(rank) else self.scalar[rank]

    def block(self, b: Block) -> None:
        """Print a block's values and loops in order; filters that stand in a branch, next to each other in one."""
        needed = [item for item in b.items if item not in self._unneeded]
        # Neighbouring masks share one branch; each branch costs a jump, and keeps the compiler from moving code
        # across it.
        for optional, group in groupby(self.ordered(needed), self._is_optional):
            if optional:
                self._branch([v for v in group if isinstance(v, Value)])
                continue
            for item in group:
                if isinstance(item, Loop):
                    self.loop(item)
                else:
                    self.value(item)

    def ordered(self, items: Sequence[Value | Loop]) -> Sequence[Value | Loop]:
        """The items of a block in the order in which they are printed: by default that of the plan."""
        return items

    def loop(self, loop: Loop) -> None:
        """Print a loop: its carries' first values, then one `for` a segment over the same body."""
        for c in loop.carries:
            self.write(f"{self.name(c.value)} = {self.full(c.value.axes, c.init, c.value.dtype)}")
        joined = loop.joined and self.branches
        for segment in [loop.whole()] if joined else loop.segments:
            low, high = self.bounds.text(segment.lo), self.bounds.text(segment.hi)
            # An empty segment prints nothing: its ends are the same text.
            if low != high:
                optional = self.outside(loop) if joined else None
                low, high = self.here(f"{loop.rank}_from", low), self.here(f"{loop.rank}_to", high)
                pipelined = self.pipelined(loop, segment, (low, high))
                self._segment(loop, segment, self.header(loop, low, high), optional, pipelined)
                if pipelined:
                    pipelined.finish()

    def pipelined(self, loop: Loop, segment: Segment, ends: tuple[str, str]) -> LoopIterations | None:
        """How the iterations of a segment are printed, if in another order than the plan's. ends: the texts of its
        first index and the one after its last."""
        return None

    def outside(self, loop: Loop, below: bool = True, beyond: bool = True) -> Branch | None:
        """The branch of a joined loop: taken in the tiles outside the range where its filters are known to hold. below,
        beyond: whether a tile may be there at all; where none is, the branch has no condition.

        None where they hold in every tile or are known to hold in none.
        """
        index = self.start[loop.rank] if self.tiled(loop.rank) else self.scalar[loop.rank]
        # The one segment in which filters are known to hold; below and beyond it they are evaluated.
        n = next((n for n, s in enumerate(loop.segments) if s.known), None)
        if n is None:
            return None
        if len(loop.segments) == 1:
            return None
        (low, high), conditions = loop.mask_free or (loop.segments[n].lo, loop.segments[n].hi), []
        if n > 0 and below:
            conditions.append(f"{index} < {self.here(f'{loop.rank}_clear_from', self.bounds.text(low))}")
        if n < len(loop.segments) - 1 and beyond:
            conditions.append(f"{index} >= {self.here(f'{loop.rank}_clear_to', self.bounds.text(high))}")
        return Branch(loop.rank, self._facts(loop.segments[n].known), " or ".join(conditions))

    def _is_optional(self, item: Value | Loop) -> bool:
        """Whether a value is a filter or a selection that stands in the current loop's branch."""
        if not isinstance(item, Value) or self._optional is None or self.passes(item):
            return False
        return self._passes(item, self._optional.known)

    def _source(self, v: Value) -> Value | None:
        """The value that stands for a filter or a selection outside of the branch; None for any other value."""
        return source(v, self.passes) or source(v, lambda x: self.passes(x) or self._is_optional(x))

    def _branch(self, filters: Sequence[Value]) -> None:
        """Print filters: each as an alias of what it passes on, then a branch that evaluates them, with the values that
        only they need."""
        assert self._optional is not None
        optional = self._optional
        # Outside the branch a mask is what it passes on; the branch then assigns it once more. So the common path has
        # neither comparison nor selection.
        for v in filters:
            if kept := self._source(v):
                self.write(f"{self.name(v)} = {self.name(kept)}")
        self.write(f"if {optional.condition}:")
        # What only masks read (indices, loads of document numbers) is computed in the branch too.
        wanted = list(filters)
        for v in wanted:
            wanted += [a for a in v.args if a in self._unneeded and a not in wanted]
        with self.nested(optional.rank):
            for v in self._unneeded:
                if v in wanted:
                    self.value(v)
            for v in filters:
                self.write(f"{self.name(v)} = {self.expression(v)}")

    def _segment(
        self, loop: Loop, segment: Segment, header: str, optional: Branch | None, pipelined: LoopIterations | None
    ) -> None:
        saved, text = (self.known, self._optional, self._unneeded), dict(self.text)
        # Saved and put back around the body: facts hold in this segment only.
        self.known |= self._facts(segment.known)
        self._optional = optional
        # A mask that is its argument here leaves its condition without users, and those without theirs.
        unused = unneeded(loop, self._source)
        self._unneeded = {v: None for v in loop.body.items if isinstance(v, Value) and v in unused}
        outer = self.scopes[-1]
        self.scopes.append(SourceScope(loop.rank, outer.depth + 1))
        if pipelined:
            pipelined.body()
        else:
            self.block(loop.body)
        moves = [(self.name(c.value), self.name(c.next)) for c in loop.carries]
        moves += pipelined.moves() if pipelined else []
        # One tuple assignment: carries may exchange values.
        if moves:
            self.write(f"{', '.join(to for to, _ in moves)} = {', '.join(what for _, what in moves)}")
        inner = self.scopes.pop()
        outer.body += [INDENT * outer.depth + header, *inner.head, *inner.body]
        self.known, self._optional, self._unneeded = saved
        self.text = text

    def value(self, v: Value) -> None:
        """Print one value; a filter that is known to hold prints nothing."""
        if isinstance(v, Store):
            self.write(self.store(v))
        elif isinstance(v, Constant) and self.name(v) == constant(v):
            pass
        elif kept := source(v, self.passes):
            # An alias costs nothing, and later uses print the argument itself, so that patterns (`x * k - y`) stay
            # visible to the compiler.
            self.text[v] = self.name(kept)
        else:
            self.write(f"{self.name(v)} = {self.expression(v)}")
