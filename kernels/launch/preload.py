"""Compiled kernels loaded before they are called: what Triton leaves to the first launch, and to the JIT front end."""

from __future__ import annotations

from pathlib import Path

from eintune.kernels.emit.kernel import Kernel

from .compiled_cache import compiled_folder, triton_cache
from .launchers import TritonLaunch, compiled_kernels
from .offline import CompileError, compiled_form, contiguous


def preload(kernel: Kernel, architecture: str, device: int, cache_dir: Path | None = None) -> None:
    """Load a kernel of one launch into a CUDA device, for contiguous tensors that start on 16 bytes, so that its first
    call with such only launches.

    architecture: of the device ("sm_90"). cache_dir: where it was compiled to, if not where programs compile to. Raises
    CompileError for a kernel that does not compile, and for one that the device does not hold.
    """
    import torch

    strides = contiguous(kernel)
    numbers = [*(s for tensor in strides for s in tensor), *kernel.values]
    seen = TritonLaunch(kernel).seen(device, [0] * len(kernel.arguments), numbers)
    if compiled_kernels.get(seen) is not None:
        return
    with torch.cuda.device(device):
        made = compiled_form(kernel, architecture, strides, cache_dir)
        try:
            # Triton builds the launcher, which is a module in C that it keeps in its cache, and loads the binary when
            # it is asked for that.
            with triton_cache(cache_dir or compiled_folder()):
                made.run  # noqa: B018
        except Exception as error:  # the driver's and Triton's own classes
            raise CompileError(f"{type(error).__name__}: {error}") from error
    compiled_kernels[seen] = made
