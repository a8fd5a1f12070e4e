"""Corrections to Triton's interpreter (as of 3.6 to 3.9), put in before the first interpreted launch.

It keeps bf16 numbers as bare 16-bit patterns: a product of bf16 tiles multiplies the patterns as integers, and a
conversion from fp32 to bf16 drops bits where the hardware rounds to the nearest. And a comparison of scalars that
is broadcast to a tile becomes floating point. Interpreted kernels would fail or be wrong where compiled ones are
right. It also runs no instructions of the hardware's own: those that kernels use are told here. With NumPy 2.4,
that of 3.6 takes no tile of one element as a loop's bound.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

INSTRUCTIONS = {"tanh.approx.f32 $0, $1;": np.tanh}
"""What an instruction in a kernel computes; the interpreter's is exact."""

Bits = np.ndarray[Any, np.dtype[Any]]


def widened(bits: Bits) -> Bits:
    """bf16 patterns (uint16) as float32 numbers: exact."""
    # bf16 is the upper half of an fp32 number.
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(x: Bits) -> Bits:
    """float32 numbers to bf16 patterns (uint16), to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    # Adding just below half a unit, and one more where the result would be odd: a carry then rounds up, ties to even.
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # The addition could carry a NaN's mantissa into its exponent and out of it.
    return np.where(np.isnan(x), 0x7FC0, nearest).astype(np.uint16)


@functools.cache
def mend() -> None:
    """Put the corrections in, once a process. Does nothing where Triton is not interpreting."""
    import triton.language as tl
    from triton import knobs

    if not knobs.runtime.interpret:
        return
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    convert, multiply = builder.cast_impl, builder.create_dot

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            return interpreter.TensorHandle(rounded(src.data).reshape(src.data.shape), tl.bfloat16)
        return convert(self, src, dst_type)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        a, b = (
            interpreter.TensorHandle(widened(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x
            for x in (a, b)
        )
        return multiply(self, a, b, d, *options)

    def create_splat(self: Any, ret_ty: Any, arg: Any) -> Any:
        scalar = np.asarray(arg.data)
        return interpreter.TensorHandle(np.full(ret_ty.shape, scalar.flat[0], dtype=scalar.dtype), arg.dtype.scalar)

    class Result:
        """What an instruction gives: one tile."""

        def __init__(self, tile: Any) -> None:
            self._tile = tile

        def get_result(self, position: int) -> Any:
            return self._tile

    def create_inline_asm(self: Any, text: str, constraints: str, args: Any, types: Any, *rest: Any) -> Result:
        (arg,) = args
        return Result(interpreter.TensorHandle(INSTRUCTIONS[text](arg.data), arg.dtype))

    _mend_bounds(interpreter)
    builder.create_inline_asm = create_inline_asm
    builder.cast_impl, builder.create_dot, builder.create_splat = cast_impl, create_dot, create_splat


def _mend_bounds(interpreter: Any) -> None:
    """A tile of one element is a whole number whatever its rank, as from Triton 3.7 on."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
