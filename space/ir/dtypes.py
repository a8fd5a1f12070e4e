"""The table of dtypes: what every layer knows of one, by the project's name for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Dtype:
    """name: ours, in plans, records and on the command line. kind: of a `Tensor`. bytes: of an element in memory.
    torch: PyTorch's and NumPy's name, which is Triton's too but for booleans. pointer: in a Triton signature.
    mantissa: bits, the leading one counted. exponent: numbers are below two to this; both 0 for what is no float."""

    name: str
    kind: Literal["float", "int", "bool"]
    bytes: int
    torch: str
    pointer: str
    mantissa: int = 0
    exponent: int = 0

    @property
    def triton(self) -> str:
        """As Triton's language calls it; a boolean is one bit there, in a register."""
        return "int1" if self.kind == "bool" else self.torch

    @property
    def roundoff(self) -> float:
        """Unit roundoff: half of the distance from 1 to the next number."""
        return 2.0**-self.mantissa


DTYPES = {
    d.name: d
    for d in (
        Dtype("fp64", "float", 8, "float64", "*fp64", 53, 1024),
        Dtype("fp32", "float", 4, "float32", "*fp32", 24, 128),
        Dtype("fp16", "float", 2, "float16", "*fp16", 11, 16),
        Dtype("bf16", "float", 2, "bfloat16", "*bf16", 8, 128),
        Dtype("int64", "int", 8, "int64", "*i64"),
        Dtype("int32", "int", 4, "int32", "*i32"),
        Dtype("int8", "int", 1, "int8", "*i8"),
        Dtype("bool", "bool", 1, "bool", "*i1"),
    )
}
"""IEEE 754-2019, table 3.5; bfloat16 has fp32's exponent and 8 bits."""

FLOATS = tuple(n for n, d in DTYPES.items() if d.kind == "float")
INTEGERS = tuple(n for n, d in DTYPES.items() if d.kind == "int")

SIXTEEN_BIT = tuple(n for n in FLOATS if DTYPES[n].bytes == 2)
"""What matrix units multiply at full speed; what is computed of them is rounded to them once, at the end."""
