"""The fit of a calibration to measured times.

A robust least squares on the logarithm of the time, held near the starting values by a prior, so that a handful of
samples moves only what they speak about. It sees the samples that it is given and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from eintune.costmodel.counts.work import Work
from eintune.costmodel.machines.machine import Machine

from .calibration import PARAMETERS, Calibration, Parameter
from .terms import Terms, terms

Floats: TypeAlias = np.ndarray[Any, np.dtype[Any]]

NOISE = 0.03
"""Relative error of a measured time that a fit expects: what a sample weighs against the prior."""

ROUNDS = 20
"""Fits to one scale of the outliers after another; two or three, as a rule."""


def fit(
    samples: Sequence[tuple[Work, float]],
    machine: Machine,
    start: Calibration | None = None,
    *,
    free: Sequence[str] | None = None,
) -> Calibration:
    """The calibration that explains measured times (seconds) best; with no sample, `start` comes back.

    start: the prior's centre (default: the machine's). free: names of the parameters to move (default: all).
    """
    begin = start or Calibration.of(machine)
    if not samples:
        return begin
    return fit_terms(terms([w for w, _ in samples], machine), [t for _, t in samples], begin, free=free)


def fit_terms(
    rows: Terms, seconds: Sequence[float], start: Calibration, *, free: Sequence[str] | None = None
) -> Calibration:
    """`fit` for work that is already placed on its machine: one time for each row.

    Method: least squares on log(predicted / measured) with Huber's loss, whose scale is 1.5 robust deviations (Huber,
    Robust Statistics, 1981), and a Gaussian prior on each parameter. Raises ValueError for times that are not positive.
    """
    measured = np.asarray(seconds, np.float64)
    if measured.shape != (rows.count,):
        raise ValueError(f"fit: one time for each of {rows.count} rows, but got {len(measured)}")
    if not (np.isfinite(measured) & (measured > 0)).all():
        raise ValueError(f"fit: times must be positive and finite, but got {measured.tolist()}")
    # In logarithms or logits: parameters are then free of bounds below, steps are relative, and a prior's width means
    # the same for 1e-9 as for 0.5.
    chosen = [p for p in PARAMETERS if free is None or p.name in free]
    centre = np.array([_forward(p, getattr(start, p.name)) for p in chosen])
    width = np.array([p.prior for p in chosen])

    def at(x: Floats) -> Calibration:
        return replace(start, **{p.name: _back(p, float(v)) for p, v in zip(chosen, x, strict=True)})

    def residuals(x: Floats) -> Floats:
        # Errors of a model are factors: twice too slow must weigh as much as twice too fast, and a kernel of 10 us as
        # much as one of 10 ms.
        wrong: Floats = np.log(rows.seconds(at(x)) / measured)
        return wrong

    # `_back` clamps to the bounds. Beyond the upper one nothing changes, so that a solver would see no slope to come
    # back by.
    high = np.array([_forward(p, p.high) for p in chosen])
    best = at(least(residuals, centre, width, high))
    # Outliers are drawn in here as well, or one kernel that hit a pathology would widen the band that candidates are
    # kept in.
    wrong = _robust(np.log(rows.seconds(best) / measured))
    # few samples say little about the error: the start's counts as four more
    spread = math.sqrt((float((wrong**2).sum()) + 4 * start.error**2) / (rows.count + 4))
    return replace(best, error=spread)


def _forward(p: Parameter, value: float) -> float:
    value = min(max(value, p.low), p.high)
    return math.log(value / (1 - value)) if p.scale == "logit" else math.log(value)


def _back(p: Parameter, x: float) -> float:
    value = 1 / (1 + math.exp(-x)) if p.scale == "logit" else math.exp(min(x, 50.0))
    return min(max(value, p.low), p.high)


def _limit(r: Floats) -> float:
    """Beyond this a residual is an outlier: 1.5 robust deviations, but never below 3 %."""
    # 1.4826 times the median of absolute deviations is the standard deviation of a normal distribution, and is not
    # moved by outliers, unlike the standard deviation itself. The floor keeps an all but perfect fit from calling
    # noise an outlier.
    return max(1.5 * 1.4826 * float(np.median(np.abs(r))), 0.03)


def _robust(r: Floats) -> Floats:
    """Residuals with outliers drawn in to the limit."""
    return np.clip(r, -_limit(r), _limit(r))


def least(residuals: Callable[[Floats], Floats], centre: Floats, width: Floats, high: Floats) -> Floats:
    """The parameters at which the samples' residuals, under Huber's loss, and the prior's squares have the least sum.

    residuals: log(predicted / measured) of each sample, by parameters (in logarithms or logits). centre, width: the
    prior's mean and standard deviation. high: upper bounds. Which residuals are outliers depends on the scale of all,
    so the fit is repeated with the scale that it left until nothing moves (iterated scale: Huber, Robust Statistics,
    1981, chapter 7).
    """
    from scipy.optimize import least_squares

    def stacked(x: Floats) -> Floats:
        # The negative log-posterior, but for constants: each sample in units of its noise, each parameter in units of
        # its prior. With few samples the prior decides, with many it hardly counts; a parameter that no sample
        # depends on stays.
        return np.concatenate([residuals(x) / NOISE, (x - centre) / width])

    # Below the bound: the method asks for a start inside.
    x = np.minimum(centre, high - 1e-9)
    for _ in range(ROUNDS):
        r = residuals(x)
        # Fixed during one minimisation, as a scale that changed with x would make the loss no function of x; found
        # anew after it.
        limit = _limit(r) / NOISE

        def loss(z: Floats, count: int = len(r), square: float = limit**2) -> Floats:
            """rho(z) and its derivatives: z up to the limit's square, then its root; the prior's are squares."""
            # The prior's residuals stand behind the samples' and stay squares: a prior with linear tails would let a
            # parameter run away at a constant price.
            far = (np.arange(len(z)) < count) & (z > square)
            root = np.sqrt(np.where(far, z, square))
            value = np.where(far, 2 * math.sqrt(square) * root - square, z)
            slope = np.where(far, math.sqrt(square) / root, 1.0)
            return np.stack([value, slope, np.where(far, -slope / (2 * root**2), 0.0)])

        found = least_squares(stacked, x, bounds=(-np.inf, high), loss=loss, xtol=1e-6, ftol=1e-9)
        # Between the two there is no guarantee of convergence, hence the end after so many rounds.
        step, x = float(np.abs(found.x - x).max()), found.x
        if step < 1e-5:
            break
    return x
