"""The expression graph: interned, frozen nodes over named ranks.

An expression denotes a tensor whose axes are its *free ranks* (`free(x)`). Nodes are interned: building the
same node twice returns the same object, so equality is identity, hashing is constant time and a shared
subexpression is shared for ever. Sizes are symbols (a rank's name); numbers are bound when a plan is built.

Meaning of the corner cases, here and in every emitter: `0 / 0 = 0` (an empty quotient is empty), and a
`Fold` whose reference is -inf everywhere is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias, TypeVar, dataclass_transform

Rank: TypeAlias = str
"""A rank's name: one lower-case letter and optional digits (`m`, `m1`). `m1` and `m0` usually split `m`."""

NEG_INF = float("-inf")


@dataclass_transform(frozen_default=True)
class _Interned(type):
    """Metaclass: one object per value. The table's key holds children by identity."""

    _table: ClassVar[dict[tuple[Any, ...], Any]] = {}

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        new = super().__call__(*args, **kwargs)
        key = (cls, *(_key(getattr(new, f.name)) for f in fields(new)))
        return _Interned._table.setdefault(key, new)


def _key(value: Any) -> Any:
    # 0.0 and -0.0, and 1 and True and 1.0, are equal in Python and differ here.
    return (type(value).__name__, repr(value)) if isinstance(value, (float, int)) else value


def _node(cls: type[_T]) -> type[_T]:
    return dataclass(frozen=True, eq=False)(cls)


_T = TypeVar("_T")


class _Node(metaclass=_Interned):
    """Shared behaviour of all expression nodes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, f.name) for f in fields(self))

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self

    def __add__(self, other: Expr | float) -> Expr:
        return Map("add", (_this(self), as_expr(other)))

    def __radd__(self, other: Expr | float) -> Expr:
        return Map("add", (as_expr(other), _this(self)))

    def __sub__(self, other: Expr | float) -> Expr:
        return Map("sub", (_this(self), as_expr(other)))

    def __rsub__(self, other: Expr | float) -> Expr:
        return Map("sub", (as_expr(other), _this(self)))

    def __mul__(self, other: Expr | float) -> Expr:
        return Map("mul", (_this(self), as_expr(other)))

    def __rmul__(self, other: Expr | float) -> Expr:
        return Map("mul", (as_expr(other), _this(self)))

    def __truediv__(self, other: Expr | float) -> Expr:
        return Map("div", (_this(self), as_expr(other)))

    def __rtruediv__(self, other: Expr | float) -> Expr:
        return Map("div", (as_expr(other), _this(self)))

    def __neg__(self) -> Expr:
        return Map("neg", (_this(self),))


@dataclass(frozen=True)
class Tensor:
    """A named tensor. `kind` says what its elements are: "float", "int" or "bool".

    `ranks` are the tensor's own names for its axes, outermost first; an `Access` may use other names.
    """

    name: str
    ranks: tuple[Rank, ...]
    kind: str = "float"


@_node
class Access(_Node):
    """`tensor[index]`: axis i of the tensor is iterated by the rank `index[i]`."""

    tensor: Tensor
    index: tuple[Rank, ...]


@dataclass(frozen=True)
class Part:
    """A part of a rank's index: its quotient `m // 64` (op "//") or its remainder `m % 64` (op "%") by a constant."""

    op: str
    rank: Rank
    by: int


@dataclass(frozen=True)
class Computed:
    """A whole number that is computed: `p-m+3`, `min(abs(p-m),64)`. op: one of `index_arithmetic.OPERATORS`; a product
    has a constant factor (a number, or a size)."""

    op: str
    args: tuple[Integer, ...]


@_node
class Gather(_Node):
    """`tensor[index]` where some axis is indexed by more than a rank: a part of one, an element of an integer tensor,
    `KC[BT[b,m//64],m%64,h,e]`, or a number computed of those, `T[h,p-m+3]`.

    A leaf: it reads inputs only, and no law looks into it. Such an axis has the length of the tensor's own name for
    it. An element beyond an axis is an error of the data: the reference raises, a kernel reads no other memory. So is
    a number that is computed of indices only, which sizes alone refuse (`gathers.check_indices`). Or the tensor is
    `padded`: wherever an element or a computed number lies beyond its axis, it is 0.
    """

    tensor: Tensor
    index: tuple[Index, ...]
    padded: bool = False


@_node
class Const(_Node):
    """A number, free of every rank."""

    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))  # 2, 2.0 and numpy's 2.0 are one node


@_node
class Param(_Node):
    """A scalar whose value is bound when a plan is built (`bind`), such as a softmax scale."""

    name: str


@_node
class Size(_Node):
    """The number of elements of a rank, as a scalar."""

    rank: Rank


@_node
class Iota(_Node):
    """The index value of a rank: element i is i."""

    rank: Rank


@_node
class Map(_Node):
    """A pointwise operator of `pointwise.POINTWISE`; ranks broadcast by name."""

    op: str
    args: tuple[Expr, ...]


@_node
class Reduce(_Node):
    """`op` over all elements of `rank`; op is a key of `pointwise.REDUCTIONS` ("add", "max", "min", "mul").

    Over a rank that is not free in `arg` the meaning is still `|rank|` copies (a sum multiplies by the size).
    """

    op: str
    rank: Rank
    arg: Expr


@dataclass(frozen=True)
class Term:
    """`coef * index(rank) * |stride|`; `stride` None means 1. A split rank m reads as (m1, stride m0), (m0)."""

    rank: Rank
    coef: int
    stride: Rank | None = None


@dataclass(frozen=True)
class Predicate:
    """An affine filter on ranks: sum(terms) + sum(c * |r| for r, c in sizes) + const >= 0.

    `m <= p` is terms (m,-1),(p,1); `m <= p + M - P` adds sizes (("m",1),("p",-1)). numbers: elements of integer
    inputs that are added, times a coefficient; only what a plan is built from has any (`filters`).
    """

    terms: tuple[Term, ...]
    sizes: tuple[tuple[Rank, int], ...] = ()
    const: int = 0
    numbers: tuple[tuple[Access | Gather, int], ...] = ()

    @property
    def ranks(self) -> frozenset[Rank]:
        return frozenset(t.rank for t in self.terms).union(*(indexing_ranks(x) for x, _ in self.numbers))


@_node
class Where(_Node):
    """`arg` where the filter holds, else the constant `fill` (-inf for a filtered score, 0 for a filtered sum)."""

    predicate: Predicate
    arg: Expr
    fill: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "fill", float(self.fill))


@_node
class Fold(_Node):
    """One composite fold over `rank`: the second component of a reduction over a pair monoid.

    `action` names a row of `folds.ACTIONS` (a reference monoid and the group that acts on the accumulator):
    "scale": `sum_rank arg * exp(ref - max_rank ref)`; "translate": `sum_rank arg * (ref - mean_rank ref)**2`.
    others: the scores after the first of a row that has several. "comoment", of x and y:
    `sum_rank arg * (x - mean_rank x) * (y - mean_rank y)` with means weighed by arg; "softcomoment", of c, x and y:
    that with `arg * exp(c - max_rank c)` for arg.
    """

    action: str
    rank: Rank
    ref: Expr
    arg: Expr
    others: tuple[Expr, ...] = ()

    @property
    def scores(self) -> tuple[Expr, ...]:
        return self.ref, *self.others


@_node
class Split(_Node):
    """A view: rank -> (outer, inner), index(rank) = index(outer) * |inner| + index(inner). Moves no data."""

    arg: Expr
    rank: Rank
    outer: Rank
    inner: Rank


@_node
class Unsplit(_Node):
    """The inverse view: (outer, inner) -> rank."""

    arg: Expr
    outer: Rank
    inner: Rank
    rank: Rank


Index: TypeAlias = "Rank | Part | Access | Gather | Computed"
"""What may stand for one axis of an indexed access."""
Leaf: TypeAlias = "Rank | Part | Access | Gather | Size | int"
Integer: TypeAlias = "Leaf | Computed"
"""What a number is computed of."""

Expr: TypeAlias = Access | Gather | Const | Param | Size | Iota | Map | Reduce | Where | Fold | Split | Unsplit


def access(tensor: Tensor, index: tuple[Index, ...], padded: bool = False) -> Access | Gather:
    """`tensor[index]`, an `Access` where every axis is iterated by a rank of its own."""
    ranks = tuple(i for i in index if isinstance(i, str))
    return Access(tensor, ranks) if len(ranks) == len(index) else Gather(tensor, index, padded)


def is_padded(x: Access | Gather) -> bool:
    """Whether it is 0 where an element of an integer tensor lies beyond the axis that it addresses."""
    return isinstance(x, Gather) and x.padded


def _this(node: _Node) -> Expr:
    return node  # type: ignore[return-value]


def as_expr(value: Expr | float) -> Expr:
    """A number becomes a `Const`; a node stays."""
    return Const(float(value)) if isinstance(value, (int, float)) else value


def children(x: Expr) -> tuple[Expr, ...]:
    """The direct subexpressions, in field order."""
    match x:
        case Map():
            return x.args
        case Reduce() | Where() | Split() | Unsplit():
            return (x.arg,)
        case Fold():
            return (x.ref, x.arg, *x.others)
        case _:
            return ()


def with_children(x: Expr, new: tuple[Expr, ...]) -> Expr:
    """The same node over other subexpressions."""
    match x:
        case Map():
            return Map(x.op, new)
        case Reduce():
            return Reduce(x.op, x.rank, new[0])
        case Where():
            return Where(x.predicate, new[0], x.fill)
        case Split():
            return Split(new[0], x.rank, x.outer, x.inner)
        case Unsplit():
            return Unsplit(new[0], x.outer, x.inner, x.rank)
        case Fold():
            return Fold(x.action, x.rank, new[0], new[1], new[2:])
        case _:
            return x


_FREE: dict[Expr, frozenset[Rank]] = {}


def free(x: Expr) -> frozenset[Rank]:
    """The ranks that `x` varies with."""
    for node in topological([x], stop=_FREE):
        _FREE[node] = _free(node)
    return _FREE[x]


def _free(x: Expr) -> frozenset[Rank]:
    below = frozenset[Rank]().union(*(_FREE[a] for a in children(x)))
    match x:
        case Access():
            return frozenset(x.index)
        case Gather():
            return frozenset(indexing_ranks(x))
        case Iota():
            return frozenset((x.rank,))
        case Where():
            return below | x.predicate.ranks
        case Reduce() | Fold():
            return below - {x.rank}
        case Split():
            return below - {x.rank} | {x.outer, x.inner} if x.rank in below else below
        case Unsplit():
            return below - {x.outer, x.inner} | {x.rank} if below & {x.outer, x.inner} else below
        case _:
            return below


def indexing_ranks(x: Access | Gather) -> tuple[Rank, ...]:
    """The ranks that an access varies with, in the order of its axes, each once."""
    found: dict[Rank, None] = {}
    for i in (leaf for item in x.index for leaf in leaves(item)):
        match i:
            case str():
                found[i] = None
            case Part():
                found[i.rank] = None
            case Access() | Gather():
                found.update(dict.fromkeys(indexing_ranks(i)))
    return tuple(found)


def indexing_sizes(x: Access | Gather) -> tuple[Rank, ...]:
    """The ranks whose sizes an access computes with."""
    found: dict[Rank, None] = {}
    for i in (leaf for item in x.index for leaf in leaves(item)):
        match i:
            case Size():
                found[i.rank] = None
            case Access() | Gather():
                found.update(dict.fromkeys(indexing_sizes(i)))
    return tuple(found)


def leaves(i: Integer) -> Iterator[Leaf]:
    """What an index is computed of, left to right; itself, where it is not computed."""
    if isinstance(i, Computed):
        for a in i.args:
            yield from leaves(a)
    else:
        yield i


def with_leaves(i: Index, step: Callable[[Leaf], Integer]) -> Index:
    """An index with other leaves, in place of a leaf that is an index another one."""

    def new(x: Integer) -> Integer:
        return Computed(x.op, tuple(map(new, x.args))) if isinstance(x, Computed) else step(x)

    made = new(i)
    assert not isinstance(made, (int, Size)), f"a number alone addresses nothing, but {i} becomes {made}"
    return made


def looked_up(x: Access | Gather) -> tuple[Access | Gather, ...]:
    """The accesses whose elements address axes of `x`, or are among what such a number is computed of."""
    return tuple(i for item in x.index for i in leaves(item) if isinstance(i, (Access, Gather)))


def reads(roots: Iterable[Expr]) -> Iterator[Access | Gather]:
    """Every access of some expressions, as they are written, each before those that its index reads."""
    stack: list[Access | Gather] = []
    for x in reversed(topological(roots, operands=_as_written)):
        match x:
            case Access() | Gather():
                stack.append(x)
            case Where():
                stack += [number for number, _ in reversed(x.predicate.numbers)]
    while stack:
        read = stack.pop()
        yield read
        stack += reversed(looked_up(read))


def _as_written(x: Expr) -> tuple[Expr, ...]:
    """The operands in the order of the notation, where a fold's argument comes last."""
    return (*x.scores, x.arg) if isinstance(x, Fold) else children(x)


def topological(
    roots: Iterable[Expr],
    stop: Mapping[Expr, object] | None = None,
    operands: Callable[[Expr], tuple[Expr, ...]] = children,
) -> list[Expr]:
    """All nodes reachable from `roots`, operands before users, each once; does not enter keys of `stop`."""
    done: set[Expr] = set()
    order: list[Expr] = []
    stack: list[tuple[Expr, Iterator[Expr]]] = []

    def visit(x: Expr) -> None:
        if x not in done and not (stop and x in stop):
            done.add(x)
            stack.append((x, iter(operands(x))))

    for root in roots:
        visit(root)
        while stack:
            node, rest = stack[-1]
            child = next(rest, None)
            if child is None:
                order.append(node)
                stack.pop()
            else:
                visit(child)
    return order


def rewrite(roots: Iterable[Expr], step: Callable[[Expr], Expr | None]) -> list[Expr]:
    """Rebuild bottom-up; `step` sees each node over its new children and may return a replacement."""
    wanted = list(roots)
    new: dict[Expr, Expr] = {}
    for node in topological(wanted):
        old = children(node)
        over = tuple(new[a] for a in old)
        rebuilt = node if over == old else with_children(node, over)  # nodes are compared by identity
        new[node] = step(rebuilt) or rebuilt
    return [new[r] for r in wanted]


def bind(roots: Iterable[Expr], params: Mapping[str, float]) -> list[Expr]:
    """Replace each `Param` by its value. Raises KeyError for a parameter without one."""
    return rewrite(roots, lambda x: Const(float(params[x.name])) if isinstance(x, Param) else None)


def tensors(roots: Iterable[Expr]) -> dict[str, Tensor]:
    """The tensors read, by name, in first-use order."""
    return {x.tensor.name: x.tensor for x in reads(roots)}


def params(roots: Iterable[Expr]) -> list[str]:
    """The names of the unbound parameters, in first-use order."""
    return list(dict.fromkeys(x.name for x in topological(roots) if isinstance(x, Param)))
