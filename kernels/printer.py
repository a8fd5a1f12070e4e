"""The base of every emitter: walks a `LoopPlan` and prints one line a value, one loop a segment.

What is the same in every target language is here: the order of things, names, broadcasting, filters, bounds and
which filters need not be printed. A target (`Printer`'s abstract methods) says how a load, a store, a matrix
product or a loop header is spelt. Nothing here knows a workload or a machine.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from ..space.approximations import APPROXIMATE_OPS
from ..space.expr import Access, Gather, Part, Predicate, Rank
from ..space.filters import farthest
from ..space.layout import within_part
from ..space.plan import Block, Known, Loop, LoopPlan, Segment, Value
from ..space.pointwise import POINTWISE
from ..space.schedule import Schedule
from ..space.selections import is_true, passed, source, unneeded
from .bound_text import BoundText, parenthesised
from .plan_facts import (
    filter_of,
    inline_constants,
    is_integer,
    items,
    number_of,
    pair_of,
    part_of,
    row_factor_of,
    shapes_of,
)
from .source_lines import INDENT, Scope, SourceLines

Affine = tuple[tuple[tuple[Rank | Access | Gather, int], ...], int]
"""A filter with numbers for sizes: sum(coefficient * index) + constant >= 0, elements of tensors after the indices."""
Fact = Affine | Value
"""What is known to hold: a filter, or a boolean value."""


def literal(x: float) -> str:
    """A float as source text."""
    return repr(float(x)) if math.isfinite(x) else f"float('{x}')"


def _constant(v: Value) -> str:
    """A constant as source text, whole where it is an integer."""
    return str(int(number_of(v))) if is_integer(v) else literal(number_of(v))


def affine(p: Predicate, sizes: dict[Rank, int]) -> Affine:
    """A predicate with every size bound; equal filters become equal whatever way they were written."""
    total: dict[Rank, int] = {}
    for t in p.terms:
        total[t.rank] = total.get(t.rank, 0) + t.coef * (sizes[t.stride] if t.stride else 1)
    const = p.const + sum(c * sizes[r] for r, c in p.sizes)
    return (*sorted((r, c) for r, c in total.items() if c), *p.numbers), const


@dataclass(frozen=True)
class Branch:
    """The branch of the loop over `rank` with the filters and selections which `known` says are void elsewhere."""

    rank: Rank
    known: frozenset[Fact]
    condition: str


class Iterations(Protocol):
    """The iterations of one loop, printed in another way than as its body stands."""

    def body(self) -> None:
        """Print the values of one iteration."""

    def moves(self) -> list[tuple[str, str]]:
        """What is kept for the next iteration: (variable, what it becomes)."""

    def finish(self) -> None:
        """Print what comes after the loop."""


class Printer(SourceLines, ABC):
    """Prints one plan. Use an instance once: `source()` of the subclass drives it."""

    reserved: tuple[str, ...] = ()
    """Names that the generated module uses itself (imports, builtins)."""
    branches = False
    """Whether a joined loop is printed as one, its filters in a branch; else its segments are printed."""

    def __init__(self, plan: LoopPlan, schedule: Schedule, entry: str = "kernel") -> None:
        super().__init__((*self.reserved, entry))
        self.plan = plan
        self.schedule = schedule
        self.entry = entry
        self.tensor = {n: self.names.parameter(n) for n in (*plan.inputs, *plan.outputs)}
        self.scalar = {r: self._rank_name(r, r) for r in plan.order if not self.tiled(r)}
        self.start = {r: self._rank_name(r, f"{r}_first") for r in plan.order if self.tiled(r)}
        self.shapes = shapes_of(plan)
        self.bounds = BoundText(plan, self.scalar, self.start, self.least, self.greatest, self.name)
        self.known: frozenset[Fact] = self.always()
        self.beyond: Rank | None = None
        """A rank whose current tile may lie beyond its end as a whole."""
        self._optional: Branch | None = None
        self._unneeded: dict[Value, None] = {}
        """Values of the current body that are not needed, or in its branch only; in order."""
        self.text = self._value_names()
        """What a use of a value prints: its name, a number, or what it is an alias of."""

    # ---- the target language

    @abstractmethod
    def index(self, axis: Rank) -> str:
        """A vector of the indices along a tile axis (1-D; an atom)."""

    @abstractmethod
    def load(self, v: Value) -> str:
        """The tile that a "load" reads."""

    @abstractmethod
    def store(self, v: Value) -> str:
        """The statement of a "store"."""

    @abstractmethod
    def function(self, op: str, args: Sequence[str]) -> str:
        """A pointwise operator that is not infix (`pointwise.POINTWISE`)."""

    @abstractmethod
    def choose(self, condition: str, then: str, other: str) -> str:
        """Elementwise choice."""

    @abstractmethod
    def reduce(self, op: str, arg: str, position: int) -> str:
        """A reduction (`pointwise.REDUCTIONS`) over the tile axis at `position`."""

    @abstractmethod
    def matmul(self, a: str, b: str, accumulator: str | None, v: Value) -> str:
        """`a @ b`, plus the accumulator; batch axes first in both."""

    @abstractmethod
    def permute(self, arg: str, positions: Sequence[int]) -> str:
        """The tile with its axes reordered."""

    @abstractmethod
    def cast(self, arg: str, dtype: str) -> str:
        """Conversion to a dtype name."""

    @abstractmethod
    def full(self, axes: tuple[Rank, ...], value: float, dtype: str) -> str:
        """A new tile of one number."""

    @abstractmethod
    def iota(self, v: Value) -> str:
        """The index values of `v.attr` along `v.axes`, as numbers of `v.dtype`."""

    @abstractmethod
    def lane(self, v: Value) -> str:
        """The places 0, 1, … in a tile along its axis `v.attr`, as numbers of `v.dtype`."""

    @abstractmethod
    def first(self, v: Value) -> str:
        """The first index of the current tile of `v.attr`, as a number of `v.dtype`."""

    @abstractmethod
    def header(self, loop: Loop, low: str, high: str) -> str:
        """The loop's `for` line; it sets `start[rank]` (or `scalar[rank]` where the rank has no tile)."""

    def least(self, a: str, b: str) -> str:
        """Minimum of two integers."""
        return f"min({a}, {b})"

    def greatest(self, a: str, b: str) -> str:
        """Maximum of two integers."""
        return f"max({a}, {b})"

    def limited(self, number: str, most: int) -> str:
        """The nearest integer that is at most so far from 0, elementwise."""
        return self.least(self.greatest(number, str(-most)), str(most))

    def always(self) -> frozenset[Fact]:
        """Filters that hold everywhere in this target: by default the tails of tiles that fit exactly."""
        fitting = (r for r, role in self.plan.roles.items() if not role.tile or self.plan.sizes[r] % role.tile == 0)
        return frozenset((((r, -1),), self.plan.sizes[r] - 1) for r in fitting if r in self.plan.sizes)

    # ---- values

    def name(self, v: Value) -> str:
        """A value as an atom, over its own axes."""
        return self.text[v]

    def _value_names(self) -> dict[Value, str]:
        names: dict[Value, str] = {}
        numbers = inline_constants(self.plan)
        for item in items(self.plan.root):
            for v in (c.value for c in item.carries) if isinstance(item, Loop) else (item,):
                if v in numbers:
                    names[v] = _constant(v)
                elif v.op != "store":
                    names[v] = self.names.fresh(v.name)
        return names

    def _rank_name(self, rank: Rank, wanted: str) -> str:
        """The variable of a rank's index or first index; "0" where the rank has one tile only."""
        role = self.plan.roles[rank]
        whole = role.outer is None or self.plan.sizes[rank] <= (role.tile or 1)
        return "0" if whole and role.outer != "loop" else self.names.fresh(wanted)

    def use(self, v: Value, axes: tuple[Rank, ...]) -> str:
        """A value as an operand over `axes`: missing axes are broadcast."""
        return self.name(v) + self.broadcast(v.axes, axes)

    @staticmethod
    def broadcast(have: tuple[Rank, ...], want: tuple[Rank, ...]) -> str:
        """`[:, None]`, or nothing where there is nothing to broadcast."""
        if not have or have == want:
            return ""
        return "[" + ", ".join(":" if q in have else "None" for q in want) + "]"

    # ---- ranks

    def tiled(self, rank: Rank) -> bool:
        """Whether the rank is a tile axis."""
        return self.plan.roles[rank].tile is not None

    def at(self, rank: Rank, axes: tuple[Rank, ...]) -> str:
        """The indices of a rank as an operand over `axes` (a scalar where it has no tile); an atom or a sum."""
        if not self.tiled(rank):
            return self.scalar[rank]
        return self.index(rank) + self.broadcast((rank,), axes)

    def within(self, part: Part) -> bool:
        """Whether a tile lies within one stretch of `part.by` elements."""
        return within_part(part, self.plan.roles[part.rank].tile or 1, self.plan.sizes[part.rank])

    def part_of_first(self, part: Part) -> str:
        """The part of the first index of a rank's tile (of its index, if it has no tile); "0" where it is that."""
        rank, size = part.rank, self.plan.sizes[part.rank]
        first = self.start[rank] if self.tiled(rank) else self.scalar[rank]
        if size <= part.by:
            return "0" if part.op == "//" else first
        if first == "0" or part.by == 1:
            return "0" if first == "0" or part.op == "%" else first
        if part.op == "%" and (self.plan.roles[rank].tile or 1) % part.by == 0:
            return "0"
        return f"{first} {part.op} {part.by}"

    def part_at(self, part: Part, axes: tuple[Rank, ...]) -> str:
        """The parts of the indices of a rank as an operand over `axes`."""
        if not self.tiled(part.rank):
            return self.part_of_first(part)
        return f"({self.index(part.rank)} {part.op} {part.by}){self.broadcast((part.rank,), axes)}"

    def part(self, v: Value) -> str:
        """The parts of a rank's indices, as numbers."""
        return self.part_at(part_of(v), v.axes) if v.axes else self.part_of_first(part_of(v))

    # ---- filters

    def condition(self, v: Value, axes: tuple[Rank, ...]) -> str:
        """The filter of a "where" over tile indices as `a >= b`, both sides without subtraction."""
        p, _ = filter_of(v)
        every, const = affine(p, self.plan.sizes)
        terms = [(r, c) for r, c in every if isinstance(r, str)]
        left: list[str] = []
        right: list[str] = []
        for r, c in sorted(terms, key=lambda term: self.plan.order.index(term[0])):
            text = self.at(r, axes)
            (left if c > 0 else right).append(text if abs(c) == 1 else f"{abs(c)} * {parenthesised(text)}")
        limit = farthest(p, self.plan.sizes)
        for number, (_, c) in zip(v.args[1:], p.numbers, strict=True):
            text = self.use(number, axes)
            text = text if limit is None else self.limited(text, limit)
            (left if c > 0 else right).append(text if abs(c) == 1 else f"{abs(c)} * {text}")
        if p.numbers and const == -1:
            return f"{' + '.join(right) or '0'} < {' + '.join(left) or '0'}"
        if not left and len(right) == 1 and const > 0:
            return f"{right[0]} < {const + 1}"
        if const:
            (left if const > 0 else right).append(str(abs(const)))
        return f"{' + '.join(left) or '0'} >= {' + '.join(right) or '0'}"

    def passes(self, v: Value) -> bool:
        """Whether a value is a filter or a selection that is known to hold on the whole of the current tile."""
        return self._passes(v, self.known)

    def _passes(self, v: Value, known: frozenset[Fact]) -> bool:
        if passed(v) is None or v.op == "rounded":
            return False
        if v.op == "select":
            return is_true(v.args[0], known)
        terms, const = affine(filter_of(v)[0], self.plan.sizes)
        return (terms, const) in known or (not terms and const >= 0)

    def _facts(self, known: Iterable[Known]) -> frozenset[Fact]:
        return frozenset(affine(k, self.plan.sizes) if isinstance(k, Predicate) else k for k in known)

    # ---- the tree

    def block(self, b: Block) -> None:
        """Print a block's values and loops in order; filters that stand in a branch, next to each other in one."""
        needed = [item for item in b.items if item not in self._unneeded]
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
            if low != high:
                optional = self.outside(loop) if joined else None
                low, high = self.here(f"{loop.rank}_from", low), self.here(f"{loop.rank}_to", high)
                late = self.late(loop, segment, (low, high))
                self._segment(loop, segment, self.header(loop, low, high), optional, late)
                if late:
                    late.finish()

    def late(self, loop: Loop, segment: Segment, ends: tuple[str, str]) -> Iterations | None:
        """How the iterations of a segment between `ends` are printed where not as the plan has them."""
        return None

    def outside(self, loop: Loop, below: bool = True, beyond: bool = True) -> Branch | None:
        """The branch of a joined loop: taken in the tiles outside the range where its filters are known to hold. below,
        beyond: whether a tile may be there at all; where none is, the branch has no condition.

        None where they hold in every tile or are known to hold in none.
        """
        index = self.start[loop.rank] if self.tiled(loop.rank) else self.scalar[loop.rank]
        n = next((n for n, s in enumerate(loop.segments) if s.known), None)
        if n is None:
            return None
        if len(loop.segments) == 1:
            return None
        (low, high), conditions = loop.clear or (loop.segments[n].lo, loop.segments[n].hi), []
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
        """What a filter or a selection is where it is not evaluated; None for any other value."""
        return source(v, self.passes) or source(v, lambda x: self.passes(x) or self._is_optional(x))

    def _branch(self, filters: Sequence[Value]) -> None:
        """Filters, each what it passes on but for a branch that evaluates it and what only they need."""
        assert self._optional is not None
        optional = self._optional
        for v in filters:
            if kept := self._source(v):
                self.write(f"{self.name(v)} = {self.name(kept)}")
        self.write(f"if {optional.condition}:")
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
        self, loop: Loop, segment: Segment, header: str, optional: Branch | None, late: Iterations | None
    ) -> None:
        saved, text = (self.known, self._optional, self._unneeded), dict(self.text)
        self.known |= self._facts(segment.known)
        self._optional = optional
        unused = unneeded(loop, self._source)
        self._unneeded = {v: None for v in loop.body.items if isinstance(v, Value) and v in unused}
        outer = self.scopes[-1]
        self.scopes.append(Scope(loop.rank, outer.depth + 1))
        if late:
            late.body()
        else:
            self.block(loop.body)
        moves = [(self.name(c.value), self.name(c.next)) for c in loop.carries]
        moves += late.moves() if late else []
        if moves:
            self.write(f"{', '.join(to for to, _ in moves)} = {', '.join(what for _, what in moves)}")
        inner = self.scopes.pop()
        outer.body += [INDENT * outer.depth + header, *inner.head, *inner.body]
        self.known, self._optional, self._unneeded = saved
        self.text = text

    def value(self, v: Value) -> None:
        """Print one value; a filter that is known to hold prints nothing."""
        if v.op == "store":
            self.write(self.store(v))
        elif v.op == "const" and self.name(v) == _constant(v):
            pass
        elif kept := source(v, self.passes):
            self.text[v] = self.name(kept)
        else:
            self.write(f"{self.name(v)} = {self.expression(v)}")

    def expression(self, v: Value) -> str:
        """The right-hand side of a value."""
        match v.op:
            case "load":
                return self.load(v)
            case "const":
                return self.full(v.axes, number_of(v), v.dtype)
            case "iota":
                return self.iota(v)
            case "lane":
                return self.lane(v)
            case "first":
                return self.first(v)
            case "part":
                return self.part(v)
            case "cast":
                return self.cast(self.name(v.args[0]), v.dtype)
            case "reduce":
                op, axis = pair_of(v)
                return self.reduce(op, self.name(v.args[0]), v.args[0].axes.index(axis))
            case "dot":
                return self._dot(v)
            case "where":
                _, fill = filter_of(v)
                return self.choose(self.condition(v, v.axes), self.use(v.args[0], v.axes), literal(fill))
        return self.pointwise(v.op, [self.use(a, v.axes) for a in v.args], v)

    def pointwise(self, op: str, args: Sequence[str], v: Value) -> str:
        """An elementwise operator over operands that broadcast already."""
        match op:
            case "scale":
                return f"{args[0]} * {literal(number_of(v))}"
            case "row_factor":
                return self.row_factor(args[0], v)
            case "rounded":
                return f"{args[0]} + 0.0"  # a multiply-add of 0, with which nothing is fused
            case "guard":
                return self.choose(f"{args[0]} == {literal(-math.inf)}", "0.0", args[0])
            case "quotient":
                a, b = args
                return self.choose(f"({a} == 0.0) & ({b} == 0.0)", "0.0", f"{a} / {b}")
            case "div_rn":
                return self.quotient(args[0], args[1], v)
            case "neg":
                return f"-{args[0]}"
            case "recip":
                return f"1.0 / {args[0]}"
            case "select":
                return self.choose(*args)
        if op in APPROXIMATE_OPS:
            return self.function(op, args)
        if op not in POINTWISE:
            raise ValueError(f"value {v.name}: an operator of a plan is one of {sorted(POINTWISE)}, but got {op!r}")
        symbol = POINTWISE[op].symbol
        return f"{args[0]} {symbol} {args[1]}" if symbol else self.function(op, args)

    def row_factor(self, maximum: str, v: Value) -> str:
        """What a row is multiplied by (`space.row_factor`)."""
        factors, magnitude = row_factor_of(v), self.function("abs", [maximum])
        beyond = literal(factors.beyond)
        if factors.far_limit is not None:
            beyond = self.choose(f"{magnitude} < {literal(factors.far_limit)}", beyond, literal(factors.far))
        return self.choose(f"{magnitude} < {literal(factors.limit)}", literal(factors.factor), beyond)

    def quotient(self, a: str, b: str, v: Value) -> str:
        """A correctly rounded quotient: by default what `/` gives."""
        return f"{a} / {b}"

    def _dot(self, v: Value) -> str:
        """A matrix product: operands in the order and with the axes that give `v.axes`."""
        contracted, batch = pair_of(v)
        a, b = v.args[:2]
        own = [tuple(q for q in x.axes if q != contracted and q not in batch) for x in (a, b)]
        if len(own[0]) != 1 or len(own[1]) != 1:
            return self._product_of_many_axes(v)
        if v.axes.index(own[0][0]) > v.axes.index(own[1][0]):
            (a, b), own = (b, a), own[::-1]
        left = self._arranged(self.name(a), a.axes, (*batch, *own[0], contracted))
        right = self._arranged(self.name(b), b.axes, (*batch, contracted, *own[1]))
        made = (*batch, *own[0], *own[1])
        accumulator = self.name(v.args[2]) if len(v.args) > 2 else None
        if made == v.axes:
            return self.matmul(left, right, accumulator, v)
        product = self._arranged(self.matmul(left, right, None, v), made, v.axes)
        return product if accumulator is None else f"{accumulator} + {product}"

    def _product_of_many_axes(self, v: Value) -> str:
        """A product that is no matrix product: multiplied over all axes, then summed."""
        contracted, _ = pair_of(v)
        axes = tuple(q for q in self.plan.order if q in {*v.axes, contracted})
        operands = []
        for x in v.args[:2]:
            text = self.name(x) if x.dtype == v.dtype else self.cast(self.name(x), v.dtype)
            operands.append(text + self.broadcast(x.axes, axes))
        total = self.reduce("add", " * ".join(operands), axes.index(contracted))
        return f"{self.name(v.args[2])} + {total}" if len(v.args) > 2 else total

    def _arranged(self, text: str, have: tuple[Rank, ...], want: tuple[Rank, ...]) -> str:
        return text if have == want else self.permute(text, [have.index(q) for q in want])
