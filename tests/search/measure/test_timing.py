"""Turns and samples: who is timed how often, and what is reported."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from eintune.search.measure.policy import Policy
from eintune.search.measure.timing import SHORTEST_CPU_SAMPLE, Sampler, in_turns, summary

POLICY = Policy(rounds=(3, 12), minor_rounds=2, contender=1.5, effort=0.5)


class Recorded(Sampler):
    """A sampler whose clock is a table: what matters here is who plays, and in which order."""

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__(torch.device("cpu"))
        self.seconds = seconds
        self.played: list[str] = []

    def sample(self, run: Callable[[], object], repeats: int) -> Callable[[], float]:
        label = str(run())
        self.played.append(label)
        return lambda: self.seconds[label] * (1 + 0.01 * self.played.count(label))


def play(seconds: dict[str, float], policy: Policy = POLICY) -> tuple[Recorded, dict[str, float], list[str]]:
    sampler = Recorded(seconds)
    heard: list[str] = []
    runs = {label: (lambda label=label: label) for label in seconds}
    timings = in_turns(runs, seconds, policy, sampler, heard.append)
    return sampler, {label: t.seconds for label, t in timings.items()}, heard


def test_contenders_play_all_rounds_and_others_a_few() -> None:
    sampler, medians, heard = play({"fast": 0.01, "near": 0.014, "slow": 0.02})
    assert Counter(sampler.played) == {"fast": 12, "near": 12, "slow": 2}
    assert sorted(medians, key=lambda label: medians[label]) == ["fast", "near", "slow"]
    assert heard == sampler.played


def test_effort_bounds_the_rounds_but_never_below_the_least() -> None:
    sampler, _, _ = play({"long": 10.0})
    assert Counter(sampler.played) == {"long": 3}
    sampler, _, _ = play({"medium": 0.1})
    assert Counter(sampler.played) == {"medium": 5}


def test_every_round_has_its_own_order_and_the_same_seed_the_same_orders() -> None:
    seconds = dict.fromkeys("abcdef", 0.01)
    orders = [play(seconds)[0].played for _ in range(2)]
    assert orders[0] == orders[1]
    rounds = [tuple(orders[0][i : i + 6]) for i in range(0, 72, 6)]
    assert all(sorted(r) == list("abcdef") for r in rounds) and len(set(rounds)) > 6
    assert play(seconds, replace(POLICY, seed=1))[0].played != orders[0]


def test_nobody_to_time() -> None:
    assert play({})[1] == {}


def test_percentiles() -> None:
    timing = summary([5.0, 1.0, 2.0, 3.0, 4.0, 100.0])
    assert (timing.low, timing.seconds, timing.high, timing.samples) == (2.0, 3.5, 5.0, 6)


def test_a_cpu_sample_is_a_mean_over_enough_calls() -> None:
    sampler = Sampler(torch.device("cpu"))
    assert 0.9e-3 < sampler.once(lambda: time.sleep(1e-3)) < 0.5
    calls: list[int] = []
    timings = in_turns(
        {"tiny": lambda: calls.append(1)}, {"tiny": 1e-5}, replace(POLICY, rounds=(2, 2)), sampler, lambda label: None
    )
    assert len(calls) == 2 * round(SHORTEST_CPU_SAMPLE / 1e-5)
    assert 0 < timings["tiny"].seconds < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_sample_is_device_time() -> None:
    sampler = Sampler(torch.device("cuda"))
    x = torch.randn(8192, 8192, device="cuda")
    run = lambda: torch.mul(x, 2.0)  # noqa: E731
    run()
    timings = in_turns({"copy": run}, {"copy": 1e-4}, replace(POLICY, rounds=(20, 20)), sampler, lambda label: None)
    moved = 2 * x.numel() * 4
    assert 1e10 < moved / timings["copy"].seconds < 2e13
