"""How products lie on warps: by hand for the unit that groups drive and for the one that warps drive."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_plans import plan, problem, schedule

from eintune.costmodel.counts.block_work import ProductCost
from eintune.costmodel.counts.work import work
from eintune.costmodel.machines.machine import load_machine
from eintune.costmodel.pricing.placed_kernel import place
from eintune.costmodel.pricing.products import WarpLayout, layout
from eintune.costmodel.pricing.terms import terms

H200, A100 = load_machine("h200"), load_machine("a100")


def product(rows: int, columns: int, depth: int = 128, computed: bool = False) -> ProductCost:
    return ProductCost(
        "bf16", rows, columns, 2.0 * rows * columns * depth, 2 * rows * depth, 2 * columns * depth, computed
    )


def on_h200(rows: int, columns: int, warps: int = 4, computed: bool = False) -> WarpLayout:
    return layout(product(rows, columns, computed=computed), warps, H200)


def test_wide_products_run_at_the_rate_and_narrow_ones_wait_for_their_operands() -> None:
    rate = H200.tensor_rate("bf16") / H200.sms
    wide = product(64, 256)
    assert layout(wide, 4, H200).seconds == pytest.approx(wide.flops / rate)
    narrow = product(64, 16)
    read = (narrow.left_bytes + narrow.right_bytes) / H200.shared_bytes_per_second * H200.sms
    assert layout(narrow, 4, H200).seconds == pytest.approx(read)
    assert read > narrow.flops / rate


def test_the_right_operand_is_read_for_each_64_rows() -> None:
    assert on_h200(128, 16).seconds > on_h200(64, 16).seconds * 1.99


def test_groups_without_rows_of_their_own_exchange_the_left_operand() -> None:
    shared = on_h200(64, 64, warps=8, computed=True)
    assert shared.crossing and shared.exchanged == 3 * 2 * 64 * 128  # written once, read by both groups
    own = on_h200(128, 64, warps=8, computed=True)
    assert not own.crossing and own.exchanged == 0


@pytest.mark.parametrize(
    ("rows", "columns", "copies"), [(16, 16, 4), (32, 16, 2), (32, 32, 2), (16, 32, 1), (16, 16, 4), (32, 128, 1)]
)
def test_warps_beyond_a_small_tile_repeat_each_other(rows: int, columns: int, copies: float) -> None:
    assert on_h200(rows, columns).copies == copies


def test_where_warps_work_alone_there_is_no_narrow_unit() -> None:
    wide = product(128, 256)
    assert layout(wide, 4, A100).seconds == pytest.approx(wide.flops / A100.tensor_rate("bf16") * A100.sms)


def steps_and_waits(stages: int, *, filtered: bool) -> tuple[float, float]:
    """Of the first loop segment of one pass, filtered ones in two segments."""
    s = schedule(64, 64, stages=stages)
    counted = work(plan("one", problem(1, 32, 2048, 128), s, filtered=filtered), s)
    made = terms([counted], H200)
    return float(made.steps[0, 1]), float(made.waits[0, 1] / counted.phases[1].executions)


def test_stages_hide_loads() -> None:
    waits = [steps_and_waits(stages, filtered=False)[1] for stages in (1, 2, 3)]
    assert waits[0] == 2  # both tiles of an iteration
    assert waits[1] == pytest.approx(1 + 1 / 32)  # one wait an iteration and one to fill the pipeline
    assert waits[2] == pytest.approx(1 / 32)


def test_segments_that_may_be_empty_serialise_a_pipelined_loop() -> None:
    assert steps_and_waits(3, filtered=True)[0] > steps_and_waits(3, filtered=False)[0]
    assert steps_and_waits(1, filtered=True)[0] == steps_and_waits(1, filtered=False)[0]


def test_rows_that_groups_share_take_registers_and_so_does_loading_without_a_pipeline() -> None:
    s = schedule(64, 128, warps=8)
    counted = work(plan("one", problem(), s), s)
    shared = place(counted, H200).resources.registers_per_thread
    alone = place(replace(counted, needs=replace(counted.needs, computed=0)), H200).resources.registers_per_thread
    assert shared - alone == 3 * 64 * 128 * 2 / 4 / 256
    piped, direct = (
        place(replace(counted, options=replace(counted.options, stages=n)), H200).resources.registers_per_thread
        for n in (2, 1)
    )
    assert direct > piped
