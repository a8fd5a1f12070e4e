"""A machine of cores: slots, memory and bytes counted in whole tiles, grids, multicast, skipped blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_plans import form, problem

from eintune.costmodel.cores.core_tiles import CoreTiles
from eintune.costmodel.cores.cores import CoreWork, core_work, grid_of, grids, price, unfit
from eintune.costmodel.machines.machine import Machine, MachineError, load_machine, parse_machine
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

WORMHOLE = load_machine("wormhole")
GRID = grid_of(WORMHOLE)


def laid_out(p: int, m: int, *, width: int = 64, stages: int = 2, filtered: bool = False) -> tuple[LoopPlan, Schedule]:
    """One pass over m with tiles of p x m elements a core."""
    roles = {
        "b": Role("grid", None),
        "h": Role("grid", None),
        "p": Role("grid", p),
        "m": Role("loop", m),
        "e": Role(None, width),
        "f": Role(None, width),
    }
    schedule = Schedule("tensix", tuple(roles.items()), warps=1, stages=stages)
    return build_plan(form("one", filtered=filtered), problem(1, 8, 2048, width), schedule), schedule


def counted(p: int, m: int, *, blocked: bool, width: int = 64, stages: int = 2, filtered: bool = False) -> CoreWork:
    plan, schedule = laid_out(p, m, width=width, stages=stages, filtered=filtered)
    return core_work(plan, schedule, WORMHOLE, blocked=blocked)


# ---- what fits


def test_two_by_two_tiles_fit_in_sub_blocks_only() -> None:
    whole, blocked = (counted(64, 64, blocked=b) for b in (False, True))
    assert whole.destination == 40  # two of them hold each row's factor and its product with the maximum
    reason = unfit(whole, WORMHOLE)
    assert str(reason) == "destination slots: unblocked intermediates need 40 at once, a core of wormhole has 16"
    assert dict(whole.fullest)["acc_2"] == 8  # four tiles of 32-bit elements
    assert blocked.destination <= 16
    assert unfit(blocked, WORMHOLE) is None


def test_one_tile_fits_either_way() -> None:
    for blocked in (False, True):
        assert unfit(counted(32, 32, blocked=blocked, width=32), WORMHOLE) is None


def test_a_row_vector_takes_a_whole_tile() -> None:
    plan, _ = laid_out(32, 32, width=32)
    tiles = CoreTiles(plan, GRID, blocked=False)
    vectors = [v for loop in plan.loops() for v in loop.body.items if getattr(v, "axes", None) == ("p",)]
    assert vectors
    assert {tiles.tiles(v) for v in vectors} == {1}  # type: ignore[arg-type]


def test_l1_grows_with_the_block_the_stages_and_what_is_packed() -> None:
    base = counted(64, 64, blocked=False, stages=1)
    assert counted(64, 128, blocked=False, stages=1).l1_bytes > base.l1_bytes
    assert counted(64, 64, blocked=False, stages=2).l1_bytes == base.l1_bytes + 2 * 64 * 64 * 2  # K and V once more
    assert counted(64, 64, blocked=True, stages=1).l1_bytes > base.l1_bytes
    small = replace(WORMHOLE, grid=replace(GRID, l1_bytes=10_000))
    assert unfit(counted(32, 32, blocked=True, width=32), small) is not None


def test_sub_blocks_move_more_through_l1_and_compute_the_same() -> None:
    whole, blocked = (counted(64, 64, blocked=b) for b in (False, True))

    def total(w: CoreWork) -> tuple[float, float, float, float]:
        flops = sum(p.executions * n for p in w.parts for _, n in p.flops)
        return (
            flops,
            sum(p.executions * p.slots for p in w.parts),
            sum(p.executions * p.special for p in w.parts),
            sum(p.executions * p.l1_bytes for p in w.parts),
        )

    assert total(whole)[:3] == total(blocked)[:3]
    assert total(whole)[0] == 2 * 2 * 64 * 2048 * 64  # two products of a core's 64 rows
    assert total(blocked)[3] > total(whole)[3]


# ---- grids


def test_every_grid_of_the_machine_is_there_once() -> None:
    found = list(grids(WORMHOLE))
    assert len(found) == len(set(found)) == 80
    assert found[0] == (1, 1)
    assert found[-1] == (8, 10)


def test_more_cores_are_never_slower_and_scale_until_work_runs_out() -> None:
    work = counted(32, 128, blocked=True)
    one, two, four, most = (price(work, WORMHOLE, n, n).seconds - WORMHOLE.launch_seconds for n in (1, 2, 4, 8))
    assert one / two == pytest.approx(4, rel=0.01)
    assert one / four == pytest.approx(16, rel=0.01)
    assert one / most == pytest.approx(64, rel=0.01)
    assert price(work, WORMHOLE, 8, 10).seconds <= price(work, WORMHOLE, 8, 8).seconds


def test_multicast_reads_keys_and_values_once_a_row() -> None:
    work = counted(32, 128, blocked=True)
    alone = replace(WORMHOLE, grid=replace(GRID, multicast=False))
    assert price(work, WORMHOLE, 8, 1).dram_bytes == price(work, alone, 8, 1).dram_bytes
    shared, apart = price(work, WORMHOLE, 8, 8).dram_bytes, price(work, alone, 8, 8).dram_bytes
    own = 2 * 8 * 2048 * 64 * 2  # Q in and O out
    assert (apart - own) / (shared - own) == pytest.approx(8)


def test_double_buffering_hides_what_moves() -> None:
    single, double = (price(counted(32, 128, blocked=True, stages=n), WORMHOLE, 8, 8).seconds for n in (1, 2))
    assert double < single


def test_skipped_blocks_save_time_but_a_row_goes_as_far_as_its_longest_core() -> None:
    full, half = (counted(32, 128, blocked=True, filtered=f) for f in (False, True))
    assert not full.lengths
    assert len(half.lengths) == 64
    assert sum(half.lengths) / 64 == pytest.approx(1)
    flops = [sum(p.executions * n for p in w.parts for _, n in p.flops) for w in (full, half)]
    assert flops[1] < 0.6 * flops[0]

    def matrix(columns: int) -> float:
        return dict(price(half, WORMHOLE, 8, columns).unit_seconds)["matrix"] * columns

    assert matrix(8) > matrix(1) * 1.02
    assert price(half, WORMHOLE, 8, 10).seconds < price(full, WORMHOLE, 8, 10).seconds


# ---- the machine


def test_other_machines_are_no_grid_of_cores() -> None:
    with pytest.raises(ValueError, match="cores are of a machine with a grid of them, but h200 is a gpu"):
        grid_of(load_machine("h200"))


def test_a_grid_with_a_wrong_field_is_refused() -> None:
    data = {"title": "x", "grid": {"rows": 8}}
    with pytest.raises(MachineError, match="machine x: `grid`: object missing required field"):
        parse_machine("x", data)


def test_a_dtype_without_a_unit_is_refused() -> None:
    lacking: Machine = replace(WORMHOLE, tensor_flops=(("fp16", 1e12),))
    with pytest.raises(MachineError, match="no matrix rate for dtype 'bf16'"):
        price(counted(32, 32, blocked=True, width=32), lacking, 1, 1)
