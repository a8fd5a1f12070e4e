"""Cascades written in the EDGE notation; `reader` reads the text back, node for node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, assert_never

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
    indexing_ranks,
    indexing_sizes,
    is_padded,
    reads,
)
from eintune.space.ir.names import IDENTIFIER, INDEX, RANK
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS

from .filters import write_predicate
from .grammar import ATOM, COMPARISON, KINDS, LEVEL_OF, PARAMETER, PREFIX, REDUCERS, RESERVED, implicit_sum
from .indices import write_index
from .lexer import CAPITALS, MAX_CHARACTERS, MAX_NESTING

_INLINE = {op: name for name, op in REDUCERS.items()}


class Text(NamedTuple):
    """A node's text, how tightly its outermost operator binds, and how deep its brackets nest."""

    text: str
    level: int
    depth: int


def write_cascade(einsums: Sequence[Einsum], results: Sequence[str], *, unicode: bool = False) -> str:
    """One line a statement: declarations of inputs that need one, einsums, results.

    Raises CascadeError for what the notation cannot say: names that are no names, one name for two different
    tensors, text over the limits.
    """
    _check_ranks(einsums)
    lines = write_declarations((e.output, e.expr) for e in einsums)
    lines += [write_einsum(e, unicode=unicode) for e in einsums]
    if results:
        names = (n if CAPITALS.fullmatch(n) else f"{n}[]" for n in results)
        lines.append(f"results: {', '.join(names)}")
    text = "\n".join(lines)
    _check_length(text, "the cascade")
    return text


def write_einsum(einsum: Einsum, *, unicode: bool = False) -> str:
    """`GMp = QKm,p :: \\/m max`, or with `unicode` as EDGE prints it, `GMp = QKm,p :: ∨m max(∪)`."""
    return write_statement(einsum.output, einsum.expr, frozenset(einsum.output.ranks), unicode=unicode)


def write_statement(output: Tensor, expr: Expr, kept: frozenset[Rank], *, unicode: bool = False) -> str:
    """`output = expr`, where ranks that are not `kept` are summed implicitly."""
    left = _named(output)
    body, reductions = _peeled(expr, kept)
    actions = "".join(_action(r, unicode) for r in reductions)
    line = f"{left} = {write_expression(body, left, unicode=unicode)}"
    return f"{line} ::{actions}" if actions else line


def _action(x: Reduce, unicode: bool) -> str:
    symbol = REDUCTIONS[x.op].symbol
    if unicode:
        return f" ∨{_rank(x.rank)} {symbol}(∪)"
    return f" \\/{_rank(x.rank)} {symbol.replace('×', '*')}"


def _peeled(x: Expr, left: frozenset[Rank]) -> tuple[Expr, list[Reduce]]:
    """The right side before `::` and the reductions behind it, as few as the implicit sums allow."""
    chain: list[Expr] = [x]
    while isinstance(chain[-1], Reduce):
        chain.append(chain[-1].arg)
    body = chain.pop()
    explicit: list[Reduce] = []
    for node in (*chain, body):
        if implicit_sum(body, left | {r.rank for r in explicit}) is node:
            break
        assert isinstance(node, Reduce)
        explicit.append(node)
    return body, explicit[::-1]


def write_expression(x: Expr, where: str = "expression", *, unicode: bool = False) -> str:
    """An expression; `where` names it in errors."""
    done: dict[Expr, Text] = {}
    for node in _written(x):
        try:
            done[node] = _text(node, done, unicode)
        except CascadeError as error:
            raise CascadeError(f"{where}: {error}") from None
        _check_length(done[node].text, where)
        if done[node].depth > MAX_NESTING:
            raise CascadeError(f"{where}: brackets nest at most {MAX_NESTING} deep; name a subexpression")
    return done[x].text


def _written(x: Expr) -> list[Expr]:
    """The nodes that are written by themselves, operands first: of filters in each other the outermost."""
    order: dict[Expr, None] = {}
    todo = [(x, False)]
    while todo:
        node, ready = todo.pop()
        if node in order:
            continue
        if ready:
            order[node] = None
            continue
        below = (_filters(node)[1],) if isinstance(node, Where) else children(node)
        todo += [(node, True), *((a, False) for a in reversed(below))]
    return list(order)


def _filters(x: Where) -> tuple[list[Predicate], Expr]:
    """Filters with one fill that stand directly in each other, outermost first, and what they keep."""
    filters, kept = [x.predicate], x.arg
    fill = _number(x.fill)
    while isinstance(kept, Where) and _number(kept.fill) == fill:
        filters.append(kept.predicate)
        kept = kept.arg
    return filters, kept


def _text(x: Expr, done: dict[Expr, Text], unicode: bool) -> Text:
    match x:
        case Access():
            return Text(_named(Tensor(x.tensor.name, x.index)), ATOM, 1)
        case Gather():
            return Text(_indexed(x), ATOM, 1)
        case Const():
            return Text(_number(x.value), ATOM, 0)
        case Param():
            return _parameter(x.name)
        case Size():
            return Text(f"|{_rank(x.rank)}|", ATOM, 1)
        case Iota():
            return Text(f"index({_rank(x.rank)})", ATOM, 1)
        case Map():
            return _map(x.op, [done[a] for a in x.args], unicode)
        case Reduce():
            return _call(f"{_INLINE[x.op]}[{_rank(x.rank)}]", [done[x.arg]])
        case Where():
            return _where(x, done)
        case Fold():
            return _call(f"fold_{x.action}[{_rank(x.rank)}]", [*(done[c] for c in x.scores), done[x.arg]])
        case Split():
            return _call(f"split[{_view(x.rank)} -> {_view(x.outer, x.inner)}]", [done[x.arg]])
        case Unsplit():
            return _call(f"unsplit[{_view(x.outer, x.inner)} -> {_view(x.rank)}]", [done[x.arg]])
        case _:
            assert_never(x)


def _map(op: str, args: list[Text], unicode: bool) -> Text:
    if op == "exp":
        return Text(f"e^({args[0].text})", ATOM, args[0].depth + 1)
    if op == "neg":
        operand = _in_brackets(args[0]) if args[0].level < ATOM or args[0].text[0].isdigit() else args[0]
        return _signed(operand)
    if op not in LEVEL_OF:
        return _call(op, args)
    level = LEVEL_OF[op]
    left, right = (a if a.level >= least else _in_brackets(a) for a, least in zip(args, _least(level), strict=True))
    symbol = "×" if unicode and op == "mul" else POINTWISE[op].symbol
    return Text(f"{left.text} {symbol} {right.text}", level, max(left.depth, right.depth))


def _signed(operand: Text) -> Text:
    if operand.text.startswith("-") or operand.text in ("inf", "nan"):
        operand = _in_brackets(operand)
    return Text(f"-{operand.text}", PREFIX, operand.depth)


def _least(level: int) -> tuple[int, int]:
    """The levels that the operands need to stand without brackets."""
    return (level + 1 if level == COMPARISON else level), level + 1


def _in_brackets(x: Text) -> Text:
    return Text(f"({x.text})", ATOM, x.depth + 1)


def _call(name: str, args: Iterable[Text]) -> Text:
    given = list(args)
    return Text(f"{name}({', '.join(a.text for a in given)})", ATOM, 1 + max(a.depth for a in given))


def _where(x: Where, done: dict[Expr, Text]) -> Text:
    """Filters with one fill that stand directly in each other are written with `&`."""
    filters, kept = _filters(x)
    for p in filters:
        for rank in (*p.ranks, *(t.stride for t in p.terms if t.stride), *(r for r, _ in p.sizes)):
            _rank(rank)
    condition = " & ".join(write_predicate(p) for p in filters)
    return _call("where", [Text(condition, ATOM, 1), done[kept], Text(_number(x.fill), ATOM, 0)])


def _parameter(name: str) -> Text:
    if PARAMETER.fullmatch(name):
        return Text(name, ATOM, 0)
    if not IDENTIFIER.fullmatch(name):
        raise CascadeError(f"a parameter's name has letters, digits and _ only, but got {name!r}")
    return Text(f"param({name})", ATOM, 1)


def _number(value: float) -> str:
    """The shortest text that reads back as the same float."""
    text = repr(float(value))
    return text.removesuffix(".0")


def _rank(rank: Rank) -> str:
    if not RANK.fullmatch(rank):
        raise CascadeError(f"a rank is one lower-case letter and at most 6 digits, but got {rank!r}")
    return rank


def _view(*ranks: Rank) -> str:
    return ",".join(_rank(r) for r in ranks)


def _named(t: Tensor) -> str:
    """`QKm,p`, `Bias[m,p]`, `Mp,m : bool`."""
    if len(set(t.ranks)) != len(t.ranks):
        raise CascadeError(f"{t.name}{list(t.ranks)}: a rank indexes one axis only")
    if t.name in RESERVED or not IDENTIFIER.fullmatch(t.name):
        raise CascadeError(f"a tensor's name has letters, digits and _ and is no word of the notation: {t.name!r}")
    if t.kind not in KINDS:
        raise CascadeError(f"{t.name}: a tensor's kind is one of {list(KINDS)}, but got {t.kind!r}")
    ranks = ",".join(r if INDEX.fullmatch(r) else _rank(r) for r in t.ranks)
    name = f"{t.name}{ranks}" if CAPITALS.fullmatch(t.name) else f"{t.name}[{ranks}]"
    return name if t.kind == "float" else f"{name} : {t.kind}"


def _indexed(x: Access | Gather) -> str:
    """`KC[BT[b,m//64],m%64,h,e]`: always in brackets."""
    ranks = [i for i in x.index if isinstance(i, str)]
    if len(set(ranks)) != len(ranks):
        raise CascadeError(f"{x.tensor.name}{ranks}: a rank indexes one axis only")
    items = [write_index(i, _rank, _indexed) for i in x.index]
    if x.tensor.name in RESERVED or not IDENTIFIER.fullmatch(x.tensor.name):
        raise CascadeError(
            f"a tensor's name has letters, digits and _ and is no word of the notation: {x.tensor.name!r}"
        )
    return f"{x.tensor.name}[{','.join(items)}{' else 0' if is_padded(x) else ''}]"


def write_declarations(statements: Iterable[tuple[Tensor, Expr]]) -> list[str]:
    """`input` lines for tensors of which the first use does not say all.

    Raises CascadeError where one name means two tensors.
    """
    pairs = list(statements)
    known = {output.name: output for output, _ in pairs}
    declared = []
    for x in reads(expr for _, expr in pairs):
        first = x.tensor.name not in known
        if known.setdefault(x.tensor.name, x.tensor) != x.tensor:
            raise CascadeError(f"{x.tensor.name} means two tensors: {known[x.tensor.name]} and {x.tensor}")
        if first and (isinstance(x, Gather) or Tensor(x.tensor.name, x.index) != x.tensor):
            declared.append(x.tensor)
    return [f"input {_named(t)}" for t in declared]


def _check_ranks(einsums: Sequence[Einsum]) -> None:
    """Plain ranks only: `m1+1` and the like are an iteration's."""
    for e in einsums:
        for rank in e.output.ranks:
            _rank(rank)
    for x in reads(e.expr for e in einsums):
        for rank in (*indexing_ranks(x), *indexing_sizes(x)):
            _rank(rank)


def _check_length(text: str, what: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise CascadeError(f"{what} needs over {MAX_CHARACTERS} characters; name its shared subexpressions")
