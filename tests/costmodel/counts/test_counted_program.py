"""A program that is counted once: its work at any sizes is that of a plan for these sizes, and costs little to find."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from attention_variants import ALONE
from kernel_forms import derived

from eintune.costmodel.counts.work import CountedProgram, work
from eintune.costmodel.machines.machine import load_machine
from eintune.costmodel.pricing.time import estimate, estimate_works, predicted_seconds
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.lowering.lower import IllegalPlan, build_for_any_size, build_program
from eintune.space.plan.plan import Program
from eintune.space.plan.sizes import UnknownSize
from eintune.space.schedule.any_size import for_any_size
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import posed
from eintune.space.workloads.workload import WORKLOADS

H200 = load_machine("h200")
SCHEDULES, SIZES = 4, 6
"""How many of each are drawn."""


def attention(name: str, b: int, h: int, g: int, p: int, m: int) -> Problem:
    return posed(ALONE[name], {"b": b, "h": h, "g": g, "p": p, "m": m, "e": 64, "f": 64}, "bf16", {"scale": 0.25})


CASES: dict[str, Callable[[], Problem]] = {
    "plain": lambda: attention("plain", 2, 2, 1, 300, 340),
    "causal": lambda: attention("causal", 1, 8, 1, 20000, 20000),
    "causal, lower right": lambda: attention("causal, lower right", 2, 2, 1, 300, 3000),
    "window": lambda: attention("window to both sides", 2, 3, 1, 700, 700),
    "grouped heads": lambda: attention("causal", 1, 2, 4, 900, 900),
    "decoding": lambda: attention("plain", 1, 4, 8, 1, 5000),
    "documents": lambda: attention("documents, causal", 2, 2, 1, 600, 600),
    "mask": lambda: attention("mask", 1, 4, 1, 600, 600),
    "sinks and slopes": lambda: attention("slopes, lower right", 1, 2, 1, 200, 200),
    "softmax": lambda: WORKLOADS["softmax"].posed({"rows": 3000, "cols": 50000}, "bf16").problem,
    "rmsnorm": lambda: WORKLOADS["rmsnorm"].posed({"rows": 3000, "cols": 5000}, "bf16").problem,
    "cross_entropy": lambda: WORKLOADS["cross_entropy"].posed({"rows": 3000, "vocab": 50000}, "bf16").problem,
    "gemm": lambda: WORKLOADS["gemm"].posed({}, "bf16").problem,
    "rmsnorm_matmul": lambda: WORKLOADS["rmsnorm_matmul"].posed({}, "bf16").problem,
}


def for_any(cascade: Cascade, problem: Problem, rng: random.Random) -> Iterator[tuple[Program, Schedule]]:
    """Plans whose sizes are open, under drawn schedules; of those that go over keys in parts, and of those whose warps
    are specialised, one at least."""
    every = schedules(cascade, problem, "triton")
    split = [s for s in every if any(role.num_splits > 1 for _, role in s.roles)]
    specialised = [s for s in every if s.is_specialised]
    for s in [
        x for some, n in ((every, SCHEDULES), (split, 1), (specialised, 1)) for x in rng.sample(some, min(len(some), n))
    ]:
        try:
            schedule = for_any_size(s)
            yield build_for_any_size(cascade, problem, schedule), schedule
        except IllegalPlan:
            continue


def drawn(program: Program, problem: Problem, rng: random.Random) -> dict[str, int]:
    """Sizes, of which those that the program knows stay."""
    open_ = {r for k in program.kernels for r in k.sizes.ranges}
    sizes = [1, 7, 63, 64, 65, 200, 4097, 30000, rng.randint(1, 9000)]
    return {
        r: (rng.choice(sizes) if n > 32 else rng.randint(1, 9)) if r in open_ else n for r, n in problem.sizes.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_work_at_any_sizes_is_that_of_a_plan_at_these(name: str) -> None:
    problem, rng = CASES[name](), random.Random(name)
    opened = repairs = 0
    for cascade in derived(problem.cascade)[:2]:
        for program, schedule in for_any(cascade, problem, rng):
            counted = CountedProgram(program, schedule)
            opened += any(k.sizes.ranges for k in program.kernels)
            repairs += any(bool(k.repairs) for k in program.kernels)
            for _ in range(SIZES):
                sizes = drawn(program, problem, rng)
                assert counted.at(sizes) == work(program.at(sizes), schedule), sizes
    assert opened
    assert repairs or name != "mask"  # a kernel that repairs is counted as what it usually does


@pytest.mark.parametrize("name", ["plain", "causal", "window", "decoding", "softmax"])
def test_what_is_priced_at_any_sizes_is_what_is_estimated(name: str) -> None:
    """Several at once and each alone, on a machine that is not the one of the time before."""
    problem, rng = CASES[name](), random.Random(name)
    found = [x for c in derived(problem.cascade)[:2] for x in for_any(c, problem, rng)]
    counted = [CountedProgram(*x) for x in found]
    for machine in (H200, load_machine("a100"), replace(H200, sms=7), H200):
        sizes = {r: min(n * rng.randint(1, 5), 20000) if n > 64 else n for r, n in problem.sizes.items()}
        expected = [estimate(program.at(sizes), schedule, machine) for program, schedule in found]
        works = [c.at(sizes) for c in counted]
        assert estimate_works(works, machine) == expected
        assert predicted_seconds(works, machine) == [e.seconds for e in expected]


def test_a_size_that_is_missing_is_named() -> None:
    problem = CASES["causal"]()
    cascade = derived(problem.cascade)[0]
    program, schedule = next(for_any(cascade, problem, random.Random(0)))
    with pytest.raises(UnknownSize, match="that of m is not known"):
        CountedProgram(program, schedule).at({r: n for r, n in problem.sizes.items() if r != "m"})
    with pytest.raises(UnknownSize, match="is not known"):
        work(program, schedule)


def test_pricing_at_new_sizes_is_far_quicker_than_planning() -> None:
    """Beside planning the same program, as seconds depend on the machine: 25 times as quick."""
    problem = attention("causal", 1, 32, 1, 4096, 4096)
    cascade = derived(problem.cascade)[0]
    every = schedules(cascade, problem, "triton")
    schedule = for_any_size(next(s for s in every if s.is_specialised))
    counted = CountedProgram(build_for_any_size(cascade, problem, schedule), schedule)

    def at(i: int) -> Problem:
        return replace(problem, sizes=problem.sizes | {"p": 2000 + i, "m": 2000 + i})

    def price(start: int) -> None:
        estimate_works([counted.at(at(start + i).sizes) for i in range(50)], H200)

    def plan(start: int) -> None:
        for i in range(5):
            build_program(cascade, at(start + i), schedule)

    # The least of several: what disturbs one only adds to it.
    pricing = min(seconds(price, 50 * i) for i in range(8)) / 50
    planning = min(seconds(plan, 5 * i) for i in range(8)) / 5
    assert pricing * 10 < planning


def seconds(run: Callable[[int], None], start: int) -> float:
    begun = time.process_time()
    run(start)
    return time.process_time() - begun
