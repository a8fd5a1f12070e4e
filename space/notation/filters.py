"""Filters of the EDGE notation, both ways: `m <= p + |m| - |p|` and its affine predicate.

`left <= right` stands for the predicate right - left >= 0, with the left side's terms first and every term in
the order in which it is written, so that a predicate and its text determine each other.
"""

from __future__ import annotations

from itertools import takewhile

from eintune.space.ir.expr import Predicate, Rank, Term

from .cursor import Cursor
from .lexer import MAX_DIGITS


def read_predicate(line: Cursor, *, inline: bool = False) -> Predicate:
    """inline: it stands on a tensor, so that what is multiplied after it is the expression around it: `Ak:k<=i * 2`."""
    left = _read_side(line)
    comparison = line.take("<=", ">=", "<", ">")
    if not comparison:
        line.fail(f"a filter compares index values by <=, >=, < or >, but got {line.peek().text!r}", line.peek())
    right = _read_side(line, factors=not inline)
    if comparison.text.startswith(">"):
        left, right = right, left
    return Predicate(
        tuple(Term(t.rank, -t.coef, t.stride) for t in left.terms) + right.terms,
        tuple((r, -c) for r, c in left.sizes) + right.sizes,
        right.const - left.const - (comparison.text in "<>"),
    )


def _read_side(line: Cursor, factors: bool = True) -> Predicate:
    """`2*m + m1*|m0| - |p| + 3`: one side's terms, sizes and constant. factors: `m*2` is a term too."""
    terms: list[Term] = []
    sizes: list[tuple[Rank, int]] = []
    const = 0
    operator = line.take("-")
    while True:
        coef = -1 if operator and operator.text == "-" else 1
        number = line.peek().kind == "number"
        if number:
            coef *= read_integer(line)
        if number and not line.take("*", "×"):
            const += coef
        elif line.peek().text == "|":
            sizes.append((line.size(), coef))
        elif line.capital():
            sizes.append((line.capital_size(), coef))
        else:
            rank = line.rank("a filter (for a condition on tensors write select(condition, then, else))")
            times = line.peek().text in ("*", "×")
            strided = times and (line.peek(1).text == "|" or bool(line.capital(1) and factors))
            if factors and times and line.peek(1).kind == "number":
                line.next()
                coef *= read_integer(line)
            terms.append(Term(rank, coef, _stride(line) if strided else None))
        operator = line.take("+", "-") if _continues(line) else None
        if not operator:
            return Predicate(tuple(terms), tuple(sizes), const)


def _stride(line: Cursor) -> Rank:
    """`*|m0|` or `×M0`."""
    line.next()
    return line.size() if line.peek().text == "|" else line.capital_size()


def _continues(line: Cursor) -> bool:
    """After a sign stands another term, and not an operand of the expression around an inline filter."""
    after = line.peek(1)
    return after.kind == "number" or after.text == "|" or line.index_starts(1) or line.capital(1) == 2


def read_integer(line: Cursor) -> int:
    """A whole number of digits only."""
    token = line.next()
    if not (token.text.isascii() and token.text.isdigit()) or len(token.text) > MAX_DIGITS:
        line.fail(
            f"a filter or an index has whole numbers of at most {MAX_DIGITS} digits, but got {token.text!r}", token
        )
    return int(token.text)


def write_predicate(p: Predicate) -> str:
    """The filter as `left <= right`, the leading negative terms on the left; `right >= left` without any."""
    assert not p.numbers, "a filter on elements of tensors is written as a selection"
    left = tuple(takewhile(lambda t: t.coef < 0, p.terms))
    if p.terms and all(t.coef > 0 for t in p.terms):
        right = _constants(tuple((r, -c) for r, c in p.sizes), -p.const, needed=True)
        return f"{_joined([_signed(t.coef, _index(t)) for t in p.terms])} >= {_joined(right)}"
    rest = p.terms[len(left) :]
    right = [_signed(t.coef, _index(t)) for t in rest] + _constants(p.sizes, p.const, needed=not rest)
    return f"{_joined([_signed(-t.coef, _index(t)) for t in left])} <= {_joined(right)}"


def _constants(sizes: tuple[tuple[Rank, int], ...], const: int, *, needed: bool) -> list[tuple[str, str]]:
    parts = [_signed(c, f"|{r}|") for r, c in sizes]
    if const or (needed and not parts):
        parts.append(("-" if const < 0 else "+", str(abs(const))))
    return parts


def _index(t: Term) -> str:
    return f"{t.rank}*|{t.stride}|" if t.stride else t.rank


def _signed(coef: int, what: str) -> tuple[str, str]:
    size = abs(coef)
    return "-" if coef < 0 else "+", what if size == 1 else f"{size}*{what}"


def _joined(parts: list[tuple[str, str]]) -> str:
    if not parts:
        return "0"
    (sign, first), *rest = parts
    return ("-" if sign == "-" else "") + first + "".join(f" {s} {text}" for s, text in rest)
