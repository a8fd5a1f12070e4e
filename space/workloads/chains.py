"""Chains of any number of operators: what growth is measured on, and what nothing in the algebra may stop at.

Each kind is one function of a number of operators. An operator is a reduction, a product over a rank or a pointwise
step, as one counts them on paper.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import TypeAlias

from eintune.space.cascade.builder import Writer, apply, exp, given, top, total
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.expr import Access, Expr, Rank

Chain: TypeAlias = Callable[[int], Cascade]
LETTERS = [f"{a}{b}" for a in string.ascii_uppercase for b in string.ascii_uppercase]
"""Endings of tensors' names, of one length, so that no name begins another."""


def _rank(i: int) -> Rank:
    return f"r{i}"


def pointwise(operators: int) -> Cascade:
    """recip(sqrt(exp(Q K^T - Q))), then more of the kind, both operands of some operators the same tensor."""
    let = Writer()
    q = given("Q", "pe")
    assert isinstance(q, Access)
    kt = let("KT", "em", given("K", "me"))
    x = let("S", "pm", total("e", q * kt))
    q_pm = Access(q.tensor, ("p", "m"))
    steps: list[Callable[[Expr], Expr]] = [
        lambda x: x - q_pm,
        exp,
        lambda x: apply("sqrt", x),
        lambda x: apply("recip", x),
        lambda x: apply("tanh", x),
        lambda x: x * x,
        lambda x: x + given("B", "m"),
        lambda x: apply("sigmoid", x) - x,
        lambda x: x * given("C", "pm"),
        lambda x: apply("abs", x),
    ]
    for i in range(operators - 2):
        x = let("T" + LETTERS[i], "pm", steps[i % len(steps)](x))
    return let.done()


def factors(operators: int) -> Cascade:
    """The sum of a product of different tensors: there are exponentially many orders to multiply in."""
    let = Writer()
    x = given("X", "pm")
    for i in range(operators - 1):
        x = x * given("F" + LETTERS[i], "pm" if i % 2 else "m")
    let("Y", "p", total("m", x))
    return let.done()


def products(operators: int) -> Cascade:
    """Matrix products with an activation after each."""
    let = Writer()
    x = given("X", (_rank(0), _rank(1)))
    for i in range(operators):
        at = i // 2
        if i % 2 == 0:
            ranks = (_rank(at + 1), _rank(at + 2))
            x = let("P" + LETTERS[i], (_rank(0), ranks[1]), total(ranks[0], x * given("W" + LETTERS[i], ranks)))
        else:
            x = let("A" + LETTERS[i], (_rank(0), _rank(at + 2)), apply("tanh", x))
    return let.done()


def reassociated(operators: int) -> Cascade:
    """Matrix products and nothing between them: as many orders as there are ways to bracket."""
    let = Writer()
    x = given("X", (_rank(0), _rank(1)))
    for i in range(operators):
        ranks = (_rank(i + 1), _rank(i + 2))
        x = let("P" + LETTERS[i], (_rank(0), ranks[1]), total(ranks[0], x * given("W" + LETTERS[i], ranks)))
    return let.done()


def normalised(operators: int) -> Cascade:
    """Rows made to sum to one, then a product, again and again: six operators a link."""
    let = Writer()
    x = given("X", (_rank(0), _rank(1)))
    for i in range(max(operators // 6, 1)):
        r, after, end = _rank(i + 1), _rank(i + 2), LETTERS[i]
        peak = let("G" + end, (_rank(0),), top(r, x))
        e = let("E" + end, (_rank(0), r), exp(x - peak))
        share = let("N" + end, (_rank(0), r), e / let("D" + end, (_rank(0),), total(r, e)))
        x = let("P" + end, (_rank(0), after), total(r, share * given("W" + end, (r, after))))
    return let.done()


CHAINS: dict[str, Chain] = {c.__name__: c for c in (pointwise, factors, products, reassociated, normalised)}
