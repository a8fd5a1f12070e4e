"""What a candidate should cost: additive records whose fields say their unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
        return Traffic.total([(self, 1.0), (other, 1.0)])

    def __mul__(self, times: float) -> Traffic:
        return Traffic.total([(self, times)])

    def with_hbm(self, nbytes: float) -> Traffic:
        """The same with so many bytes of HBM."""
        return Traffic(
            nbytes,
            self.l2_bytes,
            self.shared_bytes,
            self.register_bytes,
            self.tensor_flops,
            self.fma_flops,
            self.special_ops,
        )

    @classmethod
    def total(cls, parts: Iterable[tuple[Traffic, float]]) -> Traffic:
        """The sum of several, each so many times."""
        hbm = l2 = shared = register = tensor = fma = special = 0.0
        for t, times in parts:
            hbm += t.hbm_bytes * times
            l2 += t.l2_bytes * times
            shared += t.shared_bytes * times
            register += t.register_bytes * times
            tensor += t.tensor_flops * times
            fma += t.fma_flops * times
            special += t.special_ops * times
        return cls(hbm, l2, shared, register, tensor, fma, special)

    @property
    def effort(self) -> float:
        """One number for how long work takes, near enough to compare programs of one kernel with each other."""
        # Rates beside each other on a typical GPU: a matrix unit is 16 times the fp32 lanes, those 16 times special
        # functions.
        return self.tensor_flops / 16 + self.fma_flops + 16 * self.special_ops + self.l2_bytes


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
