"""Bounds as text: whatever is folded away, the text evaluates to the bound's number."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eintune.kernels.emit.bound_text import BoundText, parenthesised, shifted
from eintune.space.plan.bounds import Bound, CeilTo, First, FloorTo, Greatest, Last, Least, Lit, Sum, bound_value
from eintune.space.plan.plan import Block, LoopPlan
from eintune.space.plan.roles import Role
from eintune.space.plan.sizes import Sizes

SIZES = Sizes({"p": 48, "m": 40, "h": 3, "e": 20})
ROLES = {"p": Role("grid", 16), "m": Role("loop", 16), "h": Role("grid", None), "e": Role(None, 32)}
PLAN = LoopPlan(ROLES, SIZES, tuple("hpme"), ("p", "h"), Block(frozenset()), {}, {}, {})
PRINTED = BoundText(PLAN, {"h": "h"}, {"p": "p_first", "m": "m_first", "e": "0"}, lambda rank: str(SIZES[rank]))

leaves = st.one_of(st.integers(-40, 60).map(Lit), st.sampled_from("pmhe").map(First), st.sampled_from("pmhe").map(Last))


def larger(inner: st.SearchStrategy[Bound]) -> st.SearchStrategy[Bound]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    step = st.sampled_from((1, 4, 16, 32))
    return st.one_of(
        st.lists(st.tuples(st.integers(-3, 3), inner), min_size=1, max_size=3).map(tuple).map(Sum),
        several.map(Least),
        several.map(Greatest),
        st.builds(FloorTo, inner, step),
        st.builds(CeilTo, inner, step),
    )


bounds = st.recursive(leaves, larger, max_leaves=6)


@given(bounds)
@example(Sum(((1, First("m")), (-1, First("m")))))
def test_text_evaluates_to_the_bound(b: Bound) -> None:
    text = PRINTED.text(b)
    for p, m, h in itertools.product(range(0, 48, 16), range(0, 40, 16), range(3)):
        first = {"p": p, "m": m, "h": h, "e": 0}
        last = {"p": p + 15, "m": min(m + 15, 39), "h": h, "e": 19}
        names = {"p_first": p, "m_first": m, "h": h, "min": min, "max": max}
        assert eval(text, {"__builtins__": {}}, names) == bound_value(b, first, last), text


@given(bounds)
def test_span_holds_every_value(b: Bound) -> None:
    low, high = PRINTED.span(b)
    for p, m, h in itertools.product(range(0, 48, 16), range(0, 40, 16), range(3)):
        first = {"p": p, "m": m, "h": h, "e": 0}
        last = {"p": p + 15, "m": min(m + 15, 39), "h": h, "e": 19}
        assert low <= bound_value(b, first, last) <= high


WINDOW = FloorTo(Greatest((Sum(((1, First("p")), (1, Lit(-9)))), Lit(0))), 16)


@given(bounds, bounds)
@example(WINDOW, Sum(((1, First("p")), (1, Lit(16)))))
def test_what_is_below_is_less_everywhere(a: Bound, b: Bound) -> None:
    for p, m, h in itertools.product(range(0, 48, 16), range(0, 40, 16), range(3)):
        first = {"p": p, "m": m, "h": h, "e": 0}
        last = {"p": p + 15, "m": min(m + 15, 39), "h": h, "e": 19}
        if PRINTED.below(a, b):
            assert bound_value(a, first, last) < bound_value(b, first, last)


def test_a_window_starts_below_its_end() -> None:
    assert PRINTED.below(WINDOW, Sum(((1, First("p")), (1, Lit(16)))))
    assert not PRINTED.below(WINDOW, Lit(17))


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (Sum(((1, Last("p")), (1, Lit(1)))), "p_first + 16"),
        (FloorTo(Sum(((1, First("p")), (1, Lit(1)))), 16), "p_first"),
        (FloorTo(Sum(((1, Last("p")), (1, Lit(1)))), 32), "(p_first + 16) // 32 * 32"),
        (Least((Lit(48), Sum(((1, Last("p")), (1, Lit(1)))))), "p_first + 16"),
        (Least((First("p"), Lit(20))), "min(p_first, 20)"),
        (FloorTo(Sum(((1, First("p")), (-1, Lit(4)))), 16), "max(p_first - 16, 0)"),
        (Last("m"), "min(m_first + 15, 39)"),
        (Last("e"), "19"),
        (CeilTo(Lit(17), 16), "32"),
    ],
)
def test_text_is_what_a_person_would_write(bound: Bound, text: str) -> None:
    assert PRINTED.text(bound) == text


def test_parentheses_and_constants() -> None:
    assert parenthesised("max(a, b)") == "max(a, b)"
    assert parenthesised("max(a, b) + min(c, d)") == "(max(a, b) + min(c, d))"
    assert shifted("a + 127", 1) == "a + 128"
    assert shifted("a + 127", -127) == "a"
    assert shifted("2 * a + 3", -4) == "2 * a + 3 - 4"
