"""Trip counts: exact averages against a plain loop over the grid."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import plan, problem, schedule

from eintune.costmodel.counts.bound_code import BoundCode, Ints
from eintune.costmodel.counts.trips import Runs, TripCounts, tiles
from eintune.costmodel.counts.work import work
from eintune.space.ir.expr import Rank
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
    code = BoundCode(RANKS)
    place, steps = code.bound(bound), code.trips(First("m"), bound, tile)
    values = [np.broadcast_to(v, first["p"].shape) for v in code.run(first, last, {})]
    got = values[place]
    for i in range(len(got)):
        one = {r: int(first[r][i]) for r in RANKS}, {r: int(last[r][i]) for r in RANKS}
        assert got[i] == bound_value(bound, *one)
        assert values[steps][i] == len(range(3, got[i], tile))


@given(bound=bounds, size=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_ranks_that_do_not_vary_span_all_of_their_indices(bound: Bound, size: int) -> None:
    code = BoundCode(())
    place = code.bound(bound)
    sizes = dict.fromkeys(RANKS, size)
    got = code.run({}, {}, sizes)[place]
    assert type(got) is int and got == bound_value(bound, dict.fromkeys(RANKS, 0), dict.fromkeys(RANKS, size - 1))


def runs_of(plan: LoopPlan) -> list[Runs]:
    """Over the whole grid."""
    trips = TripCounts(plan)
    return trips.at(plan.sizes, whole_grid(plan))


def whole_grid(plan: LoopPlan) -> dict[Rank, Ints]:
    return TripCounts(plan).whole_grid({r: tiles(plan, r) for r in plan.grid})


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
    count = tiles(plan, "p")
    got = [np.broadcast_to(r.iterations, count).astype(int).tolist() for r in runs_of(plan)]
    assert list(zip(*got, strict=True)) == list(by_hand(plan))


def test_only_ranks_that_bounds_mention_are_enumerated() -> None:
    even = plan("one", problem(), schedule())
    assert whole_grid(even) == {}
    uneven = plan("one", problem(), schedule(), filtered=True)
    assert list(whole_grid(uneven)) == ["p"]
    assert len(whole_grid(uneven)["p"]) == 32


def test_a_triangular_filter_halves_the_iterations() -> None:
    uneven = plan("one", problem(length=2048), schedule(64, 64), filtered=True)
    total = sum(r.mean for r in runs_of(uneven))
    assert total == pytest.approx(sum(range(1, 33)) / 32)


def launch_order(plan: LoopPlan, reverse: bool, samples: int, start: int = 0) -> list[int]:
    return work(plan, schedule()).lengths.launch_order(reverse, samples, start)["p"].tolist()


def test_launch_order_runs_backwards_in_reverse() -> None:
    uneven = plan("one", problem(1, 1), schedule(64, 64), filtered=True)
    assert launch_order(uneven, False, 32) == list(range(32))
    assert launch_order(uneven, True, 32) == list(range(31, -1, -1))


def test_every_program_of_a_small_grid_is_covered() -> None:
    grid = plan("one", problem(2, 3, 256), schedule(64, 64), filtered=True)
    index = launch_order(grid, False, 2 * 3 * 4)
    assert sorted(index) == sorted(p for p, _, _ in product(range(4), range(2), range(3)))


@pytest.mark.parametrize("samples", [8, 24, 100])
def test_the_end_of_a_launch_order_is_that_of_all_of_it(samples: int) -> None:
    grid = plan("one", problem(2, 3, 256), schedule(64, 64), filtered=True)
    for start in range(min(samples, 24)):
        assert launch_order(grid, True, samples, start) == launch_order(grid, True, samples)[start:]


@pytest.mark.parametrize("length", [100, 64 * 64, 64 * 65, 64 * 5000])
def test_a_profile_is_of_the_longest_programs_in_launch_order(length: int) -> None:
    """In bins of programs counted one by one, or of an even sample of them."""
    grid = plan("one", problem(1, 3, length), schedule(64, 64), filtered=True)
    lengths = work(grid, schedule()).lengths
    for reverse in (False, True):
        index = np.array(launch_order(grid, reverse, 4096))
        # what a program does beside its loop, and in each iteration, which are as many as its tile's number
        each = sum(
            (np.array([e]) * np.clip(n, 0, None) for e, n in zip(lengths.efforts, trips_by_hand(index), strict=True))
        )
        bins = np.array_split(each, 64) if len(each) >= 64 else [each]
        whole = sum(
            e * np.clip(n, 0, None)
            for e, n in zip(lengths.efforts, trips_by_hand(np.arange(-(-length // 64))), strict=True)
        )
        profile = [float(b.max()) / float(np.mean(whole)) for b in bins]
        rel = 1e-12 if length // 64 <= 4096 else 1e-3
        assert lengths.profile(reverse) == pytest.approx(profile, rel=rel)
        for running in (1, len(each) // 3, len(each)):
            last = max(1, -(-len(profile) * running // (3 * -(-length // 64))))
            expected = sum(profile[-last:]) / last
            assert lengths.ending(reverse, running) == pytest.approx(expected, rel=rel)


def trips_by_hand(index: Ints) -> list[Ints]:
    """Of the root block, of the tiles without a filter, and of the one on the diagonal."""
    return [np.ones(len(index)), index, np.ones(len(index))]
