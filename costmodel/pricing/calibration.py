"""The model's few free parameters: each has a physical meaning and bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from eintune.costmodel.machines.machine import Machine

Floats: TypeAlias = np.ndarray[Any, np.dtype[Any]]

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

    @cached_property
    def efficiencies(self) -> Floats:
        """Of each of `placed_kernel.UNITS`."""
        memory = self.memory_efficiency
        return np.array([self.tensor_efficiency, self.fma_efficiency, self.special_efficiency, 1.0, memory])

    @classmethod
    def of(cls, machine: Machine) -> Calibration:
        """The machine's starting values: its description's, else those of its kind."""
        kind = {
            # A launch is measured once a machine and put in; the efficiencies are those of kernels in general, fitted
            # where many were measured.
            "gpu": cls(launch_seconds=_within("launch_seconds", machine.launch_seconds)),
            "cpu": cls(
                # On a CPU a plan runs operator by operator, so there is nothing to overlap, and a step is what one
                # operator costs besides its work.
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
