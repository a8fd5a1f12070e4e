"""A kernel as something that can be called."""

from __future__ import annotations

from eintune.kernels.emit.kernel import Kernel

from .launch import Launch, LaunchError
from .launchers import TorchLaunch, TritonLaunch
from .steps import StepsLaunch


def load(kernel: Kernel) -> Launch:
    """The kernel as a callable.

    It raises LaunchError, at the call, for a wrong shape, dtype or device, and for a tensor that lies in memory as
    no tensor descriptor allows where the kernel takes one; TileTooWide where its strides are too large.
    """
    if kernel.steps:
        return StepsLaunch(kernel, [load(step) for step in kernel.steps])
    match kernel.emitter:
        case "torch":
            return TorchLaunch(kernel)
        case "triton" | "gluon":
            return TritonLaunch(kernel)
    raise LaunchError(f"an emitter is one of torch, triton, gluon, but got {kernel.emitter!r}")
