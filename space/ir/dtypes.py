"""Kinds of dtypes, by name."""

from __future__ import annotations

INTEGERS = ("int32", "int64", "int8")

NARROW = ("fp16", "bf16")
FLOATS = (*NARROW, "fp32", "fp64")
