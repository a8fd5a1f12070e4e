"""Operator notation as assignments, both ways: `QK_temp = M_mul_emp(Q, K)    ; a comment`.

A line is an assignment, an input (`NAME_{e,p}` with its ranks, `NAME_{e=64,p=1024}` with its sizes too,
`NAME_{64,1024}` with these alone, `NAME_{p} : int` with its kind), or `results: NAME, …`. Outputs and operands may
carry their ranks as a subscript too. An operand is a name, a number, a size `|m|`, an index value `index(m)`, a
parameter `$scale`, an access `KC[BT[b,m//64],m%64]` to declared inputs or, of M_where, a filter `m <= p`.
"""

from __future__ import annotations

import re

from eintune.host.quoting import short
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Const, Gather, Iota, Param, Predicate, Rank, Size, Tensor, tensors
from eintune.space.notation.filters import write_predicate
from eintune.space.notation.lexer import MAX_CHARACTERS
from eintune.space.notation.printer import write_expression

from .graph import OperatorGraph
from .graph_builder import GraphBuilder, filter_of, gather_of, parameter
from .operators import Operand, Operation

_SUBSCRIPTED = re.compile(r"([A-Za-z][A-Za-z0-9_]*?)_\{([a-z0-9, =]*)\}(?:\s*:\s*(\w+))?")
_CALL = re.compile(r"(\w+)\s*\((.*)\)")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf)|nan")


def read_operators(text: str) -> OperatorGraph:
    """The graph that assignments write. Raises CascadeError with the line and what is allowed."""
    if len(text) > MAX_CHARACTERS:
        raise CascadeError(f"operator text has at most {MAX_CHARACTERS} characters, but this has {len(text)}")
    builder = GraphBuilder()
    for number, line in enumerate(text.split("\n"), 1):
        statement = line.split(";")[0].strip()
        if not statement:
            continue
        try:
            _read_line(statement, builder)
        except CascadeError as error:
            raise CascadeError(f"line {number}: {error}") from None
    return builder.graph()


def _read_line(line: str, builder: GraphBuilder) -> None:
    left, equals, right = (part.strip() for part in line.partition("="))
    if line.startswith("results:"):
        builder.results = tuple(name.strip() for name in line.removeprefix("results:").split(","))
    elif equals and (call := _CALL.fullmatch(right)):
        output, ranks = _subscript(left)
        builder.add(output, call[1], [read_operand(x, builder) for x in _operands(call[2])], ranks)
    elif match := _SUBSCRIPTED.fullmatch(line):
        _declare(match[1], match[2], match[3] or "float", builder)
    else:
        raise CascadeError(f"expected `name = OPERATOR(operands)` or `NAME_{{e,p}}`, but got {short(repr(line))}")


def _declare(name: str, axes: str, kind: str, builder: GraphBuilder) -> None:
    """Of each axis its rank, its size, or both."""
    parts = [tuple(x.strip() for x in axis.partition("=")[::2]) for axis in axes.split(",")] if axes.strip() else []
    ranks = [rank for rank, _ in parts if not rank.isdigit()]
    sizes = [size or rank for rank, size in parts if (size or rank).isdigit()]
    if sizes and (len(sizes) != len(parts) or len(ranks) not in (0, len(parts))):
        raise CascadeError(f"{name}_{{{axes}}}: each axis says its size or none does, and each its rank or none does")
    if sizes:
        builder.sized(name, tuple(map(float, sizes)))
    if ranks or not parts:
        builder.declare(name, tuple(ranks), kind)


def _operands(text: str) -> list[str]:
    """The text between commas that stand in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [p.strip() for p in parts] if text.strip() else []


def _subscript(text: str) -> tuple[str, tuple[Rank, ...] | None]:
    match = _SUBSCRIPTED.fullmatch(text)
    if match and "=" in match[2]:
        raise CascadeError(f"{short(text)}: sizes stand where an input is declared, on a line of its own")
    return (match[1], _rank_list(match[2])) if match else (text, None)


def _rank_list(text: str) -> tuple[Rank, ...]:
    return tuple(r.strip() for r in text.split(",")) if text.strip() else ()


def read_operand(text: str, builder: GraphBuilder) -> Operand:
    """One operand; raises CascadeError."""
    if _NUMBER.fullmatch(text):
        return Const(float(text))
    if match := re.fullmatch(r"\|([a-z][0-9]{0,6})\|", text):
        return Size(match[1])
    if match := re.fullmatch(r"index\(([a-z][0-9]{0,6})\)", text):
        return Iota(match[1])
    if match := re.fullmatch(r"\$([A-Za-z_][A-Za-z0-9_]*)", text):
        return parameter(match[1])
    if "[" in text:
        return gather_of(text, builder.tensors)
    if re.search(r"[<>≤≥]", text):
        return filter_of(text)
    return builder.read(*_subscript(text))


def write_operators(graph: OperatorGraph) -> str:
    """The assignments: inputs with their ranks first, outputs with theirs. `read_operators` reads them back."""
    inputs = _inputs(graph)
    lines = [_declaration(x, graph.shapes.get(x.name, ())) for x in inputs]
    known = {x.name for x in inputs}
    lines += [f"{name}_{{{','.join(map(str, shape))}}}" for name, shape in graph.shapes.items() if name not in known]
    lines += [_assignment(o, graph.tiles(o)) for o in graph.operations]
    if graph.results:
        lines.append(f"results: {', '.join(graph.results)}")
    return "\n".join(lines)


def _inputs(graph: OperatorGraph) -> list[Tensor]:
    leaves = (x for o in graph.operations for x in o.operands if isinstance(x, (Access, Gather)))
    return list(tensors(leaves).values())


def _declaration(x: Tensor, shape: tuple[int, ...]) -> str:
    kind = "" if x.kind == "float" else f" : {x.kind}"
    axes = [f"{r}={n}" for r, n in zip(x.ranks, shape, strict=True)] if shape else x.ranks
    return f"{x.name}_{{{','.join(axes)}}}{kind}"


def _assignment(o: Operation, tiles: int | None) -> str:
    operands = [write_operand(x) for x in o.operands] + ([str(tiles)] if tiles else [])
    ranks = "" if o.ranks is None else f"_{{{','.join(o.ranks)}}}"
    return f"{o.output}{ranks} = {o.operator}({', '.join(operands)})"


def write_operand(x: Operand) -> str:
    match x:
        case str():
            return x
        case Access():
            same = x.index == x.tensor.ranks
            return x.tensor.name if same else f"{x.tensor.name}_{{{','.join(x.index)}}}"
        case Gather():
            return write_expression(x)
        case Const():
            return repr(x.value).removesuffix(".0")
        case Param():
            return f"${x.name}"
        case Size():
            return f"|{x.rank}|"
        case Iota():
            return f"index({x.rank})"
        case Predicate():
            return write_predicate(x)
