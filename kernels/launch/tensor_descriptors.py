"""The tensor descriptors of a launch: whether tensors may have them, and making them cheaply.

What depends on a tensor's shape and dtype was settled when the kernel was printed (`space.plan.descriptor_blocks`);
what depends on where it lies in memory is settled here, at the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eintune.kernels.emit.kernel import Kernel
from eintune.space.plan.descriptor_blocks import UNIT

if TYPE_CHECKING:
    import torch


FARTHEST = 2**40
"""Bytes: what strides are less than (CUDA driver API, cuTensorMapEncodeTiled)."""


def fault(kernel: Kernel, tensors: Sequence[torch.Tensor]) -> str | None:
    """Why one of the tensors cannot be loaded by descriptor, as one line; None where all can."""
    for d in kernel.descriptors:
        name, t = kernel.arguments[d.argument].name, tensors[d.argument]
        # An axis of one element is never stepped along, so its stride may be anything.
        outer = [s * t.element_size() for s, n in zip(t.stride()[:-1], t.shape[:-1], strict=True) if n > 1]
        start = f"{name}: to be loaded by tensor descriptor it must have"
        if t.stride(-1) != 1:
            # A tensor map has no innermost stride: elements of a row lie side by side, and what else TMA takes are
            # multiples of 16 bytes.
            return f"{start} a last stride of 1, but its strides are {list(t.stride())}"
        if any(s == 0 or s % UNIT for s in outer):
            return f"{start} its other strides in whole units of {UNIT} bytes, but they are {outer} bytes"
        if t.data_ptr() % UNIT:
            return f"{start} an address in whole units of {UNIT} bytes, but it is {t.data_ptr() % UNIT} bytes off"
    return None


def descriptors(kernel: Kernel, tensors: Sequence[torch.Tensor]) -> list[Any]:
    """Triton's descriptor objects, one for each of `kernel.descriptors`, of tensors that have no `fault`."""
    if not kernel.descriptors:
        return []
    given = [(tensors[d.argument], d) for d in kernel.descriptors]
    if kernel.emitter == "gluon":
        from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as WithLayout

        dtypes = [kernel.arguments[d.argument].dtype for d in kernel.descriptors]
        # In Gluon layouts are explicit: the swizzle that the descriptor writes must be the one that the kernel's
        # buffers are declared with.
        layouts = [layout_of_block(d.block, dtype) for d, dtype in zip(kernel.descriptors, dtypes, strict=True)]
        return [
            WithLayout(t, list(t.shape), strides(t), list(d.block), layout)
            for (t, d), layout in zip(given, layouts, strict=True)
        ]
    from triton.tools.tensor_descriptor import TensorDescriptor

    return [TensorDescriptor(t, list(t.shape), strides(t), list(d.block)) for t, d in given]


def layout_of_block(block: Sequence[int], dtype: str) -> Any:
    """How a block of 16-bit elements lies in shared memory, as matrix units read it."""
    from triton.experimental.gluon import language as gl

    # Rows are swizzled (16-byte pieces exchanged by an XOR with the row number) so that the matrix unit, which reads
    # columns of pieces, meets no bank twice.
    return gl.NVMMASharedLayout.get_default_for(list(block), gl.bfloat16 if dtype == "bf16" else gl.float16)


def strides(t: torch.Tensor) -> list[int]:
    """A tensor's strides in elements, as a descriptor takes them: where an axis of one element has a stride that it
    does not take, UNIT stands for it, since no access depends on it."""
    *outer, last = t.stride()
    given = [(s, s * t.element_size()) for s in outer]
    # The driver refuses a stride of 0, one that is not in whole units, and one that is too large, even for an axis
    # that has one element.
    return [s if s and nbytes % UNIT == 0 and nbytes < FARTHEST else UNIT for s, nbytes in given] + [last]


class Address:
    """Stands for a tensor where only its address is asked for, and keeps no memory alive."""

    __slots__ = ("pointer",)

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def data_ptr(self) -> int:
        """The address, as a tensor gives it."""
        return self.pointer


class LaunchDescriptor:
    """What the launcher of a compiled kernel reads of a `TensorDescriptor`."""

    __slots__ = ("base", "block_shape", "padding", "shape", "strides")

    round_f32_to_tf32 = False  # as of 3.7, which reads it at each launch

    def __init__(self, pointer: int, shape: list[int], strides: list[int], block: list[int]) -> None:
        self.base = Address(pointer)
        self.shape = shape
        self.strides = strides
        self.block_shape = block
        self.padding = "zero"


class LaunchDescriptors:
    """The descriptors of tensors of one layout, by their addresses; those of the latest addresses are kept.

    arguments: which of the kernel's tensors have one. axes: how many axes each has.
    """

    MOST = 64

    def __init__(self, kernel: Kernel, tensors: Sequence[torch.Tensor]) -> None:
        given = [(d, tensors[d.argument]) for d in kernel.descriptors]
        self._forms = [(d.argument, list(t.shape), strides(t), list(d.block)) for d, t in given]
        self.arguments = [d.argument for d in kernel.descriptors]
        self.axes = [len(d.block) for d in kernel.descriptors]
        self._made: dict[tuple[int, ...], list[LaunchDescriptor]] = {}

    def __call__(self, pointers: Sequence[int]) -> list[LaunchDescriptor]:
        """The descriptors, given the addresses of all of the kernel's tensors in order."""
        # Shape and strides are those of the layout, so addresses alone tell descriptors apart; a program's tensors
        # often come back to the same ones.
        key = tuple([pointers[i] for i in self.arguments])
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= self.MOST:
                self._made.clear()
            made = self._made[key] = [LaunchDescriptor(pointers[i], *form) for i, *form in self._forms]
        return made
