"""What a loaded kernel is, and what tensors it takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.emit.spans import too_wide
from eintune.space.ir.dtypes import DTYPES

from .tensor_descriptors import fault

if TYPE_CHECKING:
    import torch


Call: TypeAlias = "Callable[[Sequence[torch.Tensor]], None]"
ByAddress: TypeAlias = Callable[[Sequence[int]], None]
"""Launches a kernel on tensors of one layout, given their addresses."""


class Launch(Protocol):
    """A loaded kernel: a function of its tensors, in the order of `kernel.arguments`, that fills the outputs."""

    def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
        """Check the tensors and run; returns once the work is queued."""

    def ready(self, layout: Hashable) -> ByAddress | None:
        """What runs tensors of a layout (`layout_of`) that was seen before; None where only a call finds that out."""

    def bound(
        self, tensors: Sequence[torch.Tensor], order: Sequence[int] | None = None, general: Call | None = None
    ) -> Call:
        """A function for tensors of exactly these shapes, strides, dtypes and device, which it does not check, after a
        call with such. Runs nothing by itself.

        order: the kernel's arguments among the tensors. general: what a call does that is no launch by addresses alone
        (default: the launch itself).
        """


class LaunchError(RuntimeError):
    """Tensors that a kernel cannot run on, or a machine that cannot run it; the message names which."""


class TileTooWide(LaunchError):
    """Strides so large that offsets inside a tile need more than 32 bits; a wide kernel can run on them (`spans`)."""


def check(kernel: Kernel, tensors: Sequence[torch.Tensor]) -> None:
    """Raise LaunchError where the tensors are not what the kernel was printed for."""
    if len(tensors) != len(kernel.arguments):
        names = [a.name for a in kernel.arguments]
        raise LaunchError(f"the kernel takes {len(names)} tensors {names}, but got {len(tensors)}")
    for a, t in zip(kernel.arguments, tensors, strict=True):
        if tuple(t.shape) != a.shape:
            raise LaunchError(f"{a.name}: the shape must be {list(a.shape)}, but got {list(t.shape)}")
        if dtypes()[a.dtype] != t.dtype:
            raise LaunchError(f"{a.name}: the dtype must be {a.dtype}, but got {t.dtype}")
        if t.device != tensors[0].device:
            raise LaunchError(
                f"all tensors must be on one device, but {a.name} is on {t.device}, not {tensors[0].device}"
            )


def refuse(kernel: Kernel, tensors: Sequence[torch.Tensor]) -> None:
    """Raise LaunchError where tensors lie in memory as the kernel does not allow: before anything is launched."""
    if why := too_wide(kernel, tensors):
        raise TileTooWide(why)
    if why := fault(kernel, tensors):
        raise LaunchError(why)


@functools.cache
def dtypes() -> dict[str, Any]:
    """PyTorch's dtypes by name."""
    import torch

    return {name: getattr(torch, d.torch) for name, d in DTYPES.items()}


# ---- Triton

ALIGNMENT = 16
"""Bytes. Triton compiles one kernel for pointers that are multiples of this and another for those that are not."""
MOST_LAYOUTS = 64
"""Layouts of tensors for which a kernel keeps a launcher ready."""


class BoundLaunch:
    """`Launch.bound` of kernels that are launched by addresses: it reads those and launches, and checks nothing else.

    order: the kernel's arguments among the tensors. general: is called where an address is not aligned as compiled
    kernels rely on, and while the kernel is not ready.
    """

    __slots__ = ("_direct", "_general", "_launch", "_layout", "_order")

    def __init__(
        self, launch: Launch, tensors: Sequence[torch.Tensor], order: Sequence[int] | None, general: Call
    ) -> None:
        chosen = order if order is not None and list(order) != list(range(len(tensors))) else None
        given = tensors if chosen is None else [tensors[i] for i in chosen]
        self._launch, self._order, self._general = launch, chosen, general
        self._layout = layout_of(given, [0] * len(given))
        self._direct = launch.ready(self._layout)

    def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
        pointers = [t.data_ptr() for t in tensors]
        # One test for all pointers: the union of their low bits is 0 only if all are aligned. The compiled kernel loads
        # 16 bytes at a time and would fault on another address.
        low_bits = 0
        for p in pointers:
            low_bits |= p
        if low_bits % ALIGNMENT:
            self._general(tensors)
        elif self._direct is not None:
            self._direct(pointers if self._order is None else [pointers[i] for i in self._order])
        else:
            self._general(tensors)
            self._direct = self._launch.ready(self._layout)


def layout_of(tensors: Sequence[torch.Tensor], pointers: list[int]) -> Hashable:
    """A key for all that a compiled kernel depends on in its tensors: what Triton specialised it for, and what its
    source relies on."""
    # Plain tuples all the way down, which the garbage collector leaves alone.
    return tuple(
        [
            (tuple(t.shape), t.stride(), t.dtype, p % ALIGNMENT, t.get_device())
            for t, p in zip(tensors, pointers, strict=True)
        ]
    )
