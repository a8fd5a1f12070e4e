"""An expression without its numbers, and with them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from eintune.space.cascade.holes import closed, names, opened, ranks
from eintune.space.ir.expr import Const, Expr, Map, Param, Where, topological
from eintune.space.tracing.functions import maximum, where
from eintune.space.tracing.site import Site
from eintune.space.workloads.function_modifiers import SCORE, traced

SLOPES = torch.arange(4.0)


def scores(x: float, n: int) -> list[Callable[..., Any]]:
    return [
        lambda s, b, h, p, m: s * x,
        lambda s, b, h, p, m: s * x + x * (p - m) - SLOPES[h] / n,
        lambda s, b, h, p, m: where(p - m < n, s, -x) * x,
        lambda s, b, h, p, m: maximum(s, x) // n,
        lambda s, b, h, p, m: x,
    ]


def masks(n: int) -> list[Callable[..., Any]]:
    return [
        lambda b, h, p, m: p - m < n,
        lambda b, h, p, m: (m <= p) & ((m < n) | (p - m < n + 1)),
        lambda b, h, p, m: ~(m - p < -n),
        lambda b, h, p, m: (p // n == m // n) & (p >= n),
    ]


def came_to(kind: str, function: Callable[..., Any]) -> Expr:
    return traced(kind, function, Site())[0]


CASES = [("score_mod", i, lambda x, n, i=i: scores(x, n)[i]) for i in range(5)]
CASES += [("mask_mod", i, lambda x, n, i=i: masks(n)[i]) for i in range(4)]


@pytest.mark.parametrize(("kind", "which", "made"), CASES)
def test_numbers_come_out_and_go_back(kind: str, which: int, made: Callable[..., Any]) -> None:
    one, two = came_to(kind, made(0.75, 3)), came_to(kind, made(-2.5, 6))
    first, second = opened(one), opened(two)
    assert closed(first, (), "S", "c") is one and closed(second, (), "S", "c") is two
    assert first.skeleton is second.skeleton and first.whole == second.whole
    assert first.numbers != second.numbers and len(first.numbers) == len(second.numbers)


@pytest.mark.parametrize(("kind", "which", "made"), CASES)
def test_numbers_that_are_given_are_no_longer_there(kind: str, which: int, made: Callable[..., Any]) -> None:
    one, two = (opened(came_to(kind, made(x, n))) for x, n in ((0.75, 3), (-2.5, 6)))
    changed = {i for i, (a, b) in enumerate(zip(one.numbers, two.numbers, strict=True)) if a != b}
    given = closed(one, changed, "S", "c")
    assert given is closed(two, changed, "S", "c")
    there = names(one, changed, "S").keys() | ranks(one, changed, "c").keys()
    assert there == changed and len(set(names(one, changed, "S").values())) == len(names(one, changed, "S"))


def test_what_is_no_finite_float32_stays() -> None:
    made = came_to("score_mod", lambda s, b, h, p, m: where(m <= p, s, float("-inf")) + 1e300)
    found = [x.value for x in topological([opened(made).skeleton]) if isinstance(x, Const)]
    assert sorted(found) == [float("-inf"), 1e300]


def test_a_hole_for_each_operand() -> None:
    twice = Map("add", (Map("mul", (SCORE, Const(2.0))), Const(2.0)))
    assert opened(twice).numbers == (2.0, 2.0)
    assert opened(Const(3.0)).skeleton is Param("#0")
    assert not any(isinstance(x, Where) for x in topological([opened(twice).skeleton]))
