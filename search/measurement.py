"""One measured candidate, as a record. A failure is a result too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STATUSES = ("ok", "wrong", "compile-error", "run-error", "timeout", "crashed", "out-of-resources")


@dataclass(frozen=True)
class Measurement:
    """What came of one kernel on one device.

    digest: the kernel's. status: one of STATUSES. seconds: median of the interleaved timings (NaN unless ok);
    low, high: 20th and 80th percentile of so many `samples`. rms_error, max_error: against float64; budget: the rms
    error allowed.
    """

    digest: str
    status: str
    seconds: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    rms_error: float = float("nan")
    max_error: float = float("nan")
    budget: float = float("nan")
    compile_seconds: float = float("nan")
    registers: int | None = None
    spills: int | None = None
    shared_bytes: int | None = None
    message: str = ""
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"`status` must be one of {STATUSES}, but got {self.status!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; NaN becomes None."""
        return {k: None if isinstance(v, float) and v != v else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        """Raises TypeError or ValueError for data that is not a measurement."""
        nan = {"seconds", "low", "high", "rms_error", "max_error", "budget", "compile_seconds"}
        values: dict[str, Any] = {k: float("nan") if v is None and k in nan else v for k, v in data.items()}
        return cls(**values)
