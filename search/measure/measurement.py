"""One measured candidate, as a record. A failure is a result too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from eintune.host.data import BadData, Count, Message, Name, NotNegative, Seconds, Strict, converted, from_json
from eintune.host.printable import printable

STATUSES = ("ok", "wrong", "compile-error", "run-error", "timeout", "crashed", "out-of-resources")


@dataclass(frozen=True)
class Measurement:
    """What came of one kernel on one device.

    digest: the kernel's. status: one of STATUSES. seconds: median of the interleaved timings (NaN unless ok);
    low, high: 20th and 80th percentile of so many `samples`. rms_error, max_error: against float64; budget: the rms
    error allowed. short_of: why a peer's results are not what a kernel's have to be, or "".
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
    short_of: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"`status` must be one of {STATUSES}, but got {self.status!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; what is no finite number becomes None."""
        return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: object) -> Measurement:
        """Raises BadData for data that is not a measurement."""
        return measurement(converted(data, MeasurementFile))

    @classmethod
    def parse(cls, text: str) -> Measurement:
        """The same from JSON text."""
        return measurement(from_json(text, MeasurementFile))


class MeasurementFile(Strict):
    """A measurement as files hold it."""

    digest: Name
    status: Literal["ok", "wrong", "compile-error", "run-error", "timeout", "crashed", "out-of-resources"]
    seconds: Seconds | None = None
    low: Seconds | None = None
    high: Seconds | None = None
    rms_error: NotNegative | None = None
    max_error: NotNegative | None = None
    budget: NotNegative | None = None
    compile_seconds: NotNegative | None = None
    registers: Count | None = None
    spills: Count | None = None
    shared_bytes: Count | None = None
    message: Message = ""
    samples: Count | None = None
    short_of: Message = ""


def measurement(file: MeasurementFile) -> Measurement:
    """Raises BadData for one that is right and took no time."""
    if file.status == "ok" and file.seconds is None:
        raise BadData("`seconds`: a measurement that is ok has a time")
    values: dict[str, Any] = {name: getattr(file, name) for name in file.__struct_fields__}
    nan = {name: float("nan") for name in _NAN if values[name] is None}
    texts = {"message": printable(file.message, keep="\n\t"), "short_of": printable(file.short_of)}
    return Measurement(**{**values, **nan, **texts})


_NAN = ("seconds", "low", "high", "rms_error", "max_error", "budget", "compile_seconds")
