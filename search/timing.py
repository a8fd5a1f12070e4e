"""Sampling run times: in turns, so that clocks and temperature treat all candidates alike.

On a GPU a sample is one launch between two events, after a buffer larger than the second-level cache was
written (inputs come from memory, and the host runs ahead of the device). On a CPU it is the mean of as many
calls as fill a millisecond.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from .policy import Policy
from .tasks import Timing

SHORTEST_CPU_SAMPLE = 1e-3
"""Seconds; perf_counter's own noise is well below a percent of it."""

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
    `policy.effort` seconds; the others get `policy.minor_rounds`.
    """
    fastest = min(first.values(), default=0.0)
    rounds = {label: _rounds(first[label], fastest, policy) for label in runs}
    repeats = {label: _repeats(first[label], sampler.device) for label in runs}
    order = random.Random(policy.seed)
    samples: dict[str, list[float]] = {label: [] for label in runs}
    for turn in range(max(rounds.values(), default=0)):
        playing = [label for label in runs if turn < rounds[label]]
        order.shuffle(playing)
        queued = []
        for label in playing:
            at(label)
            queued.append(sampler.sample(runs[label], repeats[label]))
        for label, seconds in zip(playing, sampler.collect(queued), strict=True):
            samples[label].append(seconds)
    return {label: summary(taken) for label, taken in samples.items()}


def _rounds(seconds: float, fastest: float, policy: Policy) -> int:
    low, high = policy.rounds
    if seconds > policy.contender * fastest:
        return policy.minor_rounds
    return min(high, max(low, int(policy.effort / max(seconds, 1e-9))))


def _repeats(seconds: float, device: torch.device) -> int:
    return 1 if device.type == "cuda" else max(1, round(SHORTEST_CPU_SAMPLE / max(seconds, 1e-7)))


def summary(samples: Sequence[float]) -> Timing:
    """Median, 20th and 80th percentile."""
    low, median, high = (float(x) for x in np.percentile(samples, (20, 50, 80)))
    return Timing(median, low, high, len(samples), "")
