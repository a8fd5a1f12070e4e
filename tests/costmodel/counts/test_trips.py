"""Trip counts: exact averages against a plain loop over the grid."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import plan, problem, schedule

from eintune.costmodel.counts.trips import bound_values, launch_order, tiles, trips, whole_grid
from eintune.space.plan.bounds import Bound, CeilTo, First, FloorTo, Greatest, Last, Least, Lit, Sum, bound_value
from eintune.space.plan.plan import Block, Loop, LoopPlan, Segment
from eintune.space.plan.roles import Role
from eintune.space.plan.sizes import Sizes

RANKS = ("p", "m")
bounds: st.SearchStrategy[Bound] = st.recursive(
    st.one_of(st.integers(-50, 200).map(Lit), st.sampled_from(RANKS).map(First), st.sampled_from(RANKS).map(Last)),
    lambda inner: st.one_of(
        st.lists(st.tuples(st.integers(-2, 2), inner), min_size=1, max_size=3).map(lambda t: Sum(tuple(t))),
        st.lists(inner, min_size=1, max_size=3).map(lambda a: Least(tuple(a))),
        st.lists(inner, min_size=1, max_size=3).map(lambda a: Greatest(tuple(a))),
        st.tuples(inner, st.integers(1, 32)).map(lambda a: FloorTo(*a)),
        st.tuples(inner, st.integers(1, 32)).map(lambda a: CeilTo(*a)),
    ),
    max_leaves=8,
)


@given(bound=bounds, tile=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_vectorised_bounds_are_the_scalar_ones(bound: Bound, tile: int) -> None:
    first = {"p": np.arange(0, 200, tile), "m": np.full(len(range(0, 200, tile)), 3)}
    last = {"p": first["p"] + tile - 1, "m": first["m"] + 9}
    got = np.broadcast_to(bound_values(bound, first, last, {}), first["p"].shape)
    for i in range(len(got)):
        one = {r: int(first[r][i]) for r in RANKS}, {r: int(last[r][i]) for r in RANKS}
        assert got[i] == bound_value(bound, *one)


def nested(outer: Segment, inner: Segment, size: int, p_tile: int) -> LoopPlan:
    """Programs over p; a loop over m; inside it one over n."""
    innermost = Loop("n", 8, (inner,), (), Block(frozenset("mn")))
    loop = Loop("m", 16, (outer,), (), Block(frozenset("m"), [innermost]))
    roles = {"p": Role("grid", p_tile), "m": Role("loop", 16), "n": Role("loop", 8)}
    sizes = Sizes({"p": size, "m": size, "n": size})
    return LoopPlan(roles, sizes, RANKS, ("p",), Block(frozenset(), [loop]), {}, {}, {})


def by_hand(plan: LoopPlan) -> Iterator[tuple[int, int]]:
    """(outer, inner) iterations of each program, one after the other."""
    (loop, innermost) = plan.loops()
    for index in range(tiles(plan, "p")):
        step, size = plan.roles["p"].tile or 1, plan.sizes["p"]
        first, last = {"p": index * step}, {"p": min(index * step + step, size) - 1}
        lo, hi = (bound_value(b, first, last) for b in (loop.segments[0].lo, loop.segments[0].hi))
        places = range(lo, hi, loop.tile)
        total = 0
        for m in places:
            inside = {**first, "m": m}, {**last, "m": min(m + loop.tile, plan.sizes["m"]) - 1}
            a, b = (bound_value(x, *inside) for x in (innermost.segments[0].lo, innermost.segments[0].hi))
            total += len(range(a, b, innermost.tile))
        yield len(places), total


@pytest.mark.parametrize(("size", "tile"), [(100, 16), (64, 32), (17, 5)])
@pytest.mark.parametrize("inner_end", [Last("m"), Last("p"), Lit(24), Sum(((1, Last("p")), (-1, First("m"))))])
def test_nested_trips_are_those_of_a_plain_loop(size: int, tile: int, inner_end: Bound) -> None:
    outer = Segment(Lit(0), Least((Sum(((1, Last("p")), (1, Lit(1)))), Lit(size))), frozenset())
    plan = nested(outer, Segment(Lit(0), inner_end, frozenset()), size, tile)
    got = list(trips(plan, whole_grid(plan)).values())
    assert list(zip(*(g.iterations.astype(int).tolist() for g in got), strict=True)) == list(by_hand(plan))


def test_only_ranks_that_bounds_mention_are_enumerated() -> None:
    even = plan("one", problem(), schedule())
    assert whole_grid(even) == {}
    uneven = plan("one", problem(), schedule(), filtered=True)
    assert list(whole_grid(uneven)) == ["p"]
    assert len(whole_grid(uneven)["p"]) == 32


def test_a_triangular_filter_halves_the_iterations() -> None:
    uneven = plan("one", problem(length=2048), schedule(64, 64), filtered=True)
    total = sum(float(r.iterations.mean()) for r in trips(uneven, whole_grid(uneven)).values())
    assert total == pytest.approx(sum(range(1, 33)) / 32)


def test_launch_order_runs_backwards_in_reverse() -> None:
    uneven = plan("one", problem(1, 1), schedule(64, 64), filtered=True)
    forward, backward = (launch_order(uneven, r, 32)["p"] for r in (False, True))
    assert forward.tolist() == list(range(32))
    assert backward.tolist() == list(range(31, -1, -1))


def test_every_program_of_a_small_grid_is_covered() -> None:
    grid = plan("one", problem(2, 3, 256), schedule(64, 64), filtered=True)
    index = launch_order(grid, False, 2 * 3 * 4)["p"]
    assert sorted(index.tolist()) == sorted(p for p, _, _ in product(range(4), range(2), range(3)))
