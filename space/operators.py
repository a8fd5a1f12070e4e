"""Operator notation: a cascade as separate map, reduce and tiling operators.

    M_mul_emp      multiply, over the iteration space {e, m, p}; no reduction
    R_add_e        sum over e
    T_split_m_m1m0, T_unsplit_m1m0_m     m as m1 tiles of m0 elements each, and back
    F_scale_m      the composite fold "scale" over m (reference, argument); see `folds`

`operator_text` and `operator_egg` read and write graphs of these; here are the names, the graph, and its
translation to and from a cascade.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from .cascade import Cascade
from .einsum import CascadeError, Einsum
from .expr import (
    Access,
    Const,
    Expr,
    Fold,
    Gather,
    Iota,
    Map,
    Param,
    Predicate,
    Rank,
    Reduce,
    Size,
    Split,
    Tensor,
    Unsplit,
    Where,
    children,
    free,
    topological,
)
from .folds import ACTIONS
from .pointwise import POINTWISE, REDUCTIONS

_RANKS = re.compile(r"[a-z][0-9]{0,6}")
_NAME = re.compile(r"([MRTF])_([a-z0-9]+)((?:_(?:[a-z][0-9]{0,6})+)*)")
PART = re.compile(r"_temp\d*")
"""Ends the names that `from_cascade` gives to parts of an einsum."""
FORMS = "M_<op>_<ranks>, R_<op>_<rank>, T_split_<rank>_<ranks>, T_unsplit_<ranks>_<rank>, F_<action>_<rank>"


def in_order(ranks: frozenset[Rank] | set[Rank]) -> tuple[Rank, ...]:
    """Ranks as the notation orders them: by letter, an outer part before the inner one (m, m1, m0)."""
    return tuple(sorted(ranks, key=lambda r: (r[0], -int(r[1:] or 10**9))))


@dataclass(frozen=True)
class Operator:
    """An operator's name. `ranks`: a map's iteration space, a reduction's or fold's rank, a view's three ranks.

    A split's ranks are (whole, outer, inner), an unsplit's (outer, inner, whole), as they are written.
    """

    kind: str
    op: str
    ranks: tuple[Rank, ...]

    def __str__(self) -> str:
        groups = ["".join(self.ranks)]
        if self.kind == "T":
            cut = 1 if self.op == "split" else 2
            groups = ["".join(self.ranks[:cut]), "".join(self.ranks[cut:])]
        return "_".join([self.kind, self.op, *filter(None, groups)])

    @classmethod
    def parse(cls, name: str) -> Operator:
        """Raises CascadeError for a name that is no operator."""
        match = _NAME.fullmatch(name)
        if not match:
            raise CascadeError(f"{name} is no operator; the forms are {FORMS}")
        kind, op = match[1], match[2]
        groups = [tuple(_RANKS.findall(g)) for g in match[3].split("_")[1:]]
        ranks = tuple(r for g in groups for r in g)
        table, shape = _SHAPES[kind]
        if op not in table:
            raise CascadeError(f"{name}: there is no operation {op!r}; {kind}_ has {sorted(table)}")
        if [len(g) for g in groups] not in shape.get(op, shape["*"]) if shape else len(groups) > 1:
            raise CascadeError(f"{name}: the ranks do not fit; the forms are {FORMS}")
        if len(set(ranks)) != len(ranks):
            raise CascadeError(f"{name}: a rank stands twice")
        return cls(kind, op, ranks)


_SHAPES: dict[str, tuple[frozenset[str], dict[str, list[list[int]]]]] = {
    "M": (frozenset(POINTWISE) | {"where"}, {}),
    "R": (frozenset(REDUCTIONS), {"*": [[1]]}),
    "F": (frozenset(ACTIONS), {"*": [[1]]}),
    "T": (frozenset({"split", "unsplit"}), {"split": [[1, 2]], "unsplit": [[2, 1]], "*": []}),
}

Operand: TypeAlias = str | Access | Gather | Const | Param | Size | Iota | Predicate
"""A name (an operation's output, or an input whose ranks are not written), a leaf, or a filter."""


@dataclass(frozen=True)
class Operation:
    """`output = operator(operands)`. `ranks` is the order of the output's axes where it is written."""

    output: str
    operator: Operator
    operands: tuple[Operand, ...]
    ranks: tuple[Rank, ...] | None = None


@dataclass(frozen=True)
class OperatorGraph:
    """Operations in order, each after those that it reads.

    results: the outputs; empty means every output that no operation reads.
    sizes: what the text says of ranks (the constant of a split is the number of tiles).
    shapes: the sizes of inputs' axes, where the text says them. found: inputs whose ranks are not written, but follow
    from the operators (`operator_ranks`).
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
            _check_arity(o)
            for x in o.operands:
                if isinstance(x, str) and x in outputs and x not in made:
                    raise CascadeError(f"{o.output} = {o.operator}: reads {x}, which is defined later or is itself")
            made.add(o.output)
        _check_spaces(self.operations)
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
        from .operator_ranks import with_found_ranks

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


# ---- to a cascade


def to_cascade(graph: OperatorGraph) -> Cascade:
    """One einsum an operation; a map that only a reduction reads is written into it (a product and its sum).

    Raises CascadeError where an input's ranks are not written or an operation does not fit its operands.
    """
    if missing := graph.unranked():
        from .operator_ranks import choices_text

        name, left = missing[0], choices_text(graph)
        raise CascadeError(
            f"the ranks of {', '.join(missing)} are not written; write {name}_{{e,m}} on a line of its own or say "
            f"--ranks {name}=e,m{f' (the operators leave {left})' if left else ''}"
        )
    inlined = _inlined(graph)
    value: dict[str, Expr] = {}
    einsums = []
    for o in graph.operations:
        expr = _expression(o, [value[x] if isinstance(x, str) else x for x in o.operands])
        if o.output in inlined:
            value[o.output] = expr
            continue
        output = Tensor(o.output, o.ranks if o.ranks is not None else in_order(free(expr)))
        if len(set(output.ranks)) != len(output.ranks):
            raise CascadeError(f"{o.output}{list(output.ranks)}: a rank stands twice")
        einsums.append(Einsum(output, expr))
        value[o.output] = Access(output, output.ranks)
    return Cascade(tuple(einsums), graph.results)


def _inlined(graph: OperatorGraph) -> set[str]:
    """The maps that one reduction and nothing else reads."""
    readers: dict[str, list[Operation]] = {}
    for o in graph.operations:
        for x in o.operands:
            if isinstance(x, str):
                readers.setdefault(x, []).append(o)
    once = {name for name, by in readers.items() if len(by) == 1 and by[0].operator.kind == "R"}
    return {o.output for o in graph.operations if o.operator.kind == "M" and o.output in once - set(graph.outputs)}


def _expression(o: Operation, operands: list[Expr | Predicate]) -> Expr:
    """The node that an operation stands for."""
    operator, where = o.operator, f"{o.output} = {o.operator}"
    filters = [x for x in operands if isinstance(x, Predicate)]
    args = [x for x in operands if not isinstance(x, Predicate)]
    match operator.kind, operator.ranks:
        case "M", _:
            expr: Expr = Map(operator.op, tuple(args))
            if operator.op == "where":
                if not isinstance(args[1], Const):
                    raise CascadeError(f"{where} fills with a number")
                expr = Where(filters[0], args[0], args[1].value)
        case "R", (rank,):
            expr = Reduce(operator.op, rank, args[0])
        case "F", (rank,):
            expr = Fold(operator.op, rank, args[0], args[-1], tuple(args[1:-1]))
        case "T", (rank, a, b) if operator.op == "split":
            expr = Split(args[0], rank, a, b)
        case "T", (a, b, rank):
            expr = Unsplit(args[0], a, b, rank)
        case _:
            raise CascadeError(f"{where}: the forms are {FORMS}")
    return expr


def _check_arity(o: Operation) -> None:
    """Raises CascadeError for another number of operands or filters than the operator takes."""
    filters = sum(isinstance(x, Predicate) for x in o.operands)
    got, want = (len(o.operands) - filters, filters), _arity(o.operator)
    if got != want:
        raise CascadeError(
            f"{o.output} = {o.operator} takes {want[0]} operands and {want[1]} filters, but got {got[0]} and {got[1]}"
        )


def _check_spaces(operations: tuple[Operation, ...]) -> None:
    """Raises CascadeError for a map over another iteration space than its operands', as far as those are written."""
    for o, ranks, is_whole in _with_spaces(operations):
        if o.operator.kind == "M":
            _check_space(o, ranks, is_whole)


def check_reduced(operations: tuple[Operation, ...]) -> None:
    """Raises CascadeError for a reduction, a fold or a view of a rank that its operands lack, as far as theirs are
    known: a definition in another notation may sum over nothing, an operator's name says what is there."""
    for o, ranks, is_whole in _with_spaces(operations):
        unsplit = (o.operator.kind, o.operator.op) == ("T", "unsplit")
        wanted = o.operator.ranks[:2] if unsplit else o.operator.ranks[:1]
        if o.operator.kind != "M" and is_whole and not ranks & set(wanted):
            does = {"R": "reduces", "F": "folds"}.get(o.operator.kind, f"{o.operator.op}s")
            raise CascadeError(
                f"{o.output} = {o.operator} {does} {' and '.join(wanted)}, but its operand has {list(in_order(ranks))}"
            )


def _with_spaces(operations: tuple[Operation, ...]) -> Iterator[tuple[Operation, frozenset[Rank], bool]]:
    """Each operation, the ranks of its operands as far as they are known, and whether that is all of them."""
    known: dict[str, frozenset[Rank] | None] = {}
    for o in operations:
        below = [known.get(x) if isinstance(x, str) else _ranks_of(x) for x in o.operands]
        ranks, is_whole = frozenset[Rank]().union(*(r for r in below if r is not None)), None not in below
        yield o, ranks, is_whole
        is_map = o.operator.kind == "M"
        known[o.output] = frozenset(o.operator.ranks) if is_map else _after(o.operator, ranks) if is_whole else None


def operands_ranks(graph: OperatorGraph) -> dict[str, frozenset[Rank] | None]:
    """The ranks that each operation's operands have together, by its output; None where some are not known."""
    return {o.output: ranks if is_whole else None for o, ranks, is_whole in _with_spaces(graph.operations)}


def _check_space(o: Operation, ranks: frozenset[Rank], is_whole: bool = True) -> None:
    space = set(o.operator.ranks)
    if (ranks != space) if is_whole else not ranks <= space:
        raise CascadeError(
            f"{o.output} = {o.operator} iterates {list(o.operator.ranks)}, but its operands have "
            f"{list(in_order(ranks))}"
        )


def _ranks_of(x: Expr | Predicate) -> frozenset[Rank]:
    return x.ranks if isinstance(x, Predicate) else free(x)


def _after(operator: Operator, ranks: frozenset[Rank]) -> frozenset[Rank]:
    """The ranks of what a reduction, a fold or a view gives."""
    match operator.kind, operator.ranks:
        case "T", (whole, outer, inner) if operator.op == "split":
            return ranks - {whole} | {outer, inner} if whole in ranks else ranks
        case "T", (outer, inner, whole):
            return ranks - {outer, inner} | {whole} if ranks & {outer, inner} else ranks
        case _:
            return ranks - set(operator.ranks)


def _arity(operator: Operator) -> tuple[int, int]:
    """Operands and filters that an operator takes."""
    if operator.op == "where":
        return 2, 1
    if operator.kind == "M":
        return POINTWISE[operator.op].arity, 0
    return (ACTIONS[operator.op].references + 1 if operator.kind == "F" else 1), 0


# ---- from a cascade


def from_cascade(cascade: Cascade) -> OperatorGraph:
    """One operation a node of what the outputs need; unnamed nodes are called after their einsum, `QK_temp`.

    Raises CascadeError for an output that is a copy (the notation has no operator for it), and where a rank is reduced
    that the operand lacks.
    """
    operations = operations_of(cascade)
    check_reduced(operations)
    made = {o.output for o in operations}
    for name in cascade.outputs:
        if name not in made:
            raise CascadeError(f"result {name} is a copy, for which there is no operator")
    return OperatorGraph(operations, cascade.results)


def operations_of(cascade: Cascade) -> tuple[Operation, ...]:
    """The operations of `from_cascade`; a copy has none of its own."""
    outputs = cascade.outputs
    every = Cascade(cascade.einsums, tuple(e.output.name for e in cascade.einsums)).roots()
    names: dict[Expr, str] = {}
    for name in (*outputs, *every):
        names.setdefault(every[name], name)
    needed = set(topological(every[name] for name in outputs))
    kept = {name: root for name, root in every.items() if root in needed and not isinstance(root, _LEAVES)}
    for name, root in kept.items():
        _name_parts(name, root, names, set(cascade.inputs))
    axes = {every[name]: tensor.ranks for name, tensor in reversed(outputs.items())}
    return from_expressions(kept, names, axes).operations


_LEAVES = (Access, Gather, Const, Param, Size, Iota)


def _name_parts(name: str, root: Expr, names: dict[Expr, str], inputs: set[str]) -> None:
    taken = inputs | set(names.values())
    number = 1
    for x in topological(children(root), stop=names):  # what is named has named parts
        if isinstance(x, _LEAVES):
            continue
        while (called := f"{name}_temp{number if number > 1 else ''}") in taken:
            number += 1
        taken.add(called)
        names[x] = called


def from_expressions(
    roots: Mapping[str, Expr],
    names: Mapping[Expr, str] | None = None,
    axes: Mapping[Expr, tuple[Rank, ...]] | None = None,
) -> OperatorGraph:
    """The graph of expressions over inputs; `names` names nodes, `axes` says the order of outputs' ranks."""
    called: dict[Expr, str] = dict(names or {})
    operations = []
    for i, x in enumerate(topological(roots.values())):
        if isinstance(x, _LEAVES):
            continue
        called.setdefault(x, f"t{i}")
        operator, operands = _operation(x)
        read = tuple(called[a] if not isinstance(a, (*_LEAVES, Predicate)) else a for a in operands)
        operations.append(Operation(called[x], operator, read, (axes or {}).get(x)))
    results = tuple(called[r] for r in roots.values() if r in called)
    return OperatorGraph(tuple(operations), results)


def _operation(x: Expr) -> tuple[Operator, tuple[Expr | Predicate, ...]]:
    """A node's operator and what it reads."""
    match x:
        case Map():
            return Operator("M", x.op, in_order(free(x))), x.args
        case Where():
            return Operator("M", "where", in_order(free(x))), (x.arg, x.predicate, Const(x.fill))
        case Reduce():
            return Operator("R", x.op, (x.rank,)), (x.arg,)
        case Fold():
            return Operator("F", x.action, (x.rank,)), (*x.scores, x.arg)
        case Split():
            return Operator("T", "split", (x.rank, x.outer, x.inner)), (x.arg,)
        case Unsplit():
            return Operator("T", "unsplit", (x.outer, x.inner, x.rank)), (x.arg,)
        case Access() | Gather() | Const() | Param() | Size() | Iota():
            raise AssertionError("a leaf is no operation")
        case _:
            assert_never(x)
