"""Which candidates are worth measuring, and why the others are not: each reason is kept and counted.

A candidate is out if the machine cannot run it, if another needs no more of anything and is predicted to be
faster, or if it is predicted to be slower than the best by more than the model's own error can explain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eintune.costmodel.counts.estimate import Estimate
from eintune.costmodel.counts.resources import illegal
from eintune.costmodel.machines.machine import Machine
from eintune.space.plan.refusals import Refusal

from .calibration import Calibration


@dataclass(frozen=True)
class Pruned:
    """kept: positions of the candidates to measure, best predicted first. reasons: position -> why it is out.

    counts: how many are out, by kind of reason.
    """

    kept: tuple[int, ...]
    reasons: Mapping[int, Refusal]
    counts: Mapping[str, int] = field(default_factory=dict)


def prune(
    estimates: Sequence[Estimate],
    machine: Machine,
    calibration: Calibration | None = None,
    *,
    groups: Sequence[str] | None = None,
    at_least: int = 8,
) -> Pruned:
    """Sort candidates into those to measure and those that are out.

    groups: candidates of one group (one derived cascade) are compared for dominance; default: all in one.
    at_least: this many of the best legal ones are kept however slow they look beside the best.
    """
    band = (calibration or Calibration.of(machine)).band
    reasons: dict[int, Refusal] = {i: why for i, e in enumerate(estimates) if (why := illegal(e.resources, machine))}
    legal = sorted((i for i in range(len(estimates)) if i not in reasons), key=lambda i: estimates[i].seconds)
    by_group = _by_group(legal, groups)
    for members in by_group.values():
        for i, other in _dominated(members, estimates, band):
            message = f"candidate {other} moves and computes no more and is predicted faster"
            reasons[i] = Refusal("dominated", message)
    left = [i for i in legal if i not in reasons]
    # Beyond two standard deviations of the model's error a slower candidate is slower; within them only measuring can
    # tell.
    limit = estimates[left[0]].seconds * band if left else 0.0
    for i in left[at_least:]:
        if estimates[i].seconds > limit:
            times = estimates[i].seconds / estimates[left[0]].seconds
            message = f"predicted {times:.2f} times the best, the model is sure beyond {band:.2f}"
            reasons[i] = Refusal("slower", message)
    kept = tuple(i for i in left if i not in reasons)
    return Pruned(kept, reasons, dict(Counter(why.kind for why in reasons.values()).most_common()))


def _by_group(legal: Sequence[int], groups: Sequence[str] | None) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i in legal:
        found.setdefault(groups[i] if groups else "", []).append(i)
    return found


def _dominated(members: Sequence[int], estimates: Sequence[Estimate], band: float) -> list[tuple[int, int]]:
    """(candidate, one that dominates it); `members` best predicted first.

    The time must differ by half the error band as well (in logarithm), so that the model's error alone does not decide.
    """
    # A Pareto front by one sweep: members come in order of time, so what dominates one comes before it. That every
    # unit and resource must be no worse, and not time alone, makes the answer hold for other calibrations too.
    needs = np.array([_needs(estimates[i]) for i in members])
    fronts = np.empty_like(needs)
    front: list[int] = []
    found: list[tuple[int, int]] = []
    for i, need in zip(members, needs, strict=True):
        better = np.flatnonzero((fronts[: len(front)] <= need).all(axis=1))
        if len(better):
            found.append((i, front[better[0]]))
            continue
        fronts[len(front)] = need
        fronts[len(front), 0] *= band**0.5
        front.append(i)
    return found


def _needs(e: Estimate) -> list[float]:
    """One candidate's quantities of which less is better: seconds first, then each unit's seconds, spills, and programs
    on an SM (negative)."""
    return [e.seconds, *(seconds for _, seconds in e.unit_seconds), e.resources.spill_bytes, -e.programs_per_sm]
