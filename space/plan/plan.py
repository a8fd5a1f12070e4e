"""The loop plan: what one program of a kernel does, as a tree of loops over SSA values.

A plan is hardware-free, workload-free and printable (`str(plan)`). The cost model prices it; every emitter
prints code from it. Invariants (`check`): a value stands in the outermost block that holds its loop ranks; a
carry's axes equal its next's; the invalid lanes of a reduced tile hold the reduction's identity; no reduction
runs over a rank whose role is "grid" (it is cut there: a `Program` has a plan for the parts and one that merges them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TypeAlias, assert_never

from eintune.space.ir.expr import Part, Predicate, Rank, Tensor

from .bounds import Bound, CeilTo, First, FloorTo, Greatest, Last, Least, Lit, Number, PartStart, Size, Sum
from .roles import LoopSplit, Role
from .sizes import Sizes
from .values import (
    Addressed,
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
    Within,
)


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

    mask_free: of a loop that is printed as one, with its filters in a branch: the first index and the one after the
    last between which every filter and selection holds, so that the branch is not taken. Clipped to the loop's own
    ends it is the segment whose `known` is not empty.
    """

    rank: Rank
    tile: int
    segments: tuple[Segment, ...]
    carries: tuple[Carry, ...]
    body: Block
    mask_free: tuple[Bound, Bound] | None = None

    @property
    def joined(self) -> bool:
        """Whether it is one loop in code."""
        return self.mask_free is not None

    def whole(self) -> Segment:
        """One segment from the start of the first to the end of the last; no filter is known to hold on it."""
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


@dataclass(frozen=True, eq=False)
class Notes:
    """What programs of specialised warps note of themselves: each of their groups stores in `tensor` (int32; programs,
    groups of a program) 1 where `value`, a condition of the root block for each row, holds for one of its rows, else
    0."""

    tensor: str
    value: Value


@dataclass(frozen=True, eq=False)
class Doubt:
    """What a program does where a number of its root block is true: `again` stores what it would have stored. That plan
    has the same grid, in tiles of the same length or shorter ones, which the program goes over one after the other."""

    value: Value
    again: LoopPlan


@dataclass(eq=False)
class LoopPlan:
    """One kernel.

    order: the global order of ranks; a value's axes follow it. grid: ranks that programs iterate, fastest
    varying first. dtypes: by tensor name. sizes: of the ranks, and of the axes of inputs that are addressed by other
    numbers than a rank's index, by their own names; those that are not known are numbers in what `at` gives. splits:
    of the loops that run over a part of their rank. unfiltered: ranks along which values are weighted by 0 that each
    row hides for itself, and that are multiplied as they are (`unseen_values`). doubt: what is done where they spoilt a
    tile; all stores of the root block come last then. notes, repairs: where another kernel does it, the first notes
    which of its tiles may have to be computed again, in the tensor that the second is said to repair by (`repair`).
    pieces: of the latter, how long the tiles of programs are which it goes over in shorter ones.
    """

    roles: dict[Rank, Role]
    sizes: Sizes
    order: tuple[Rank, ...]
    grid: tuple[Rank, ...]
    root: Block
    inputs: dict[str, Tensor]
    outputs: dict[str, tuple[Rank, ...]]
    dtypes: dict[str, str]
    splits: dict[Rank, LoopSplit] = field(default_factory=dict)
    unfiltered: frozenset[Rank] = frozenset()
    doubt: Doubt | None = None
    notes: Notes | None = None
    repairs: str | None = None
    pieces: dict[Rank, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return format_plan(self)

    def at(self, sizes: Mapping[Rank, int]) -> LoopPlan:
        """The plan at sizes that are numbers, to be priced: it shares its values and loops with this one."""
        if not self.sizes.ranges:
            return self
        known = self.sizes.at(sizes)
        splits = {
            r: s if isinstance(s.length, int) else replace(s, length=known[s.length]) for r, s in self.splits.items()
        }
        return replace(self, sizes=known, splits=splits)

    def tables(self) -> list[tuple[Part, Rank]]:
        """Quotients of indices with the axes that they address, where the size of one of them is not known: the axis
        must be long enough."""
        loads = (v for v in all_values(self.root) if isinstance(v, Load) and v.tensor in self.inputs)
        addressed = (at for v in loads for at in zip(v.index, self.inputs[v.tensor].ranks, strict=True))
        unknown, derived = self.sizes.ranges.keys(), self.sizes.derived.keys()
        quotients = {(i, r) for i, r in addressed if isinstance(i, Part) and i.op == "//"}
        # What follows from another size is long enough by construction.
        found = {(i, r) for i, r in quotients if {i.rank, r} & unknown and not {i.rank, r} & derived}
        return sorted(found, key=str)

    def programs(self) -> int:
        """The number of programs in the grid."""
        return prod(-(-self.sizes[r] // self.program_tile(r)) for r in self.grid)

    def program_tile(self, rank: Rank) -> int:
        """How many indices of a rank of the grid a program has."""
        return self.pieces.get(rank) or self.roles[rank].tile or 1

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
    """Kernels that run one after the other. The last one writes the program's outputs, or repairs what one before it
    wrote; any other output is a workspace, which later ones read."""

    kernels: tuple[LoopPlan, ...]

    def __str__(self) -> str:
        return format_program(self)

    def at(self, sizes: Mapping[Rank, int]) -> Program:
        """As `LoopPlan.at`."""
        return Program(tuple(k.at(sizes) for k in self.kernels))

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the kernels read and none of them writes."""
        workspaces = self.workspaces
        return {n: t for k in self.kernels for n, t in k.inputs.items() if n not in workspaces}

    @property
    def outputs(self) -> dict[str, tuple[Rank, ...]]:
        return self.kernels[-1].outputs

    @property
    def workspaces(self) -> dict[str, LoopPlan]:
        """What is written for a later kernel, with the plan that writes it."""
        return {n: k for k in self.kernels[:-1] for n in k.outputs if n not in self.outputs}

    @property
    def dtypes(self) -> dict[str, str]:
        """By tensor name, workspaces too."""
        return {n: d for k in self.kernels for n, d in k.dtypes.items()}

    @classmethod
    def of(cls, plan: LoopPlan | Program) -> Program:
        """A plan as a program of one kernel."""
        return plan if isinstance(plan, Program) else cls((plan,))


def format_plan(plan: LoopPlan) -> str:
    """The grid, then one line a value, loops indented."""
    roles = ", ".join(f"{r}={plan.sizes.get(r, 'any')}:{_role(plan, r)}" for r in plan.order)
    lines = [f"ranks {roles}", f"grid {' '.join(plan.grid) or '-'}"]
    lines += [f"only where {plan.repairs} is not 0"] if plan.repairs else []
    lines += _block(plan.root, "")
    if plan.doubt:
        lines += [f"where {plan.doubt.value.name}, instead of what it stores:"]
        lines += [f"  {line}" for line in format_plan(plan.doubt.again).splitlines()]
    return "\n".join([*lines, *([f"note {plan.notes.value.name} in {plan.notes.tensor}"] if plan.notes else [])])


def format_program(program: Program) -> str:
    """The plans in order, each under what it writes where there are several."""
    if len(program.kernels) == 1:
        return format_plan(program.kernels[0])
    titles = [f"kernel {i}: {' '.join(k.outputs)}" for i, k in enumerate(program.kernels, 1)]
    return "\n\n".join(f"{title}\n{format_plan(k)}" for title, k in zip(titles, program.kernels, strict=True))


def _role(plan: LoopPlan, rank: str) -> str:
    role = plan.roles[rank]
    return "/".join(str(x) for x in (role.outer or "axis", role.tile) if x is not None)


def _block(block: Block, indent: str) -> Iterator[str]:
    for item in block.items:
        if isinstance(item, Value):
            yield indent + format_value(item)
            continue
        carries = ", ".join(f"{c.value.name}[{' '.join(c.value.axes)}] = {c.init:g}" for c in item.carries)
        joined = ", filters in a branch" if item.joined else ""
        yield f"{indent}loop {item.rank} by {item.tile}" + (f" carrying {carries}" if carries else "") + joined
        yield from (f"{indent}  segment {_segment(item, i)}" for i in range(len(item.segments)))
        yield from _block(item.body, indent + "  ")
        if item.carries:
            yield f"{indent}  next " + ", ".join(f"{c.value.name} <- {c.next.name}" for c in item.carries)


def _segment(loop: Loop, i: int) -> str:
    s = loop.segments[i]
    known = " and ".join(sorted(k.name if isinstance(k, Value) else format_predicate(k) for k in s.known))
    return f"[{format_bound(s.lo)}, {format_bound(s.hi)})" + (f" where {known}" if known else "")


def format_value(v: Value) -> str:
    """`d_4[p m]:fp32 = dot(q_2, k_3) over e`."""
    args = ", ".join(a.name for a in v.args)
    head = f"{v.name}[{' '.join(v.axes)}]:{v.dtype} = "
    match v:
        case Load():
            return f"{head}load {v.tensor}[{' '.join(_index(v.index, v))}]"
        case Store():
            return f"store {v.tensor}[{' '.join(_index(v.index, v))}] = {v.args[0].name}"
        case Mask():
            kept, *numbers = (a.name for a in v.args)
            return f"{head}where({format_predicate(v.predicate, numbers)}, {kept}, {v.fill})"
        case Dot():
            return f"{head}dot({args}) over {v.contracted}"
        case TileReduce():
            return f"{head}{v.reduction}({args}) over {v.axis}"
        case Scale():
            return f"{head}{args} * {v.factor!r}"
        case RowScale():
            return f"{head}{v.factors}({args})"
        case RowReference():
            return f"{head}{v.op}[below {v.limit:g}]({args})"
        case IndexPart():
            return f"{head}part {v.part.rank}{v.part.op}{v.part.by}"
        case Constant():
            return f"{head}{v.op} {v.number}"
        case Index() | Lane() | TileStart() | SizeOf():
            return f"{head}{v.op} {v.rank}"
        case Cast() | Elementwise() | Carried():
            return f"{head}{v.op}({args})"
        case _:
            assert_never(v)


def _index(index: tuple[Addressed, ...], v: Value) -> Iterator[str]:
    """What addresses each axis: a rank, a part of one, or a value."""
    args = iter(v.args)
    for i in index:
        match i:
            case None | Within():
                yield next(args).name
            case Part():
                yield f"{i.rank}{i.op}{i.by}"
            case _:
                yield str(i)


def format_predicate(p: Predicate, numbers: Sequence[str] = ()) -> str:
    """`m <= p + 3`: negative terms on the left. numbers: names of the numbers that it reads (their tensors' by
    default)."""
    named = list(zip(numbers or [x.tensor.name for x, _ in p.numbers], (c for _, c in p.numbers), strict=True))
    left = [_term(-t.coef, t.rank) for t in p.terms if t.coef < 0] + [_term(-c, f"|{r}|") for r, c in p.sizes if c < 0]
    right = [_term(t.coef, t.rank) for t in p.terms if t.coef > 0] + [_term(c, f"|{r}|") for r, c in p.sizes if c > 0]
    left += [_term(-c, name) for name, c in named if c < 0]
    right += [_term(c, name) for name, c in named if c > 0]
    (right if p.const > 0 else left).extend([str(abs(p.const))] if p.const else [])
    return f"{' + '.join(left) or '0'} <= {' + '.join(right) or '0'}"


def _term(coef: int, name: str) -> str:
    return name if coef == 1 else f"{coef} {name}"


def format_bound(b: Bound) -> str:
    """`floor(last(p) + 1, 64)`."""
    match b:
        case Lit():
            return str(b.value)
        case First():
            return f"first({b.rank})"
        case Last():
            return f"last({b.rank})"
        case Size():
            return f"|{b.rank}|"
        case PartStart():
            return f"{b.rank} * |{b.length}|"
        case Sum():
            return " + ".join(format_bound(t) if c == 1 else f"{c} * {format_bound(t)}" for c, t in b.terms)
        case Least():
            return f"min({', '.join(map(format_bound, b.args))})"
        case Greatest():
            return f"max({', '.join(map(format_bound, b.args))})"
        case FloorTo():
            return f"floor({format_bound(b.arg)}, {b.step})"
        case CeilTo():
            return f"ceil({format_bound(b.arg)}, {b.step})"
        case Number():
            return b.value.name
