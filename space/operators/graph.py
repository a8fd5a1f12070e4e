"""Graphs of operators. Ranks of inputs that a graph writes with sizes alone, as far as its operators tell them.

    (let K (CreateTensor 64 1024 "K"))   (let BK (T_split_m_m1m0 K 4))   (R_add_e (M_mul_em1m0p Q BK))

A map's operands together have its iteration space and nothing else; what is reduced or split is a rank of its operand;
a rank that a sum takes of a product is one of each factor (a contraction); an input has as many ranks as sizes, which
stand in the notation's order (`operators.in_order`); a rank has one size. What follows from these is taken, found as
bounds on each value's ranks that are narrowed until nothing changes; what does not is left to be said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, islice

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Expr, Gather, Predicate, Rank, Tensor, free, tensors

from .operators import Operand, Operation, check_arity, check_reduced, check_spaces, in_order, with_spaces

MAX_CHOICES = 1_000
"""Of one input: beyond these its sizes narrow nothing."""
SHOWN = 4


@dataclass(frozen=True)
class OperatorGraph:
    """Operations in order, each after those that it reads.

    results: the outputs; empty means every output that no operation reads.
    sizes: what the text says of ranks (the constant of a split is the number of tiles).
    shapes: the sizes of inputs' axes, where the text says them. found: inputs whose ranks are not written, but follow
    from the operators (`assignments`).
    """

    operations: tuple[Operation, ...]
    results: tuple[str, ...] = ()
    sizes: Mapping[Rank, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    found: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        made: set[str] = set()
        outputs = {o.output for o in self.operations}
        for o in self.operations:
            if o.output in made:
                raise CascadeError(f"{o.output} is defined once, but {o.operator} defines it again")
            check_arity(o)
            for x in o.operands:
                if isinstance(x, str) and x in outputs and x not in made:
                    raise CascadeError(f"{o.output} = {o.operator}: reads {x}, which is defined later or is itself")
            made.add(o.output)
        check_spaces(self.operations)
        for name in self.results:
            if name not in made:
                raise CascadeError(f"result {name}: no operation defines it (defined: {sorted(made)})")

    @property
    def outputs(self) -> tuple[str, ...]:
        read = {x for o in self.operations for x in o.operands if isinstance(x, str)}
        return self.results or tuple(o.output for o in self.operations if o.output not in read)

    def tiles(self, o: Operation) -> int | None:
        """The constant of a split: its number of tiles, where that is known."""
        return self.sizes.get(o.operator.ranks[1]) if (o.operator.kind, o.operator.op) == ("T", "split") else None

    def with_ranks(self, ranks: Mapping[str, tuple[Rank, ...]]) -> OperatorGraph:
        """The same graph with the ranks of inputs that are not written. Raises CascadeError for another name."""
        open_inputs = [*self.unranked(), *sorted(self.found)]
        unknown = sorted(set(ranks) - set(open_inputs))
        if unknown:
            raise CascadeError(f"ranks are given for inputs without ({open_inputs}), but got {unknown}")
        as_written: dict[str, Operand] = {name: name for name in self.found}
        said = _read_as(self.operations, {**as_written, **_accesses(ranks)})
        return with_found_ranks(replace(self, operations=said, found=frozenset()))

    def with_known(self, ranks: Mapping[str, tuple[Rank, ...]]) -> OperatorGraph:
        """The same graph with ranks that were found for inputs. Raises CascadeError where they do not fit."""
        operations = _read_as(self.operations, _accesses(ranks))
        return replace(self, operations=operations, found=self.found | set(ranks))

    def unranked(self) -> list[str]:
        """The inputs whose ranks are not written."""
        made = {o.output for o in self.operations}
        names = (x for o in self.operations for x in o.operands if isinstance(x, str) and x not in made)
        return list(dict.fromkeys(names))


def _accesses(ranks: Mapping[str, tuple[Rank, ...]]) -> dict[str, Operand]:
    return {name: Access(Tensor(name, r), r) for name, r in ranks.items()}


def _read_as(operations: tuple[Operation, ...], inputs: Mapping[str, Operand]) -> tuple[Operation, ...]:
    """The operations with inputs, by name, read in another way."""

    def read(x: Operand) -> Operand:
        name = x.tensor.name if isinstance(x, Access) else x
        return inputs.get(name, x) if isinstance(name, str) else x

    return tuple(replace(o, operands=tuple(read(x) for x in o.operands)) for o in operations)


def operands_ranks(graph: OperatorGraph) -> dict[str, frozenset[Rank] | None]:
    """The ranks that each operation's operands have together, by its output; None where some are not known."""
    return {o.output: ranks if is_whole else None for o, ranks, is_whole in with_spaces(graph.operations)}


# ---- ranks that are not written


def with_found_ranks(graph: OperatorGraph, spaces: Mapping[str, frozenset[Rank]] | None = None) -> OperatorGraph:
    """The graph with the ranks that its operators tell of inputs with sizes.

    spaces: what the operand of a reduction ranges over, by the reduction's output, where its spelling says so. Raises
    CascadeError where sizes or spaces contradict each other or the ranks.
    """
    check_reduced(graph.operations)
    open_inputs = [n for n in graph.unranked() if n in graph.shapes]
    found = _narrowed(graph, spaces or {}) if open_inputs else _Bounds()
    settled = {n: r for n in open_inputs if (r := found.settled(n)) is not None}
    done = graph.with_known(settled)
    extents(done)
    _check_said(done, spaces or {})
    return done


def choices_text(graph: OperatorGraph) -> str:
    """What the operators leave of the first input that has sizes and no ranks: `Q e,m or e,p`, or nothing."""
    name = next((n for n in graph.unranked() if n in graph.shapes), None)
    if name is None:
        return ""
    found = list(islice(_narrowed(graph, {}).choices(name, len(graph.shapes[name])), SHOWN + 1))
    return f"{name} {_either(found)}" if found else ""


def _either(choices: Sequence[tuple[Rank, ...]]) -> str:
    """Alternatives in words: `e,m or e,p`."""
    return " or ".join([*map(",".join, choices[:SHOWN]), *(["…"] if len(choices) > SHOWN else [])])


def extents(graph: OperatorGraph) -> dict[Rank, int]:
    """The sizes of ranks that the inputs' sizes say. Raises CascadeError where two inputs contradict each other."""
    said: dict[Rank, tuple[int, str]] = {}
    leaves = [x for o in graph.operations for x in o.operands if isinstance(x, (Access, Gather))]
    for name, tensor in tensors(leaves).items():
        shape = graph.shapes.get(name, ())
        if shape and len(shape) != len(tensor.ranks):
            raise CascadeError(f"{name} has {len(shape)} sizes {list(shape)}, but the ranks {list(tensor.ranks)}")
        for rank, n in zip(tensor.ranks, shape, strict=False):
            size, by = said.setdefault(rank, (n, name))
            if size != n:
                raise CascadeError(f"rank {rank} must have one size, but {by} says {size} and {name} says {n}")
    return {rank: n for rank, (n, _) in said.items()}


def _check_said(graph: OperatorGraph, spaces: Mapping[str, frozenset[Rank]]) -> None:
    check_reduced(graph.operations)
    known = operands_ranks(graph)
    for output, space in spaces.items():
        ranks = known[output]
        if ranks is not None and ranks != space:
            raise CascadeError(
                f"{output} iterates {list(in_order(space))}, but its operand has {list(in_order(ranks))}"
            )


# ---- bounds


class _Contradiction(Exception):
    """The bounds of a value exclude each other."""


@dataclass
class _Bounds:
    """For each value, by name, the ranks that it certainly has, and those that it may have (None: any rank)."""

    least: dict[str, frozenset[Rank]] = field(default_factory=dict)
    most: dict[str, frozenset[Rank]] = field(default_factory=dict)
    changed: bool = False

    def of(self, x: Operand) -> tuple[frozenset[Rank], frozenset[Rank] | None]:
        if isinstance(x, str):
            return self.least.get(x, frozenset()), self.most.get(x)
        ranks = _ranks_of(x)
        return ranks, ranks

    def at_least(self, x: Operand, ranks: frozenset[Rank]) -> None:
        least, most = self.of(x)
        if most is not None and not ranks <= most:
            raise _Contradiction(x)
        if isinstance(x, str) and not ranks <= least:
            self.least[x], self.changed = least | ranks, True

    def at_most(self, x: Operand, ranks: frozenset[Rank]) -> None:
        least, most = self.of(x)
        if not least <= ranks:
            raise _Contradiction(x)
        if isinstance(x, str) and (most is None or not most <= ranks):
            self.most[x], self.changed = ranks if most is None else most & ranks, True

    def settled(self, name: str) -> tuple[Rank, ...] | None:
        least, most = self.of(name)
        return in_order(least) if least == most else None

    def choices(self, name: str, axes: int) -> Iterator[tuple[Rank, ...]]:
        """The ranks that an input of so many axes may have."""
        least, most = self.of(name)
        for more in combinations(in_order((most or least) - least), max(axes - len(least), 0)):
            if len(least) <= axes:
                yield in_order(least | set(more))


def _narrowed(graph: OperatorGraph, spaces: Mapping[str, frozenset[Rank]]) -> _Bounds:
    """Bounds with contractions, else without: a product's sum over what one factor lacks is no contradiction."""
    for contractions in (True, False):
        bounds = _Bounds()
        try:
            bounds.changed = True
            while bounds.changed:
                bounds.changed = False
                _narrow(graph, spaces, bounds, contractions)
            return bounds
        except _Contradiction as contradiction:
            at = contradiction.args[0]
    name = at if isinstance(at, str) else str(at)
    shapes = ", ".join(f"{n} {'×'.join(map(str, graph.shapes[n]))}" for n in graph.unranked() if n in graph.shapes)
    raise CascadeError(f"no ranks of {name} fit the operators and the sizes of the inputs ({shapes})")


def _narrow(graph: OperatorGraph, spaces: Mapping[str, frozenset[Rank]], bounds: _Bounds, contractions: bool) -> None:
    products = {o.output: o for o in graph.operations if (o.operator.kind, o.operator.op) == ("M", "mul")}
    for o in graph.operations:
        _RULES.get(o.operator.kind, _reduced)(o, bounds)
        if o.output in spaces:
            bounds.at_least(o.operands[0], spaces[o.output])
            bounds.at_most(o.operands[0], spaces[o.output])
        product = products.get(o.operands[0]) if isinstance(o.operands[0], str) else None
        if contractions and product and (o.operator.kind, o.operator.op) == ("R", "add"):
            for factor in product.operands:
                if bounds.of(factor)[1] != frozenset():  # a number is no factor of a contraction
                    bounds.at_least(factor, frozenset(o.operator.ranks))
    known: dict[Rank, int] = {}
    for name, shape in graph.shapes.items():
        known.update(zip(bounds.settled(name) or (), shape, strict=False))
    for name in graph.unranked():
        if name in graph.shapes:
            _fit(name, graph.shapes[name], known, bounds)


def _fit(name: str, shape: tuple[int, ...], known: Mapping[Rank, int], bounds: _Bounds) -> None:
    """An input has as many ranks as sizes, and those of known sizes at their places."""
    least, most = bounds.of(name)
    if most is None:
        return
    if len(least) > len(shape) or len(most) < len(shape):
        raise _Contradiction(name)
    every = list(islice(bounds.choices(name, len(shape)), MAX_CHOICES + 1))
    fitting = [c for c in every if all(known.get(r, n) == n for r, n in zip(c, shape, strict=True))]
    if len(every) > MAX_CHOICES:
        return
    if not fitting and len(every) > 1:
        sizes = ", ".join(f"{r}={known[r]}" for r in in_order(frozenset().union(*every)) if r in known)
        raise CascadeError(
            f"{name} has the sizes {list(shape)}, which none of the ranks that the operators leave has "
            f"({_either(every)}, where {sizes})"
        )
    fitting = fitting or every  # one choice of other sizes: said by rank, in `extents`
    bounds.at_least(name, frozenset.intersection(*map(frozenset, fitting)))
    bounds.at_most(name, frozenset[Rank]().union(*fitting))


def _mapped(o: Operation, bounds: _Bounds) -> None:
    space = frozenset(o.operator.ranks)
    bounds.at_least(o.output, space)
    bounds.at_most(o.output, space)
    for x in o.operands:
        bounds.at_most(x, space)
    for i, x in enumerate(o.operands):
        others = [bounds.of(y)[1] for j, y in enumerate(o.operands) if j != i]
        bounds.at_least(x, space.difference(*(r if r is not None else space for r in others)))


def _reduced(o: Operation, bounds: _Bounds) -> None:
    """A reduction's operand has its rank. A fold's operands have it together, which bounds neither."""
    rank = frozenset(o.operator.ranks)
    if o.operator.kind == "R":
        (x,) = o.operands
        bounds.at_least(x, rank)
        _both_ways(o, bounds, lambda ranks: ranks - rank, lambda ranks: ranks | rank)


def _viewed(o: Operation, bounds: _Bounds) -> None:
    a, b, c = o.operator.ranks
    split = o.operator.op == "split"
    whole, parts = (a, frozenset((b, c))) if split else (c, frozenset((a, b)))
    one = frozenset((whole,))
    if split:
        bounds.at_least(o.operands[0], one)
        _both_ways(o, bounds, lambda r: r - one | parts, lambda r: r - parts | one)
    else:  # of a value of each tile only one of the parts may be there
        least, most = bounds.of(o.operands[0])
        bounds.at_least(o.output, least - parts | one)
        if most is not None:
            bounds.at_most(o.output, most - parts | one)


_Change = Callable[[frozenset[Rank]], frozenset[Rank]]


def _both_ways(o: Operation, bounds: _Bounds, after: _Change, before: _Change) -> None:
    (x,) = o.operands
    least, most = bounds.of(x)
    bounds.at_least(o.output, after(least))
    if most is not None:
        bounds.at_most(o.output, after(most))
    least, most = bounds.of(o.output)
    bounds.at_least(x, before(least))
    if most is not None:
        bounds.at_most(x, before(most))


_RULES: dict[str, Callable[[Operation, _Bounds], None]] = {"M": _mapped, "R": _reduced, "F": _reduced, "T": _viewed}


def _ranks_of(x: Expr | Predicate) -> frozenset[Rank]:
    return x.ranks if isinstance(x, Predicate) else free(x)


def check_computation(found: object) -> None:
    """Raises CascadeError for what is no computation, such as the text of one."""
    if not isinstance(found, (Cascade, IterativeCascade, OperatorGraph)):
        raise CascadeError(
            f"a computation is a Cascade, an IterativeCascade or an OperatorGraph (of Cascade.parse, or of read), but "
            f"got {type(found).__name__}"
        )
