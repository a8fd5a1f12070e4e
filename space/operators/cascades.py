"""Operator graphs to cascades and back: one einsum an operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.einsum import CascadeError, Einsum
from eintune.space.ir.expr import (
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

from .graph import OperatorGraph, choices_text
from .operators import FORMS, Operation, Operator, check_reduced, in_order

# ---- to a cascade


def to_cascade(graph: OperatorGraph) -> Cascade:
    """One einsum an operation; a map that only a reduction reads is written into it (a product and its sum).

    Raises CascadeError where an input's ranks are not written or an operation does not fit its operands.
    """
    if missing := graph.unranked():
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
