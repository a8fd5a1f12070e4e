"""Recorded spaces made without a device: drawn for real, timed by a stated rule."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

from eintune.costmodel.machines.machine import load_machine
from eintune.costmodel.pricing.calibration import Calibration
from eintune.costmodel.pricing.time import estimate_works
from eintune.search.evaluation.recorded_space import RecordedSpace, draw, entries_of
from eintune.search.measure.measurement import Measurement
from eintune.search.tune.candidates import Candidate
from eintune.search.tune.derivations import derivations
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.builtin import attention_problem

MACHINE = load_machine("h200")
TRUTH = Calibration(0.8, 0.4, 0.8, 0.7, 0.4, 5e-8, 2e-7, 8e-6, 0.1)
Rule = Callable[[Candidate], float]
"""Seconds of a candidate; NaN for one that fails."""


def small(seq: int = 512, causal: bool = False) -> Problem:
    rule = "top_left" if causal else None
    return attention_problem(batch=1, heads=2, kv_heads=2, seq=seq, kv_seq=seq, head_dim=64, dtype="bf16", causal=rule)


def by_the_model(noise: float = 0.0, seed: int = 0) -> Rule:
    """A machine that is as the model says, with other parameters and some noise."""
    rng = random.Random(seed)

    def seconds(c: Candidate) -> float:
        return estimate_works([c.work], MACHINE, TRUTH)[0].seconds * math.exp(rng.gauss(0, noise))

    return seconds


def at_random(seed: int = 0) -> Rule:
    rng = random.Random(seed)
    return lambda c: 1e-4 * math.exp(rng.gauss(0, 1))


def drawn(problem: Problem, count: int, seed: int = 0) -> tuple[list[Candidate], int]:
    variants = derivations(problem.definition, Path("/nonexistent")).variants[:3]
    return draw(variants, problem, MACHINE, "triton", count, seed)


def space(problem: Problem, rule: Rule, count: int = 16) -> RecordedSpace:
    chosen, legal = drawn(problem, count)

    def measured(c: Candidate) -> Measurement:
        t = rule(c)
        if math.isnan(t):
            return Measurement(c.key, "timeout", message="no answer within 20 s")
        return Measurement(c.key, "ok", t, t * 0.99, t * 1.01, registers=128, spills=0, shared_bytes=1024)

    cascades, entries = entries_of(chosen, lambda asked: [measured(c) for c in asked], 5)
    return RecordedSpace(
        problem=problem,
        machine=MACHINE.name,
        seed=0,
        drawn_from=legal,
        cascades=cascades,
        entries=entries,
        versions={"triton": "0"},
        command="by hand",
        started="2026-01-01T00:00",
        clocks=(1980,),
        peers={"sdpa": 1e-4},
    )
