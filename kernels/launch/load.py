"""A kernel as something that can be called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eintune.kernels.emit.kernel import Kernel

if TYPE_CHECKING:
    pass
from .launch import Launch, LaunchError
from .launchers import TorchLaunch, TritonLaunch


def load(kernel: Kernel) -> Launch:
    """The kernel as a callable.

    It raises LaunchError, at the call, for a wrong shape, dtype or device, and for a tensor that lies in memory as
    no tensor descriptor allows where the kernel takes one; TileTooWide where its strides are too large.
    """
    if kernel.steps:
        from .steps import StepsLaunch

        return StepsLaunch(kernel, [load(step) for step in kernel.steps])
    match kernel.emitter:
        case "torch":
            return TorchLaunch(kernel)
        case "triton" | "gluon":
            return TritonLaunch(kernel)
    raise LaunchError(f"an emitter is one of torch, triton, gluon, but got {kernel.emitter!r}")
