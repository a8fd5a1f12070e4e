"""Bounds and segments of loops, against every index of small boxes."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from eintune.space.analysis.intervals import divided, leaves_an_element
from eintune.space.analysis.layout import Layout
from eintune.space.ir.expr import Predicate, Term
from eintune.space.plan.bounds import bound_value
from eintune.space.plan.roles import Role
from eintune.space.plan.sizes import Sizes

SIZES = Sizes({"p": 13, "m": 22, "h": 3})
TILES = {"p": 4, "m": 5}
LAYOUT = Layout({"p": Role("grid", 4), "m": Role("loop", 5), "h": Role("grid", None)}, SIZES, {}, ("h", "p", "m"))

coefficients = st.sampled_from([-1, 1, 1, -1, 2, -3])
filters = st.builds(
    lambda a, others, c: Predicate((Term("m", a), *(Term(r, k) for r, k in others.items())), (), c),
    st.sampled_from([1, -1, -1, 1, 2]),
    st.dictionaries(st.sampled_from(["p", "h"]), coefficients, max_size=2),
    st.integers(-25, 25),
)


def holds(p: Predicate, index: dict[str, int]) -> bool:
    return sum(t.coef * index[t.rank] for t in p.terms) + p.const >= 0


def tiles(h: int, p: int) -> tuple[dict[str, int], dict[str, int]]:
    """First and last index of each rank in the program's tile."""
    return {"h": h, "p": p}, {"h": h, "p": min(p + 4, SIZES["p"]) - 1}


@settings(max_examples=150, deadline=None)
@given(st.lists(filters, max_size=3), st.booleans(), st.booleans())
def test_segments_cover_what_passes_and_know_what_holds(some: list[Predicate], skip: bool, split: bool) -> None:
    division = divided(LAYOUT, "m", some, frozenset(), skips=lambda *_: skip, split=split)
    made, clear = division.segments, division.clear
    for h, p in itertools.product(range(SIZES["h"]), range(0, SIZES["p"], 4)):
        first, last = tiles(h, p)
        visited: list[int] = []
        for s in made:
            for start in range(bound_value(s.lo, first, last), bound_value(s.hi, first, last), TILES["m"]):
                visited.append(start)
                inside = range(start, start + TILES["m"])
                if clear:
                    low, high = (bound_value(b, first, last) for b in clear)
                    assert bool(s.known) == (low <= start < high)
                for known in s.known:
                    rows = range(first["p"], last["p"] + 1)
                    assert all(holds(known, {"h": h, "p": q, "m": m}) for q in rows for m in inside)
        assert len(set(visited)) == len(visited), "a tile runs once"
        assert all(v % TILES["m"] == 0 for v in visited)
        for m, q in itertools.product(range(SIZES["m"]), range(first["p"], last["p"] + 1)):
            if all(holds(f, {"h": h, "p": q, "m": m}) for f in some) or not skip:
                assert m // TILES["m"] * TILES["m"] in visited


@settings(max_examples=150, deadline=None)
@given(st.lists(filters, min_size=2, max_size=3, unique=True), st.integers(2, 3), st.booleans())
def test_what_passes_none_of_several_is_left_out_alone(some: list[Predicate], together: int, split: bool) -> None:
    """No filter bounds the loop alone; of any `together` of them one must hold."""
    made = divided(LAYOUT, "m", some, frozenset(), skips=lambda *ps: len(ps) >= together, split=split).segments
    for h, p in itertools.product(range(SIZES["h"]), range(0, SIZES["p"], 4)):
        first, last = tiles(h, p)
        ends = [(bound_value(s.lo, first, last), bound_value(s.hi, first, last)) for s in made]
        for m, q in itertools.product(range(SIZES["m"]), range(first["p"], last["p"] + 1)):
            true = [holds(f, {"h": h, "p": q, "m": m}) for f in some]
            if all(any(group) for group in itertools.combinations(true, together)):
                assert any(lo <= m // TILES["m"] * TILES["m"] < hi for lo, hi in ends)


def test_a_prefix_or_a_triangle_ends_with_the_longer() -> None:
    triangle, prefix = Predicate((Term("m", -1), Term("p", 1)), (), 0), Predicate((Term("m", -1),), (), 6)
    (made,) = divided(
        LAYOUT, "m", [triangle, prefix], frozenset(), skips=lambda *ps: len(ps) == 2, split=False
    ).segments
    assert bound_value(made.hi, {"h": 0, "p": 0}, {"h": 0, "p": 3}) == 7
    assert bound_value(made.hi, {"h": 0, "p": 8}, {"h": 0, "p": 11}) == 12


@settings(max_examples=200, deadline=None)
@given(st.lists(filters, max_size=3))
def test_leaves_an_element_is_never_wrong(some: list[Predicate]) -> None:
    if leaves_an_element("m", some, SIZES):
        for h, p in itertools.product(range(SIZES["h"]), range(SIZES["p"])):
            assert any(all(holds(f, {"h": h, "p": p, "m": m}) for f in some) for m in range(SIZES["m"]))


def test_leaves_an_element_sees_the_usual_filters() -> None:
    triangle = Predicate((Term("m", -1), Term("p", 1)), (), 0)
    window = Predicate((Term("m", 1), Term("p", -1)), (), 3)
    assert leaves_an_element("m", [triangle], SIZES)
    assert leaves_an_element("m", [triangle, window], SIZES)
    assert not leaves_an_element("m", [window], SIZES.plus({"p": 40}))


def test_a_triangle_has_two_segments_and_an_even_loop_one() -> None:
    triangle = Predicate((Term("m", -1), Term("p", 1)), (), 0)
    even = Layout(LAYOUT.roles, {**SIZES, "m": 20}, {}, LAYOUT.order)
    made = divided(even, "m", [triangle], frozenset(), skips=lambda p: True, split=True).segments
    assert [s.known for s in made] == [frozenset({triangle}), frozenset()]
    (plain,) = divided(even, "m", [], frozenset(), skips=lambda p: True, split=True).segments
    assert plain.known == frozenset()
