"""What a candidate should cost: additive records whose fields say their unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Traffic:
    """Work of one kernel launch, all programs together. Bytes by level, operations by unit. Adds and scales."""

    hbm_bytes: float = 0.0
    l2_bytes: float = 0.0
    shared_bytes: float = 0.0
    register_bytes: float = 0.0
    tensor_flops: float = 0.0
    fma_flops: float = 0.0
    special_ops: float = 0.0
    """exp2, log2, tanh, division: operations of the special-function unit."""

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: float) -> Traffic:
        return Traffic(*(getattr(self, f.name) * times for f in fields(self)))


@dataclass(frozen=True)
class Resources:
    """What one program needs. `exact` says whether a compiler reported it or a formula predicted it."""

    shared_bytes: int
    registers_per_thread: int
    spill_bytes: int
    warps: int
    exact: bool = False


def most(needs: Sequence[Resources]) -> Resources:
    """Of each resource what the neediest of several kernels takes."""
    return Resources(
        max(n.shared_bytes for n in needs),
        max(n.registers_per_thread for n in needs),
        max(n.spill_bytes for n in needs),
        max(n.warps for n in needs),
        all(n.exact for n in needs),
    )


@dataclass(frozen=True)
class Estimate:
    """The model's answer for one candidate on one machine."""

    seconds: float
    traffic: Traffic
    resources: Resources
    programs: int
    programs_per_sm: int
    waves: float
    limiter: str
    """The unit that takes longest: "tensor", "fma", "special", "shared", "l2", "hbm" or "launch"."""
    unit_seconds: tuple[tuple[str, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        from dataclasses import asdict

        return asdict(self)
