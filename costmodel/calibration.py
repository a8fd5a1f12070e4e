"""The model's few free parameters, and their fit to measurements.

Each parameter has a physical meaning and bounds. A fit is a robust least squares on the logarithm of the time,
held near the starting values by a prior, so that a handful of samples moves only what they speak about. It sees
the samples that it is given and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np

from .machine import Machine
from .terms import Terms, terms
from .work import Work

Floats: TypeAlias = np.ndarray[Any, np.dtype[Any]]


NOISE = 0.03
"""Relative error of a measured time that a fit expects: what a sample weighs against the prior."""

OPERATOR_OVERHEADS = 6.0
"""A tile operator on a CPU (slicing, allocation, starting the threads) in overheads of a bare one; fitted."""


@dataclass(frozen=True)
class Parameter:
    """One free parameter: its bounds, and how far (standard deviation, in its own scale) a fit may well move it.

    scale: "log" for a positive quantity, "logit" for a share between 0 and 1.
    """

    name: str
    low: float
    high: float
    scale: str
    prior: float


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("tensor_efficiency", 0.1, 1.2, "log", 0.3),
    Parameter("fma_efficiency", 0.1, 1.5, "log", 0.4),
    Parameter("special_efficiency", 0.1, 1.2, "log", 0.4),
    Parameter("memory_efficiency", 0.1, 1.3, "log", 0.3),
    Parameter("overlap", 0.005, 0.98, "logit", 1.0),
    Parameter("step_seconds", 1e-9, 1e-4, "log", 1.0),
    Parameter("load_seconds", 1e-8, 1e-4, "log", 0.5),
    Parameter("launch_seconds", 1e-7, 1e-3, "log", 1.0),
)


@dataclass(frozen=True)
class Calibration:
    """How a real machine falls short of its rates.

    *_efficiency: achieved share of the unit's rate (matrix products; fp32 lanes; special functions; L2 and HBM).
    overlap: share of the other units' time that one group of four warps hides behind the busiest. step_seconds:
    latency of one dependent product or reduction (a CPU: of one operator). launch_seconds: of a kernel. error:
    standard deviation of log(predicted / measured) where it was fitted.
    """

    tensor_efficiency: float = 0.85
    fma_efficiency: float = 0.35
    special_efficiency: float = 0.9
    memory_efficiency: float = 0.85
    overlap: float = 0.5
    step_seconds: float = 4e-8
    load_seconds: float = 3.5e-7
    launch_seconds: float = 4e-6
    error: float = 0.2

    def __post_init__(self) -> None:
        for p in PARAMETERS:
            value = getattr(self, p.name)
            if not p.low <= value <= p.high:
                raise ValueError(f"calibration: {p.name} must be in [{p.low:g}, {p.high:g}], but got {value!r}")
        if not 0 <= self.error < math.inf:
            raise ValueError(f"calibration: error must be at least 0, but got {self.error!r}")

    @property
    def band(self) -> float:
        """The factor within which a prediction is to be trusted: two standard deviations of its error."""
        return math.exp(2 * self.error)

    @classmethod
    def of(cls, machine: Machine) -> Calibration:
        """The machine's starting values: its description's, else those of its kind."""
        kind = {
            "gpu": cls(launch_seconds=_within("launch_seconds", machine.launch_seconds)),
            "cpu": cls(
                tensor_efficiency=0.65,  # small batched products against one large one
                fma_efficiency=1.0,
                special_efficiency=0.9,
                memory_efficiency=0.55,  # strided slices
                overlap=0.005,  # operators run one after the other
                step_seconds=_within("step_seconds", OPERATOR_OVERHEADS * machine.operator_seconds),
                launch_seconds=_within("launch_seconds", machine.launch_seconds),
                error=0.2,
            ),
        }["cpu" if machine.kind == "cpu" else "gpu"]
        return replace(kind, **dict(machine.calibration))

    def to_json(self) -> dict[str, float]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """Raises ValueError for data that is not a calibration, naming the field."""
        known = {f.name for f in fields(cls)}
        for key, value in data.items():
            if key not in known or isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"calibration: fields are numbers named {sorted(known)}, but got {key}={value!r}")
        return cls(**{k: float(v) for k, v in data.items()})


def _within(name: str, value: float) -> float:
    p = next(p for p in PARAMETERS if p.name == name)
    return min(max(value, p.low), p.high)


# ---- the fit


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

    Method: Levenberg-Marquardt on log(predicted / measured) with Huber weights and a Gaussian prior on each
    parameter. Raises ValueError for times that are not positive.
    """
    measured = np.asarray(seconds, np.float64)
    if measured.shape != (rows.count,):
        raise ValueError(f"fit: one time for each of {rows.count} rows, but got {len(measured)}")
    if not (np.isfinite(measured) & (measured > 0)).all():
        raise ValueError(f"fit: times must be positive and finite, but got {measured.tolist()}")
    chosen = [p for p in PARAMETERS if free is None or p.name in free]
    centre = np.array([_forward(p, getattr(start, p.name)) for p in chosen])
    width = np.array([p.prior for p in chosen])

    def at(x: Floats) -> Calibration:
        return replace(start, **{p.name: _back(p, float(v)) for p, v in zip(chosen, x, strict=True)})

    def residuals(x: Floats) -> Floats:
        wrong: Floats = np.log(rows.seconds(at(x)) / measured)
        return wrong

    high = np.array([_forward(p, p.high) for p in chosen])
    best = at(_minimise(residuals, centre, width, high))
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
    return max(1.5 * 1.4826 * float(np.median(np.abs(r))), 0.03)


def _robust(r: Floats) -> Floats:
    """Residuals with outliers drawn in to the limit."""
    return np.clip(r, -_limit(r), _limit(r))


def _minimise(residuals: Callable[[Floats], Floats], centre: Floats, width: Floats, high: Floats) -> Floats:
    """Levenberg-Marquardt with a numerical Jacobian on Huber-weighted residuals and the prior's.

    high: beyond these nothing changes any more, so that slopes there are taken downwards.
    """
    x, damping = centre.copy(), 1e-2
    for _ in range(60):
        x = np.minimum(x, high)
        r = residuals(x)
        weight = np.sqrt(np.minimum(1.0, _limit(r) / np.maximum(np.abs(r), 1e-12))) / NOISE

        def stacked(at: Floats, weight: Floats = weight) -> Floats:
            return np.concatenate([weight * residuals(at), (at - centre) / width])

        value = stacked(x)
        by = np.where(x + 1e-4 > high, -1e-4, 1e-4)
        jacobian = np.stack([(stacked(x + h * e) - value) / h for h, e in zip(by, np.eye(len(x)), strict=True)], axis=1)
        step, damping = _step(stacked, x, value, jacobian, damping)
        x = x + step
        if float(np.abs(step).max()) < 1e-6:
            break
    return x


def _step(
    stacked: Callable[[Floats], Floats], x: Floats, value: Floats, jacobian: Floats, damping: float
) -> tuple[Floats, float]:
    """The first damped Gauss-Newton step that lowers the sum of squares, and the next damping; zero if none does."""
    normal, gradient = jacobian.T @ jacobian, jacobian.T @ value
    while damping < 1e8:
        step: Floats = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient)
        if float((stacked(x + step) ** 2).sum()) < float((value**2).sum()):
            return step, max(damping / 4, 1e-9)
        damping *= 4
    return np.zeros_like(x), damping
