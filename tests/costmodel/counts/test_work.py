"""Counting: bytes and operations of plans against numbers worked out by hand; resources against the compiler's."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from small_plans import Passes, chained_products, plan, problem, schedule

from eintune.costmodel.counts.resources import illegal, programs_per_sm, resources
from eintune.costmodel.counts.traffic import hbm_bytes, traffic
from eintune.costmodel.counts.work import work
from eintune.costmodel.machines.machine import load_machine

H200 = load_machine("h200")


def test_products_and_loads_of_one_pass_are_those_of_the_sizes() -> None:
    t = traffic(plan("one", problem(4, 32, 2048, 128), schedule(64, 64)), schedule(64, 64))
    heads = 4 * 32
    assert t.tensor_flops == heads * 2 * (2 * 2048 * 2048 * 128)
    assert t.hbm_bytes == heads * 4 * 2048 * 128 * 2  # Q, K, V and the output, once each
    again = 2048 // 64  # every tile of p reads all of K and V
    assert t.l2_bytes == heads * (2 * 2048 * 128 * 2 + again * 2 * 2048 * 128 * 2)
    # an exp for each score, one a row and tile for the rescaling, and the division at the end
    assert t.special_ops == heads * (2048 * 2048 + 2048 * again + 2048 * 128)


@pytest.mark.parametrize(("passes", "products", "loads"), [("one", 2, 2), ("two", 3, 3), ("three", 4, 4)])
def test_each_pass_computes_and_loads_again(passes: Passes, products: int, loads: int) -> None:
    s = schedule(64, 64)
    t = traffic(plan(passes, problem(1, 1, 1024), s), s)
    assert t.tensor_flops == products * 2 * 1024 * 1024 * 128
    assert t.l2_bytes == (2 + loads * 16) * 1024 * 128 * 2


def test_a_segment_without_masks_counts_none() -> None:
    s = schedule(64, 64)
    counted = work(plan("one", problem(1, 1, 1024), s, filtered=True), s)
    clear, masked = counted.phases[1], counted.phases[2]
    assert clear.traffic.fma_flops < masked.traffic.fma_flops
    assert clear.traffic.tensor_flops == masked.traffic.tensor_flops


def test_padded_lanes_compute_but_load_nothing() -> None:
    s = schedule(64, 64, width=128)
    t = traffic(plan("one", problem(1, 1, 256, 80), s), s)
    assert t.tensor_flops == 2 * (2 * 256 * 256 * 128)
    assert t.l2_bytes == pytest.approx((2 * 256 + 4 * 2 * 256) * 80 * 2)


def test_unequal_programs_are_described_by_their_longest_and_their_order() -> None:
    forward, reverse = schedule(64, 64), schedule(64, 64, order="reverse")
    rising = work(plan("one", problem(1, 1, 4096), forward, filtered=True), forward)
    falling = work(plan("one", problem(1, 1, 4096), reverse, filtered=True), reverse)
    assert 1.8 < rising.longest < 2.0
    assert rising.profile[-1] > 1.8 > 0.2 > rising.profile[0]
    assert falling.profile == pytest.approx(rising.profile[::-1])
    assert sum(rising.profile) / len(rising.profile) == pytest.approx(1.0)  # one program a bin here


def test_the_cache_serves_what_neighbouring_programs_share() -> None:
    s = schedule(64, 64)
    counted = work(plan("one", problem(4, 32, 2048), s), s)
    once = counted.traffic.hbm_bytes
    assert hbm_bytes(counted, H200.l2_bytes, 264) == pytest.approx(once, rel=0.1)
    tiny = hbm_bytes(counted, 1 << 16, 264)
    assert once < tiny <= counted.traffic.l2_bytes
    sizes = [hbm_bytes(counted, 1 << n, 264) for n in range(16, 32)]
    assert all(b <= a * 1.03 for a, b in pairwise(sizes))
    assert sizes[-1] == once


def test_counting_is_quick() -> None:
    s = schedule(64, 64)
    plans = [plan(p, problem(), s, filtered=f) for p in ("one", "two", "three") for f in (False, True)]
    start = time.perf_counter()
    for _ in range(10):
        for one in plans:
            work(one, s)
    assert (time.perf_counter() - start) / 60 < 0.02  # a quarter of that on an idle machine


# (p, m, warps, stages, width) -> shared bytes and registers that Triton 3.6 and ptxas gave for sm_90, one pass
COMPILED = {
    (64, 64, 4, 1, 64): (16384, 100),
    (64, 64, 4, 3, 64): (57344, 106),
    (128, 64, 8, 2, 64): (49152, 106),
    (64, 128, 4, 2, 64): (73728, 154),
    (64, 64, 4, 2, 128): (81920, 139),
    (64, 64, 4, 3, 128): (114688, 138),
    (128, 64, 4, 2, 128): (98304, 255),
    (128, 64, 8, 2, 128): (98304, 139),
    (128, 128, 8, 2, 128): (163840, 197),
    (128, 32, 4, 3, 128): (81920, 211),
    (32, 64, 4, 2, 128): (45056, 124),
    (16, 64, 4, 2, 64): (20480, 56),
}


@pytest.mark.parametrize("tiles", COMPILED, ids=str)
def test_predicted_resources_are_the_compilers(tiles: tuple[int, int, int, int, int]) -> None:
    p, m, warps, stages, width = tiles
    s = schedule(p, m, warps=warps, stages=stages, width=width)
    got = resources(plan("one", problem(4, 32, 2048, width), s), s, H200)
    shared, registers = COMPILED[tiles]
    assert got.shared_bytes == shared
    assert got.registers_per_thread == pytest.approx(registers, rel=0.2)
    assert not got.exact


def test_occupancy_and_legality() -> None:
    s = schedule(64, 64, stages=3)
    fits = resources(plan("one", problem(), s), s, H200)
    assert programs_per_sm(fits, H200) == 2
    assert illegal(fits, H200) is None
    s = schedule(128, 256, warps=8, stages=4)
    large = resources(plan("one", problem(), s), s, H200)
    assert str(illegal(large, H200)) == f"shared memory: needs {large.shared_bytes} bytes, h200 has 232448"
    s = schedule(256, 128, warps=4, stages=2)
    spilling = resources(plan("one", problem(), s), s, H200)
    assert str(illegal(spilling, H200)).startswith("registers: spills")


def test_stores_in_a_loop_and_after_it_are_counted_where_they_stand() -> None:
    s = schedule()
    each = work(chained_products(store_each_iteration=True), s).traffic.l2_bytes
    once = work(chained_products(store_each_iteration=False), s).traffic.l2_bytes
    assert each - once == 7 * 128 * 64 * 4


def test_warps_stages_and_order_need_no_counting_again() -> None:
    one, other = schedule(), schedule(warps=8, stages=1, order="reverse")
    lowered = plan("one", problem(1, 1), one, filtered=True)
    assert work(lowered, one).under(other) == work(plan("one", problem(1, 1), other, filtered=True), other)
    assert work(lowered, one).under(other) != work(lowered, one)
