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

from .launch import ALIGNMENT, MOST_LAYOUTS, Call, Launch, check, dtypes, layout_of, refuse
from .tensor_descriptors import Address

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
        self._ready: Recent[Hashable, Call] = Recent(MOST_LAYOUTS)

    def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
        layout = layout_of(tensors, [t.data_ptr() for t in tensors])
        if ready := self._ready.get(layout):
            ready(tensors)
            return
        check(self.kernel, tensors)
        every = [*tensors, *self._workspaces(tensors[0].device)]
        given = [[every[i] for i in positions] for positions in self._positions]
        for step, mine in zip(self.kernel.steps, given, strict=True):  # before anything is launched
            refuse(step, mine)
        for launch, mine in zip(self._steps, given, strict=True):
            launch(mine)
        if fast := self._by_address(tensors, given):
            self._ready[layout] = fast

    def bound(self, tensors: Sequence[torch.Tensor]) -> Call:
        """As `Launch.bound`. Does not run anything by itself."""
        return self._ready.get(layout_of(tensors, [t.data_ptr() for t in tensors])) or self

    def _by_address(self, tensors: Sequence[torch.Tensor], given: Sequence[Sequence[torch.Tensor]]) -> Call | None:
        """A function that launches all steps for tensors of this layout, workspaces by their addresses. None where it
        takes the steps' own checks (no GPU, or tensors that are not aligned)."""
        device = tensors[0].device
        if self.kernel.emitter == "torch" or device.type != "cuda":
            return None
        calls = [launch.bound(mine) for launch, mine in zip(self._steps, given, strict=True)]
        if any(call is launch for call, launch in zip(calls, self._steps, strict=True)):
            return None  # a tensor that is not aligned, say
        return self._launcher(calls, device)

    def _launcher(self, calls: Sequence[Call], device: torch.device) -> Call:
        """The steps' own launchers, one after the other, over one buffer."""
        import torch

        steps, offsets, nbytes = list(zip(calls, self._positions, strict=True)), self._offsets, self._nbytes

        def launch(tensors: Sequence[torch.Tensor]) -> None:
            if any(t.data_ptr() % ALIGNMENT for t in tensors):
                self(tensors)
                return
            buffer = torch.empty(nbytes, dtype=torch.uint8, device=device)
            start = buffer.data_ptr()
            every = [*tensors, *(Address(start + offset) for offset in offsets)]
            for call, positions in steps:
                call([every[i] for i in positions])  # type: ignore[misc]

        return launch

    def _workspaces(self, device: torch.device) -> list[torch.Tensor]:
        import torch

        buffer = torch.empty(self._nbytes, dtype=torch.uint8, device=device)
        found = []
        for a, offset in zip(self.kernel.workspaces, self._offsets, strict=True):
            dtype = dtypes()[a.dtype]
            part = buffer[offset : offset + prod(a.shape) * dtype.itemsize]
            found.append(part.view(dtype).view(a.shape))
        return found


def _places(workspaces: Sequence[Argument]) -> tuple[list[int], int]:
    """Where each workspace starts in one buffer, and the length of that, in bytes."""
    unit = 8 * ALIGNMENT
    offsets, end = [], 0
    for a in workspaces:
        offsets.append(end)
        end += -(-prod(a.shape) * dtypes()[a.dtype].itemsize // unit) * unit
    return offsets, end
