"""Kinds of dtypes, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


INTEGERS = ("int32", "int64", "int8")

NARROW = ("fp16", "bf16")
FLOATS = (*NARROW, "fp32", "fp64")
