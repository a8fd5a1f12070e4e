"""From generated source to something that can be called.

`load` compiles a kernel's source in this process (never a file found elsewhere: records hold no code) and gives
a callable on tensors. Triton reads a kernel's source through `inspect`, which finds it among the lines that Python
keeps for tracebacks: no file is written, so none is lost when a forked child ends, and none is left.

The first call of a Triton kernel with given strides and alignments goes through the JIT front end; later ones
launch the compiled kernel directly, which costs a third of the host time. A caller that has checked shapes and
strides itself (a runtime's own table) takes `bound`, which spares checking them again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from eintune.host.forks import cached_property
from eintune.host.recent import Recent
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.reference.surroundings import plain_surroundings

from .compiled_cache import compiled_folder, triton_cache
from .direct import DirectLaunch, Launchable
from .launch import (
    ALIGNMENT,
    MOST_LAYOUTS,
    BoundLaunch,
    ByAddress,
    Call,
    Launch,
    LaunchError,
    check,
    layout_of,
    refuse,
)
from .module import interpreted, module_of
from .tensor_descriptors import LaunchDescriptors, descriptors

if TYPE_CHECKING:
    import torch


class TorchLaunch:
    """A kernel in plain PyTorch."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._entry = getattr(module_of(kernel), kernel.entry)

    def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
        check(self.kernel, tensors)
        self._run(tensors)

    def ready(self, layout: Hashable) -> ByAddress | None:
        """As `Launch.ready`: never, as PyTorch takes no addresses."""
        return None

    def bound(
        self, tensors: Sequence[torch.Tensor], order: Sequence[int] | None = None, general: Call | None = None
    ) -> Call:
        """As `Launch.bound`."""
        return general or self._run

    def _run(self, tensors: Sequence[torch.Tensor]) -> None:
        with plain_surroundings(tensors[0].device):
            self._entry(*tensors, *self.kernel.values)


class TritonLaunch:
    """A Triton or Gluon kernel on tensors of any strides; remembers the compiled form for each layout it has seen."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        # Bounded, as a program may call with ever new shapes.
        self._direct: Recent[Hashable, ByAddress] = Recent(MOST_LAYOUTS)

    @cached_property
    def function(self) -> Any:
        """The `@triton.jit` function."""
        return getattr(module_of(self.kernel), self.kernel.entry)

    def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
        # Strides and alignment decide what the JIT compiles: calls that agree in them share a compiled kernel.
        pointers = [t.data_ptr() for t in tensors]
        layout = layout_of(tensors, pointers)
        direct = self._direct.get(layout)
        if direct is None:
            self._first(layout, tensors)
        else:
            direct(pointers)

    def ready(self, layout: Hashable) -> ByAddress | None:
        """As `Launch.ready`."""
        return self._direct.get(layout)

    def bound(
        self, tensors: Sequence[torch.Tensor], order: Sequence[int] | None = None, general: Call | None = None
    ) -> Call:
        """As `Launch.bound`."""
        return BoundLaunch(self, tensors, order, general or self)

    def _first(self, layout: Hashable, tensors: Sequence[torch.Tensor]) -> None:
        """Launch through the JIT front end, and keep the compiled kernel for this layout."""
        check(self.kernel, tensors)
        refuse(self.kernel, tensors)
        device = tensors[0].device
        if device.type != "cuda" and not interpreted():
            raise LaunchError(f"a triton kernel needs tensors on a CUDA device, but got {device}")
        if device.type != "cuda" and self.kernel.emitter == "gluon":
            raise LaunchError("a kernel of specialised warps needs a GPU: Triton's interpreter has no Gluon")
        if device.type != "cuda":
            from .interpreter_fixes import mend

            mend()
            self._jit(tensors)
            return
        import torch

        strides = [*(s for t in tensors for s in t.stride()), *self.kernel.values]
        described = LaunchDescriptors(self.kernel, tensors) if self.kernel.descriptors else None
        pointers = [t.data_ptr() for t in tensors]
        # A kernel for any size is compiled once: at another size what it was compiled to is launched, without the JIT
        # front end, which takes a while to find that out.
        seen = self.seen(device.index, pointers, strides)
        compiled = compiled_kernels.get(seen)
        runs = compiled is None
        if compiled is None:
            # A kernel is loaded into the context of the current device, whatever device its tensors are on.
            with torch.cuda.device(device):
                compiled_kernels[seen] = compiled = self._jit(tensors)
        # Strides of this layout are constants from here on; only addresses change.
        direct = self._direct[layout] = self._bind(compiled, device.index, strides, described)
        if not runs:  # the JIT front end compiles and launches in one
            direct(pointers)

    def seen(self, device: int, pointers: Sequence[int], numbers: Sequence[int]) -> Hashable:
        """What the JIT front end specialises on, or more: calls that agree in it have one compiled form on a device.
        numbers: the arguments after the pointers, of which the last are the kernel's `values`, of one class whatever
        they are."""
        classes: list[Hashable] = [device, self.function, tuple(options_of(self.kernel).items())]
        classes += [p % ALIGNMENT for p in pointers]
        strides = len(numbers) - len(self.kernel.values)
        for i, (n, p) in enumerate(zip(numbers, self.function.params[len(pointers) :], strict=False)):
            wide = not -(2**31) <= n < 2**31
            classes.append(n if p.is_constexpr else (wide, n == 1, n % ALIGNMENT == 0) if i < strides else wide)
        return tuple(classes)

    def _jit(self, tensors: Sequence[torch.Tensor]) -> Any:
        strides = [s for t in tensors for s in t.stride()]
        given = (*tensors, *strides, *self.kernel.values, *descriptors(self.kernel, tensors))
        grid = self._grid(tensors[0].device)
        if interpreted():
            return self.function[grid](*given, **options_of(self.kernel))
        with triton_cache(compiled_folder()):
            return self.function[grid](*given, **(options_of(self.kernel) | fusing()))

    def _grid(self, device: torch.device) -> tuple[int, int, int]:
        """As many programs as the kernel has, or as the device holds where each does the work of several."""
        import torch

        first, *rest = self.kernel.grid
        # Persistent kernels: as many programs as the SMs hold at once, each with a loop over its share.
        if self.kernel.resident is not None:
            first = min(first, self.kernel.resident * torch.cuda.get_device_properties(device).multi_processor_count)
        x, y, z = (first, *rest, 1, 1)[:3]
        return x, y, z

    def _bind(
        self, compiled: Any, device: int, strides: list[int], described: LaunchDescriptors | None = None
    ) -> ByAddress:
        """A launcher for tensors of one layout (see `direct`). described: makes the tensor descriptors, where the
        kernel takes any."""
        import torch

        grid = self._grid(torch.device("cuda", device))
        return DirectLaunch(Launchable(compiled, grid, tuple(strides), described), device)


compiled_kernels: Recent[Hashable, Any] = Recent(1024)
"""Compiled kernels by what the compiler saw of them (`TritonLaunch.seen`)."""


def options_of(kernel: Kernel) -> dict[str, int]:
    """Triton's options for a kernel: warps, and registers of a thread where warps divide them, else pipeline stages."""
    # With warps that divide registers among them the compiler must be told what each has before.
    if kernel.registers is not None:
        return {"num_warps": kernel.warps, "maxnreg": kernel.registers}
    return {"num_warps": kernel.warps, "num_stages": kernel.stages}


@functools.cache
def fusing() -> dict[str, bool]:
    """The option that fuses a product and a sum into one multiply-add, for a Triton that has it; else none. Kernels are
    written, priced and measured with it, so it is set whatever the default or the environment says."""
    try:
        from triton.backends.nvidia.compiler import CUDAOptions
    except ImportError:
        return {}
    return {"enable_fp_fusion": True} if hasattr(CUDAOptions, "enable_fp_fusion") else {}


class EitherLaunch:
    """Two kernels for one problem: the second runs where the first refuses tensors (because of strides or addresses),
    and is made then."""

    def __init__(self, first: Launch, second: Callable[[], Launch]) -> None:
        self._first = first
        self._make = second
        self._second: Launch | None = None

    def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
        try:
            self._first(tensors)
        except LaunchError:  # raised before anything is launched
            if self._second is None:
                self._second = self._make()
            self._second(tensors)

    def ready(self, layout: Hashable) -> ByAddress | None:
        """As `Launch.ready`: of the one that took tensors of this layout."""
        return self._first.ready(layout) or (self._second.ready(layout) if self._second else None)

    def bound(
        self, tensors: Sequence[torch.Tensor], order: Sequence[int] | None = None, general: Call | None = None
    ) -> Call:
        """As `Launch.bound`."""
        return BoundLaunch(self, tensors, order, general or self)
