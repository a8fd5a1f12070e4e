"""Sampling run times: in turns, so that clocks and temperature treat all candidates alike.

On a GPU a sample is one launch between two events, after a buffer larger than the second-level cache was
written (inputs come from memory, and the host runs ahead of the device). On a CPU it is the mean of as many
calls as fill a millisecond. A policy may have the device idle before each turn, or run the same kernel.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

import numpy as np
import torch

from .policy import Policy
from .tasks import Timing

SHORTEST_CPU_SAMPLE = 1e-3
"""Seconds; perf_counter's own noise is well below a percent of it."""

LONGEST_BURST = 0.03
"""Seconds of samples in one turn: a GPU's clock and temperature follow its load within tenths of a second."""

FLUSHED = 2**29
"""Bytes written before a GPU sample: over 100 us of writing, while the host queues the launch to be timed."""

Run = Callable[[], object]


class Sampler:
    """Takes samples on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flush: torch.Tensor | None = None
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            cache = getattr(properties, "L2_cache_size", 0)
            elements = min(max(4 * cache, FLUSHED), properties.total_memory // 8)
            self._flush = torch.empty(elements, dtype=torch.int8, device=device)

    def once(self, run: Run) -> float:
        """Seconds of one call, by itself."""
        return self.collect([self.sample(run, 1)])[0]

    def sample(self, run: Run, repeats: int) -> Callable[[], float]:
        """Queue one sample; the result is read after `collect` has synchronised."""
        if self._flush is None:
            started = time.perf_counter()
            for _ in range(repeats):
                run()
            seconds = (time.perf_counter() - started) / repeats
            return lambda: seconds
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        # Writing more than the second-level cache holds evicts the inputs; and it keeps the GPU busy while the host
        # queues the launch, so that the launch itself is not what is timed.
        self._flush.zero_()
        start.record()
        run()
        end.record()
        return lambda: float(start.elapsed_time(end)) * 1e-3

    def collect(self, queued: Sequence[Callable[[], float]]) -> list[float]:
        """Wait for the device and read the samples."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return [read() for read in queued]


def in_turns(
    runs: Mapping[str, Run],
    first: Mapping[str, float],
    policy: Policy,
    sampler: Sampler,
    at: Callable[[str], None],
) -> dict[str, Timing]:
    """Time all runs over rounds in a random order each; `first` are rough seconds, by label.

    Those within `policy.contender` times the fastest get the policy's rounds, until they have used
    `policy.effort` seconds; the others get `policy.minor_rounds`. A round is a turn of `policy.burst` samples.
    """
    fastest = min(first.values(), default=0.0)
    repeats = {label: _repeats(first[label], sampler.device) for label in runs}
    bursts = {label: _burst(first[label] * repeats[label], policy) for label in runs}
    rounds = {label: _rounds(first[label], fastest, policy, bursts[label]) for label in runs}
    order = random.Random(policy.seed)
    samples: dict[str, list[float]] = {label: [] for label in runs}
    if policy.warmup:
        for label, run in runs.items():
            at(label)
            _warm_up(run, first[label], policy, sampler)
    for turn in range(max(rounds.values(), default=0)):
        playing = [label for label in runs if turn < rounds[label]]
        # A fixed order would give each candidate the same predecessor, whose heat and cache it would inherit every
        # time.
        order.shuffle(playing)
        queued: list[Callable[[], float]] = []
        owners: list[str] = []
        for label in playing:
            at(label)
            _prepare(runs[label], first[label], policy, sampler)
            queued += [sampler.sample(runs[label], repeats[label]) for _ in range(bursts[label])]
            owners += [label] * bursts[label]
        # Synchronised once a round: waiting after each sample would let the clock fall in between.
        for label, seconds in zip(owners, sampler.collect(queued), strict=True):
            samples[label].append(seconds)
    return {label: summary(taken) for label, taken in samples.items()}


def _warm_up(run: Run, seconds: float, policy: Policy, sampler: Sampler) -> None:
    for _ in range(min(policy.warmup, int(policy.effort / max(seconds, 1e-9)))):
        run()
    sampler.collect([])


def _prepare(run: Run, seconds: float, policy: Policy, sampler: Sampler) -> None:
    """Bring the device into the state that the policy's samples start from."""
    match policy.before:
        case "others":
            return
        case "idle":
            sampler.collect([])
            time.sleep(policy.pause)
        case "itself":
            sampler.collect([])
            queue = max(1, int(LONGEST_BURST / max(seconds, 1e-6)))
            ends = time.perf_counter() + policy.pause
            while time.perf_counter() < ends:
                for _ in range(queue):
                    run()
                sampler.collect([])
        case other:
            assert_never(other)


def _burst(seconds: float, policy: Policy) -> int:
    """Samples of one turn, where one takes `seconds`."""
    return max(1, min(policy.burst, int(LONGEST_BURST / max(seconds, 1e-9))))


def _rounds(seconds: float, fastest: float, policy: Policy, burst: int = 1) -> int:
    low, high = policy.rounds
    if seconds > policy.contender * fastest:
        return policy.minor_rounds
    return min(high, max(low, int(policy.effort / max(seconds * burst, 1e-9))))


def _repeats(seconds: float, device: torch.device) -> int:
    return 1 if device.type == "cuda" else max(1, round(SHORTEST_CPU_SAMPLE / max(seconds, 1e-7)))


def summary(samples: Sequence[float]) -> Timing:
    """Median, 20th and 80th percentile."""
    # A median, as interruptions only ever make a sample longer; a minimum would reward the one lucky run.
    low, median, high = (float(x) for x in np.percentile(samples, (20, 50, 80)))
    return Timing(median, low, high, len(samples), "")
