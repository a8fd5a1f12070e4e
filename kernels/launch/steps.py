"""Several kernels as one call, with workspaces between them.

Workspaces are allocated in every call, all in one piece, from PyTorch's allocator: it hands memory on in the order of
a stream's work, so that calls on several streams share none of it, and a CUDA graph keeps its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod
from typing import TYPE_CHECKING

from eintune.host.recent import Recent
from eintune.kernels.emit.kernel import Argument, Kernel

from .launch import ALIGNMENT, MOST_LAYOUTS, BoundLaunch, ByAddress, Call, Launch, check, dtypes, layout_of, refuse

if TYPE_CHECKING:
    import torch


class StepsLaunch:
    """The steps of a kernel, launched one after the other on one stream."""

    def __init__(self, kernel: Kernel, steps: Sequence[Launch]) -> None:
        """steps: those of the kernel, loaded."""
        self.kernel = kernel
        self._steps = list(steps)
        names = [a.name for a in (*kernel.arguments, *kernel.workspaces)]
        self._positions = [[names.index(a.name) for a in step.arguments] for step in kernel.steps]
        self._offsets, self._nbytes = _places(kernel.workspaces)
        self._direct: Recent[Hashable, ByAddress] = Recent(MOST_LAYOUTS)

    def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
        pointers = [t.data_ptr() for t in tensors]
        layout = layout_of(tensors, pointers)
        direct = self._direct.get(layout)
        if direct is not None:
            direct(pointers)
            return
        check(self.kernel, tensors)
        every = [*tensors, *self._workspaces(tensors[0].device)]
        given = [[every[i] for i in positions] for positions in self._positions]
        for step, mine in zip(self.kernel.steps, given, strict=True):  # before anything is launched
            refuse(step, mine)
        for launch, mine in zip(self._steps, given, strict=True):
            launch(mine)
        layouts = [layout_of(mine, [t.data_ptr() for t in mine]) for mine in given]
        ready = [launch.ready(mine) for launch, mine in zip(self._steps, layouts, strict=True)]
        if all(ready):
            self._direct[layout] = self._launcher([step for step in ready if step], tensors[0].device)

    def ready(self, layout: Hashable) -> ByAddress | None:
        """As `Launch.ready`."""
        return self._direct.get(layout)

    def bound(
        self, tensors: Sequence[torch.Tensor], order: Sequence[int] | None = None, general: Call | None = None
    ) -> Call:
        """As `Launch.bound`."""
        return BoundLaunch(self, tensors, order, general or self)

    def _launcher(self, ready: Sequence[ByAddress], device: torch.device) -> ByAddress:
        return _DirectSteps(tuple(zip(ready, self._positions, strict=True)), self._offsets, self._nbytes, device)

    def _workspaces(self, device: torch.device) -> list[torch.Tensor]:
        import torch

        buffer = torch.empty(self._nbytes, dtype=torch.uint8, device=device)
        found = []
        for a, offset in zip(self.kernel.workspaces, self._offsets, strict=True):
            dtype = dtypes()[a.dtype]
            part = buffer[offset : offset + prod(a.shape) * dtype.itemsize]
            found.append(part.view(dtype).as_strided(a.shape, a.strides))
        return found


class _DirectSteps:
    """The steps' own launchers, one after the other, over one buffer (`ByAddress`). steps: which of the addresses each
    takes, those of the workspaces after those of the tensors. offsets: of the workspaces in the buffer; nbytes: its
    length."""

    __slots__ = ("_device", "_empty", "_nbytes", "_offsets", "_steps", "_uint8")

    def __init__(
        self,
        steps: tuple[tuple[ByAddress, Sequence[int]], ...],
        offsets: Sequence[int],
        nbytes: int,
        device: torch.device,
    ) -> None:
        import torch

        self._steps, self._offsets, self._nbytes, self._device = steps, offsets, nbytes, device
        self._empty, self._uint8 = torch.empty, torch.uint8

    def __call__(self, pointers: Sequence[int]) -> None:
        buffer = self._empty(self._nbytes, dtype=self._uint8, device=self._device)
        start = buffer.data_ptr()
        every = [*pointers, *[start + offset for offset in self._offsets]]
        for step, positions in self._steps:
            step([every[i] for i in positions])


def _places(workspaces: Sequence[Argument]) -> tuple[list[int], int]:
    """Where each workspace starts in one buffer, and the length of that, in bytes."""
    unit = 8 * ALIGNMENT
    offsets, end = [], 0
    for a in workspaces:
        offsets.append(end)
        end += -(-prod(a.shape) * dtypes()[a.dtype].itemsize // unit) * unit
    return offsets, end
