"""The loop plan: what one program of a kernel does, as a tree of loops over SSA values.

A plan is hardware-free, workload-free and printable (`str(plan)`). The cost model prices it; every emitter
prints code from it. Invariants (`check`): a value stands in the outermost block that holds its loop ranks; a
carry's axes equal its next's; the invalid lanes of a reduced tile hold the reduction's identity; no reduction
runs over a rank whose role is "grid" (it is cut there: a `Program` has a plan for the parts and one that merges them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .expr import Part, Predicate, Rank, Tensor


class IllegalPlan(ValueError):
    """A cascade that this schedule cannot lay out; the message names the rule and the value."""


@dataclass(frozen=True)
class Role:
    """What a schedule does with one rank.

    outer: "grid" (programs iterate it), "loop" (one program iterates it), or None (all of it at once).
    tile: length of the tile axis; None means the rank is a scalar index inside the program (no axis).
    (None, tile) is a whole axis, padded to `tile`.
    parts: a loop may be divided into so many parts, each run by a program of its own; another kernel merges them.
    pack: (None, None) with the rank whose tiles run over this one too, as many rows as both have indices.
    """

    outer: Literal["grid", "loop"] | None
    tile: int | None
    parts: int = 1
    pack: Rank | None = None

    def to_json(self) -> list[str | int | None]:
        """The fields in order, up to the last that is not as usual."""
        if self.pack:
            return [self.outer, self.tile, self.parts, self.pack]
        return [self.outer, self.tile, *([self.parts] if self.parts > 1 else [])]


@dataclass(frozen=True)
class LoopPart:
    """The part of a loop that a program runs: [rank * length, (rank + 1) * length), `rank` being a grid rank."""

    rank: Rank
    length: int


# ---- integer bounds of loops and of the ranges where a filter is known to hold


@dataclass(frozen=True)
class Lit:
    value: int


@dataclass(frozen=True)
class First:
    """The first index of the rank in this program's (or this iteration's) tile; its index if it has no tile."""

    rank: Rank


@dataclass(frozen=True)
class Last:
    """The last valid index of the rank in the tile: min(first + tile, size) - 1."""

    rank: Rank


@dataclass(frozen=True)
class Sum:
    """sum(coefficient * bound)."""

    terms: tuple[tuple[int, Bound], ...]


@dataclass(frozen=True)
class Least:
    args: tuple[Bound, ...]


@dataclass(frozen=True)
class Greatest:
    args: tuple[Bound, ...]


@dataclass(frozen=True)
class FloorTo:
    """The largest multiple of `step` that is at most max(arg, 0)."""

    arg: Bound
    step: int


@dataclass(frozen=True)
class CeilTo:
    """The least multiple of `step` that is at least max(arg, 0)."""

    arg: Bound
    step: int


@dataclass(frozen=True)
class Number:
    """A scalar integer that was loaded or computed. assumed: what it is priced as, since it depends on data; least,
    most: what it can be. limited: whether it stands for the nearest integer within those, whatever was loaded."""

    value: Value
    assumed: int | Bound
    least: int = -(2**31)
    most: int = 2**31 - 1
    limited: bool = False


Bound: TypeAlias = Lit | First | Last | Sum | Least | Greatest | FloorTo | CeilTo | Number


def bound_value(
    b: Bound,
    first: Mapping[Rank, int],
    last: Mapping[Rank, int],
    number: Callable[[Value], int] = lambda v: 0,
) -> int:
    """The number a bound stands for, given the tile's first and last index of each rank, and what was loaded."""
    match b:
        case Lit():
            return b.value
        case First():
            return first[b.rank]
        case Last():
            return last[b.rank]
        case Sum():
            return sum(c * bound_value(t, first, last, number) for c, t in b.terms)
        case Least():
            return min(bound_value(a, first, last, number) for a in b.args)
        case Greatest():
            return max(bound_value(a, first, last, number) for a in b.args)
        case FloorTo():
            return max(bound_value(b.arg, first, last, number), 0) // b.step * b.step
        case CeilTo():
            return -(-max(bound_value(b.arg, first, last, number), 0) // b.step) * b.step
        case Number():
            return min(max(number(b.value), b.least), b.most) if b.limited else number(b.value)


# ---- the tree


@dataclass(frozen=True)
class Within:
    """What addresses an axis: a number that is computed of indices (the next of a load's `args`), and what it lies
    within wherever the tile is valid."""

    low: int
    high: int

    def inside(self, length: int) -> bool:
        """Whether it never lies beyond an axis of this length."""
        return self.low >= 0 and self.high < length


Addressed: TypeAlias = "Rank | Part | Within | None"
"""What addresses an axis of a tensor in a load or store."""


@dataclass(eq=False)
class Value:
    """One SSA value: a tile with `axes` (ordered by the plan's rank order; none for a scalar).

    op and attr:
      load    attr (tensor name, index)                a tile of an input, invalid lanes 0; for each axis the index
                                                       has a rank, a Part of one, or None or Within: the next of
                                                       `args`; one beyond the axis reads no other memory, and nothing
                                                       relies on what it gives
      store   attr (output name, ranks); args (value,)
      const   attr float; iota attr rank, the index; lane attr rank, the index less the tile's first; first attr rank,
              the tile's first index; part attr Part, of the index, a whole number; carry (a loop's running value,
              set by its Carry)
      cast    to `dtype`
      a name of pointwise.POINTWISE (arithmetic in fp32)
      scale   attr float: args[0] * attr
      where   attr (Predicate, fill): the filter on this tile's indices; after what is filtered, args has the numbers
              that the filter reads
      guard   -inf becomes 0 (the reference of a fold whose rows may be empty)
      row_factor  attr RowFactor: what a row's scores are multiplied by, given their maximum
      rounded  a product that is rounded before it is subtracted
      div_rn  div, correctly rounded in any dialect: what a floor or a comparison depends on
      quotient  div with 0/0 = 0 (where a divisor may be 0; plain div elsewhere)
      reduce  attr (op, axis): over one tile axis
      dot     attr (contracted axis, batch axes); args (a, b) or (a, b, accumulator)
    """

    name: str
    op: str
    args: tuple[Value, ...]
    attr: object
    axes: tuple[Rank, ...]
    dtype: str


@dataclass(eq=False)
class Carry:
    """A running value of a loop: `value` holds `init` before it, `next` after each iteration."""

    value: Value
    init: float
    next: Value


Known: TypeAlias = Predicate | Value
"""What may be known to hold on all of a tile: a filter, or a boolean value, which depends on data."""


@dataclass(frozen=True)
class Segment:
    """A range of a loop [lo, hi) in elements, with the filters and conditions that hold on all of it."""

    lo: Bound
    hi: Bound
    known: frozenset[Known]


@dataclass(eq=False)
class Loop:
    """One pass over `rank` in steps of `tile`; the segments run one after the other over the same body.

    clear: if it is one loop in code, the range outside of which its filters and selections, and what only they need,
    are evaluated, in a branch; between the loop's own ends it is the segment that knows something.
    """

    rank: Rank
    tile: int
    segments: tuple[Segment, ...]
    carries: tuple[Carry, ...]
    body: Block
    clear: tuple[Bound, Bound] | None = None

    @property
    def joined(self) -> bool:
        """Whether it is one loop in code."""
        return self.clear is not None

    def whole(self) -> Segment:
        """The segments as one, of which nothing is known."""
        return Segment(self.segments[0].lo, self.segments[-1].hi, frozenset())

    @property
    def ends(self) -> tuple[Bound, Bound]:
        """Where it starts and ends."""
        return self.segments[0].lo, self.segments[-1].hi


@dataclass(eq=False)
class Block:
    """Values and loops in order. `ranks` are the loop ranks around it."""

    ranks: frozenset[Rank]
    items: list[Value | Loop] = field(default_factory=list)


def all_values(block: Block) -> list[Value]:
    """Every value in a block and its loops, in order."""
    found: list[Value] = []
    for item in block.items:
        found += all_values(item.body) if isinstance(item, Loop) else [item]
    return found


@dataclass(eq=False)
class LoopPlan:
    """One kernel.

    order: the global order of ranks; a value's axes follow it. grid: ranks that programs iterate, fastest
    varying first. dtypes: by tensor name. sizes: of the ranks, and of the axes of inputs that are addressed by other
    numbers than a rank's index, by their own names. parts: of the loops that run over a part of their rank.
    """

    roles: dict[Rank, Role]
    sizes: dict[Rank, int]
    order: tuple[Rank, ...]
    grid: tuple[Rank, ...]
    root: Block
    inputs: dict[str, Tensor]
    outputs: dict[str, tuple[Rank, ...]]
    dtypes: dict[str, str]
    parts: dict[Rank, LoopPart] = field(default_factory=dict)

    def __str__(self) -> str:
        from .plan_text import format_plan

        return format_plan(self)

    def programs(self) -> int:
        """The number of programs in the grid."""
        n = 1
        for r in self.grid:
            n *= -(-self.sizes[r] // (self.roles[r].tile or 1))
        return n

    def loops(self) -> Iterator[Loop]:
        """All loops, outermost first, in order."""

        def walk(block: Block) -> Iterator[Loop]:
            for item in block.items:
                if isinstance(item, Loop):
                    yield item
                    yield from walk(item.body)

        return walk(self.root)

    def length(self, axis: Rank) -> int:
        """The tile length of an axis."""
        tile = self.roles[axis].tile
        assert tile is not None, f"rank {axis} has no tile axis"
        return tile


@dataclass(frozen=True, eq=False)
class Program:
    """Kernels that run one after the other. What one writes and the program does not give is a workspace of later
    ones; the last one writes the program's outputs."""

    kernels: tuple[LoopPlan, ...]

    def __str__(self) -> str:
        from .plan_text import format_program

        return format_program(self)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the kernels read and none of them writes."""
        return {n: t for k in self.kernels for n, t in k.inputs.items() if n not in self.workspaces}

    @property
    def outputs(self) -> dict[str, tuple[Rank, ...]]:
        return self.kernels[-1].outputs

    @property
    def workspaces(self) -> dict[str, LoopPlan]:
        """What is written for a later kernel, with the plan that writes it."""
        return {n: k for k in self.kernels[:-1] for n in k.outputs}

    @property
    def dtypes(self) -> dict[str, str]:
        """By tensor name, workspaces too."""
        return {n: d for k in self.kernels for n, d in k.dtypes.items()}

    @classmethod
    def of(cls, plan: LoopPlan | Program) -> Program:
        """A plan as a program of one kernel."""
        return plan if isinstance(plan, Program) else cls((plan,))
