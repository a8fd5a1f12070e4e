"""Estimates: rankings that must come out, limits that must hold, speed."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
from small_plans import Passes, form, plan, problem, schedule, whole_batch_schedule

from eintune.costmodel.counts.estimate import Estimate, Resources, most
from eintune.costmodel.counts.work import work
from eintune.costmodel.machines.machine import load_machine
from eintune.costmodel.pricing.calibration import Calibration
from eintune.costmodel.pricing.terms import FOLLOWING
from eintune.costmodel.pricing.time import estimate, estimate_works
from eintune.space.lowering.lower import build_program
from eintune.space.plan.plan import Program
from eintune.space.schedule.schedule import Schedule

GPUS = ("h200", "h100", "a100", "rtx4090", "b200", "mi300x")
ORDER: tuple[Passes, ...] = ("one", "two", "three")


def cost(passes: Passes = "one", machine: str = "h200", filtered: bool = False, **tiles: int) -> Estimate:
    s = schedule(**tiles)  # type: ignore[arg-type]
    return estimate(plan(passes, problem(), s, filtered=filtered), s, load_machine(machine))


@pytest.mark.parametrize("machine", GPUS)
@pytest.mark.parametrize("filtered", [False, True])
def test_fewer_passes_are_predicted_faster(machine: str, filtered: bool) -> None:
    seconds = [cost(p, machine, filtered, stages=2).seconds for p in ORDER]
    assert all(a * 1.1 < b for a, b in pairwise(seconds))


# milliseconds of generated kernels on an H200 (2026-11-20): cuDNN's time in the same run over the ratio to it
MEASURED: dict[tuple[Passes, int, int, int, bool], float] = {
    ("one", 4, 2048, 128, False): 0.439 / 0.77,
    ("two", 4, 2048, 128, False): 0.439 / 0.56,
    ("three", 4, 2048, 128, False): 0.439 / 0.40,
    ("one", 4, 2048, 128, True): 0.269 / 0.82,
    ("one", 4, 2048, 64, False): 0.304 / 0.96,
    ("two", 4, 2048, 64, False): 0.304 / 0.53,
    ("three", 4, 2048, 64, False): 0.304 / 0.38,
    ("one", 4, 2048, 64, True): 0.185 / 0.96,
    ("one", 1, 8192, 128, False): 1.680 / 0.86,
    ("three", 1, 8192, 128, False): 1.680 / 0.42,
    ("one", 1, 8192, 128, True): 0.925 / 0.83,
}
TILES = [(p, m, w, s) for p in (64, 128) for m in (64, 128) for w, s in ((4, 2), (4, 3), (8, 2), (8, 3))]


@pytest.mark.parametrize("case", MEASURED, ids=str)
def test_the_best_predicted_time_is_near_what_was_measured(case: tuple[Passes, int, int, int, bool]) -> None:
    passes, batch, length, width, filtered = case
    h200 = load_machine("h200")
    size = problem(batch, 32, length, width)
    every = [schedule(p, m, warps=w, stages=s, width=width) for p, m, w, s in TILES]
    best = min(estimate(plan(passes, size, s, filtered=filtered), s, h200).seconds for s in every)
    assert abs(math.log(best * 1e3 / MEASURED[case])) < math.log(Calibration.of(h200).band)


def test_time_grows_with_the_square_of_the_length_and_with_the_heads() -> None:
    h200, s = load_machine("h200"), schedule()
    short, long, wide = (
        estimate(plan("one", problem(b, h, n), s), s, h200).seconds
        for b, h, n in ((1, 32, 4096), (1, 32, 8192), (2, 32, 4096))
    )
    assert 3.5 < long / short < 4.2
    assert 1.8 < wide / short < 2.1


def test_a_small_problem_is_limited_by_the_launch() -> None:
    s = schedule()
    tiny = estimate(plan("one", problem(1, 1, 128), s), s, load_machine("h200"))
    assert tiny.limiter == "launch"
    assert tiny.seconds < 1e-5


def test_starting_the_longest_programs_first_is_predicted_faster() -> None:
    h200 = load_machine("h200")

    def seconds(order: Literal["forward", "reverse"]) -> float:
        s = schedule(order=order)
        return estimate(plan("one", problem(1, 1, 65536), s, filtered=True), s, h200).seconds

    assert seconds("reverse") < seconds("forward")


def test_no_estimate_beats_the_units() -> None:
    answer = cost()
    busiest = max(t for _, t in answer.unit_seconds)
    assert answer.seconds > busiest
    assert answer.limiter == max(answer.unit_seconds, key=lambda pair: pair[1])[0]


def test_resources_from_a_compiler_win() -> None:
    s, h200 = schedule(), load_machine("h200")
    one = plan("one", problem(), s)
    exact = Resources(200_000, 240, 400, 4, exact=True)
    slower = estimate(one, s, h200, resources=exact)
    assert slower.resources == exact
    assert slower.programs_per_sm == 1
    assert slower.seconds > estimate(one, s, h200).seconds


def test_a_faster_unit_never_makes_a_kernel_slower() -> None:
    s, h200 = schedule(), load_machine("h200")
    one = plan("one", problem(), s)
    base = estimate(one, s, h200).seconds
    for name in ("fma_flops", "special_per_clock", "hbm_bytes_per_second", "l2_bytes_per_second"):
        assert estimate(one, s, replace(h200, **{name: getattr(h200, name) * 2})).seconds <= base


def test_a_cpu_counts_operators() -> None:
    cpu = load_machine("cpu")
    size = problem(1, 8, 1024, 64, "fp32")

    def seconds(p: int, m: int) -> float:
        s = whole_batch_schedule(1, 8, p, m, 64)
        return estimate(plan("one", size, s), s, cpu).seconds

    assert seconds(16, 16) > 2 * seconds(256, 256)
    start = Calibration.of(cpu)
    slow = replace(start, step_seconds=start.step_seconds + 5e-5)
    s = whole_batch_schedule(1, 8, 64, 64, 64)
    one = plan("one", size, s)
    more = estimate(one, s, cpu, slow).seconds - estimate(one, s, cpu, start).seconds
    operators = sum(p.block.operators * p.executions for p in work(one, s).phases) * 16
    assert more == pytest.approx(operators * 5e-5, rel=1e-3)


def test_pricing_hundreds_of_candidates_again_is_quick() -> None:
    s = schedule()
    counted = [work(plan(p, problem(), s, filtered=f), s) for p in ORDER for f in (False, True)] * 84
    start = time.process_time()
    answers = estimate_works(counted, load_machine("h200"))
    assert time.process_time() - start < 1.0  # 0.1 s on an idle machine
    assert len(answers) == len(counted)
    assert answers[0] == estimate(plan("one", problem(), s), s, load_machine("h200"))


# ---- programs of several kernels


def shared(parts: int, heads: int, length: int = 8192) -> tuple[Program, Schedule]:
    """16 queries of a head over keys in parts."""
    s = schedule(16, 64, stages=3)
    roles = tuple((r, replace(role, num_splits=parts) if r == "m" else role) for r, role in s.roles)
    size = problem(1, heads, length)
    s = replace(s, roles=roles)
    return build_program(form("one"), replace(size, sizes=size.sizes | {"p": 16}), s), s


def test_a_program_takes_what_its_launches_take() -> None:
    program, s = shared(8, 4)
    counted = work(program, s)
    first, second = counted.launches
    assert (first.programs, second.programs) == (4 * 8, 4 * 16) and not first.then
    h200 = load_machine("h200")
    whole, *each = estimate_works([counted, first, second], h200)
    start = Calibration.of(h200)
    assert whole.seconds == pytest.approx(sum(e.seconds for e in each) - (1 - FOLLOWING) * start.launch_seconds)
    assert whole.traffic.l2_bytes == sum(e.traffic.l2_bytes for e in each)
    assert whole.resources == most([e.resources for e in each]) and whole.programs == first.programs
    assert counted.under(replace(s, warps=8)).then[0].options.warps == 8
    mixed = estimate_works([first, counted, second], h200)
    assert [e.seconds for e in mixed] == [each[0].seconds, whole.seconds, each[1].seconds]


def test_keys_in_parts_are_read_once() -> None:
    program, s = shared(8, 4)
    streams = {x.tensor: x for x in work(program, s).streams}
    for name in "KV":
        assert streams[name].total_bytes == 4 * 8192 * 128 * 2
        assert streams[name].distinct_bytes == streams[name].requested_bytes == 8192 / 8 * 128 * 2
    (m1,) = (program.kernels[0].splits[r].rank for r in "m")
    assert m1 in streams["K"].ranks and m1 not in streams["Q"].ranks


def test_parts_pay_where_programs_are_few() -> None:
    h200 = load_machine("h200")

    def seconds(parts: int, heads: int) -> float:
        return estimate(*shared(parts, heads), h200).seconds

    assert seconds(16, 4) < seconds(4, 4) < seconds(1, 4) / 2
    assert seconds(4, 1056) > seconds(1, 1056)
