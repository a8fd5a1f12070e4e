"""How the values of a plan are printed: what is the same in every target language.

Names, broadcasting, filters over indices, products of any axes. A target (`ValuePrinter`'s abstract methods) says how
a load, a store or a matrix product is spelt. Nothing here knows a workload or a machine.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import assert_never

from eintune.space.analysis.filters import farthest, is_wide
from eintune.space.analysis.layout import within_part
from eintune.space.ir.approximations import APPROXIMATE_OPS
from eintune.space.ir.expr import Access, Gather, Part, Predicate, Rank
from eintune.space.ir.pointwise import POINTWISE
from eintune.space.ir.row_factor import RowFactor
from eintune.space.plan.bounds import Size
from eintune.space.plan.plan import Loop, LoopPlan
from eintune.space.plan.sizes import Sizes
from eintune.space.plan.values import (
    Carried,
    Cast,
    Constant,
    Dot,
    Elementwise,
    Index,
    IndexPart,
    Lane,
    Load,
    Mask,
    RowReference,
    RowScale,
    Scale,
    SizeOf,
    Store,
    TileReduce,
    TileStart,
    Value,
)
from eintune.space.schedule.schedule import Schedule

from .bound_text import parenthesised
from .plan_facts import inline_constants, is_integer, items, shapes_of
from .source_lines import SourceLines

Affine = tuple[tuple[tuple[Rank | Size | Access | Gather, int], ...], int]
"""A filter with numbers for sizes that are known: sum(coefficient * index) + constant >= 0, other sizes after the
indices, elements of tensors last."""
Fact = Affine | Value
"""A filter or a boolean value that is known to hold."""


def literal(x: float) -> str:
    """A float as source text."""
    return repr(float(x)) if math.isfinite(x) else f"float('{x}')"


def constant(v: Constant) -> str:
    """A constant as source text, whole where it is an integer."""
    return str(int(v.number)) if is_integer(v) else literal(v.number)


def affine(p: Predicate, sizes: Sizes) -> Affine:
    """A predicate with every known size bound; equal filters become equal whatever way they were written."""
    total: dict[Rank, int] = {}
    for t in p.terms:
        total[t.rank] = total.get(t.rank, 0) + t.coef * (sizes[t.stride] if t.stride else 1)
    const = p.const + sum(c * sizes[r] for r, c in p.sizes if r not in sizes.ranges)
    unknown = [(Size(r), c) for r, c in sorted(p.sizes) if r in sizes.ranges]
    return (*sorted((r, c) for r, c in total.items() if c), *unknown, *p.numbers), const


class ValuePrinter(SourceLines, ABC):
    """Prints the values of one plan."""

    reserved: tuple[str, ...] = ()
    """Names that the generated module uses itself (imports, builtins)."""

    def __init__(self, plan: LoopPlan, schedule: Schedule, entry: str = "kernel") -> None:
        super().__init__((*self.reserved, entry))
        self.plan = plan
        self.schedule = schedule
        self.entry = entry
        self.tensor = {n: self.names.parameter(n) for n in (*plan.inputs, *plan.outputs)}
        self.scalar = {r: self._rank_name(r, r) for r in plan.order if not self.tiled(r)}
        self.start = {r: self._rank_name(r, f"{r}_first") for r in plan.order if self.tiled(r)}
        self.shapes = shapes_of(plan)
        self.size_names: dict[Rank, str] = {}
        """The variables of the sizes that are not known, of those that the text mentions."""
        self.divisors: dict[tuple[Rank, int], str] = {}
        """The variables by which is divided by how many tiles of so many elements a rank has (`kernel.divisor`)."""
        self.beyond: Rank | None = None
        """A rank whose current tile may lie beyond its end as a whole."""
        self.text = self._value_names()
        """The text of each value where it is used: its variable, a number, or another value's variable."""

    # ---- the target language

    @abstractmethod
    def index(self, axis: Rank) -> str:
        """A vector of the indices along a tile axis (1-D; an atom)."""

    @abstractmethod
    def load(self, v: Load) -> str:
        """The tile that a load reads."""

    @abstractmethod
    def store(self, v: Store) -> str:
        """The statement of a store."""

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
    def matmul(self, a: str, b: str, accumulator: str | None, v: Dot) -> str:
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
    def iota(self, v: Index) -> str:
        """The indices of `v.rank` along `v.axes`, as numbers of `v.dtype`."""

    @abstractmethod
    def lane(self, v: Lane) -> str:
        """The places 0, 1, … in a tile along its axis `v.rank`, as numbers of `v.dtype`."""

    @abstractmethod
    def first(self, v: TileStart) -> str:
        """The first index of the current tile of `v.rank`, as a number of `v.dtype`."""

    def least(self, a: str, b: str) -> str:
        """Minimum of two integers."""
        return f"min({a}, {b})"

    def greatest(self, a: str, b: str) -> str:
        """Maximum of two integers."""
        return f"max({a}, {b})"

    def limited(self, number: str, most: int) -> str:
        """The nearest integer that is at most so far from 0, elementwise."""
        return self.least(self.greatest(number, str(-most)), str(most))

    @abstractmethod
    def size_of(self, v: SizeOf) -> str:
        """The number of elements of `v.rank`, as a number of `v.dtype`."""

    # ---- sizes

    def size(self, rank: Rank) -> str:
        """The number of elements of a rank: a number, or the variable that holds it."""
        rank = self.plan.sizes.same(rank)
        if rank not in self.plan.sizes.ranges:
            return str(self.plan.sizes[rank])
        if rank not in self.size_names:
            self.size_names[rank] = self.names.fresh(f"{rank}_size")
        return self.size_names[rank]

    # ---- values

    def name(self, v: Value) -> str:
        """A value as an atom, over its own axes."""
        return self.text[v]

    def _value_names(self) -> dict[Value, str]:
        names: dict[Value, str] = {}
        numbers = inline_constants(self.plan)
        for item in items(self.plan.root):
            for v in (c.value for c in item.carries) if isinstance(item, Loop) else (item,):
                if isinstance(v, Constant) and v in numbers:
                    names[v] = constant(v)
                elif not isinstance(v, Store):
                    names[v] = self.names.fresh(v.name)
        return names

    def _rank_name(self, rank: Rank, wanted: str) -> str:
        """The variable of a rank's index or first index; "0" where the rank has one tile only."""
        role = self.plan.roles[rank]
        whole = role.outer is None or self.plan.sizes.most(rank) <= (role.tile or 1)
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

    def spread(self, text: str, have: tuple[Rank, ...], want: tuple[Rank, ...]) -> str:
        """A value with axes `have` as an operand over `want`."""
        return text + self.broadcast(have, want)

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
        return within_part(part, self.plan.roles[part.rank].tile or 1, self.plan.sizes.most(part.rank))

    def part_of_first(self, part: Part) -> str:
        """The part of the first index of a rank's tile (of its index, if it has no tile); "0" where it is that."""
        rank, size = part.rank, self.plan.sizes.most(part.rank)
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

    def part(self, v: IndexPart) -> str:
        """The parts of a rank's indices, as numbers."""
        return self.part_at(v.part, v.axes) if v.axes else self.part_of_first(v.part)

    # ---- filters

    def condition(self, v: Mask, axes: tuple[Rank, ...]) -> str:
        """The filter of a mask over tile indices as `a >= b`, both sides without subtraction."""
        p = v.predicate
        every, const = affine(p, self.plan.sizes)
        terms = [(r, c) for r, c in every if isinstance(r, str)]
        left: list[str] = []
        right: list[str] = []
        # Terms with positive coefficients on one side and negative ones on the other: no subtraction, as one would
        # write it.
        for r, c in sorted(terms, key=lambda term: self.plan.order.index(term[0])):
            text = self.at(r, axes)
            (left if c > 0 else right).append(text if abs(c) == 1 else f"{abs(c)} * {parenthesised(text)}")
        unknown = [(key, c) for key, c in every if isinstance(key, Size)]
        for key, c in unknown:
            text = self.size(key.rank)
            (left if c > 0 else right).append(text if abs(c) == 1 else f"{abs(c)} * {text}")
        limit, wide = farthest(p, self.plan.sizes), is_wide(p, self.plan.sizes)
        for number, (_, c) in zip(v.args[1:], p.numbers, strict=True):
            text = self.use(number, axes)
            # Clamped where sums with it might overflow: beyond the limit the filter says the same.
            text = text if limit is None else self.limited(text, limit)
            text = self.cast(text, "int64") if wide and number.dtype != "int64" else text
            (left if c > 0 else right).append(text if abs(c) == 1 else f"{abs(c)} * {text}")
        # a - b - 1 >= 0 is printed as b < a, as it was written.
        if (p.numbers or unknown) and const == -1:
            return f"{' + '.join(right) or '0'} < {' + '.join(left) or '0'}"
        if not left and len(right) == 1 and const > 0:
            return f"{right[0]} < {const + 1}"
        if wide and const:  # beside a number of 64 bits
            onto_left = any(c > 0 for _, c in p.numbers)
            (left if onto_left else right).append(str(const if onto_left else -const))
        elif const:
            (left if const > 0 else right).append(str(abs(const)))
        return f"{' + '.join(left) or '0'} >= {' + '.join(right) or '0'}"

    # ---- expressions

    def expression(self, v: Value) -> str:
        """The right-hand side of a value."""
        match v:
            case Load():
                return self.load(v)
            case Constant():
                return self.full(v.axes, v.number, v.dtype)
            case Index():
                return self.iota(v)
            case Lane():
                return self.lane(v)
            case TileStart():
                return self.first(v)
            case SizeOf():
                return self.size_of(v)
            case IndexPart():
                return self.part(v)
            case Cast():
                return self.cast(self.name(v.args[0]), v.dtype)
            case TileReduce():
                return self.reduce(v.reduction, self.name(v.args[0]), v.args[0].axes.index(v.axis))
            case Dot():
                return self._dot(v)
            case Mask():
                return self.choose(self.condition(v, v.axes), self.use(v.args[0], v.axes), literal(v.fill))
            case Scale():
                return f"{self.use(v.args[0], v.axes)} * {literal(v.factor)}"
            case RowScale():
                return self.row_factor(self.use(v.args[0], v.axes), v.factors)
            case RowReference():
                return self.row_reference(v)
            case Elementwise():
                return self.pointwise(v.operator, [self.use(a, v.axes) for a in v.args], v)
            case Store() | Carried():
                raise ValueError(f"value {v.name}: {v.op} is printed as no expression")
            case _:
                assert_never(v)

    def pointwise(self, op: str, args: Sequence[str], v: Elementwise) -> str:
        """An elementwise operator over operands that broadcast already."""
        match op:
            case "rounded":
                return f"{args[0]} + 0.0"  # a multiply-add of 0, with which nothing is fused
            case "guard":
                return self.choose(f"{args[0]} == {literal(-math.inf)}", "0.0", args[0])
            # What is left of a maximum without its row part, but the tile's own where the maximum is the tile's.
            case "tile_reference":
                rest, top, reference, total = args
                return self.choose(f"{reference} == {total}", top, rest)
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

    def row_factor(self, maximum: str, factors: RowFactor) -> str:
        """What a row is multiplied by (`space.ir.row_factor`)."""
        magnitude = self.function("abs", [maximum])
        beyond = literal(factors.beyond)
        if factors.far_limit is not None:
            beyond = self.choose(f"{magnitude} < {literal(factors.far_limit)}", beyond, literal(factors.far))
        return self.choose(f"{magnitude} < {literal(factors.limit)}", literal(factors.factor), beyond)

    def row_reference(self, v: RowReference) -> str:
        """What the scores of a row are relative to without their row part."""
        near, far, reference = (self.use(a, v.axes) for a in v.args)
        ordinary = (f"({self.function('abs', [x])} < {literal(v.limit)})" for x in (far, reference))
        return self.choose(" & ".join(ordinary), near, far)

    def quotient(self, a: str, b: str, v: Value) -> str:
        """A correctly rounded quotient: by default what `/` gives."""
        return f"{a} / {b}"

    def _dot(self, v: Dot) -> str:
        """A matrix product: operands in the order and with the axes that give `v.axes`."""
        contracted, batch = v.contracted, v.batch
        a, b = v.args[:2]
        own = [tuple(q for q in x.axes if q != contracted and q not in batch) for x in (a, b)]
        # A matrix unit multiplies matrices: one own axis each.
        if len(own[0]) != 1 or len(own[1]) != 1:
            return self._product_of_many_axes(v)
        # The result's rows come from the left operand; the product of exchanged operands is the transposed one.
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

    def _product_of_many_axes(self, v: Dot) -> str:
        """A product that is no matrix product: multiplied over all axes, then summed."""
        axes = tuple(q for q in self.plan.order if q in {*v.axes, v.contracted})
        operands = []
        for x in v.args[:2]:
            text = self.name(x) if x.dtype == v.dtype else self.cast(self.name(x), v.dtype)
            operands.append(text + self.broadcast(x.axes, axes))
        total = self.reduce("add", " * ".join(operands), axes.index(v.contracted))
        return f"{self.name(v.args[2])} + {total}" if len(v.args) > 2 else total

    def _arranged(self, text: str, have: tuple[Rank, ...], want: tuple[Rank, ...]) -> str:
        return text if have == want else self.permute(text, [have.index(q) for q in want])
