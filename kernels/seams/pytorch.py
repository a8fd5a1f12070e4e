"""PyTorch's own seam: `scaled_dot_product_attention` and `varlen_attn` of a program that stays as it is.

`torch.nn.attention`'s registry of flash-attention implementations activates one, which puts functions where the
dispatcher has PyTorch's kernels. Which of PyTorch's operators a call comes to is PyTorch's choice (cuDNN's on Hopper),
so all that are fused are taken, and what is not taken here runs by the kernel that was there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from eintune.host.notices import say_once
from eintune.kernels.libraries.policy import replace_libraries
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.kernels.serve.opaque import hidden

from . import aten

NAME = "eintune"
SERVED: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "_scaled_dot_product_flash_attention": (aten.flash, ("CUDA",)),
    "_scaled_dot_product_cudnn_attention": (aten.cudnn, ("CUDA",)),
    "_scaled_dot_product_efficient_attention": (aten.efficient, ("CUDA",)),
    "_scaled_dot_product_flash_attention_for_cpu": (aten.for_cpu, ("CPU",)),
    "_flash_attention_forward": (aten.flash_forward, ("CUDA", "CPU")),
    "_flash_attention_forward_no_dropout_inplace": (aten.flash_forward_into, ("CUDA", "CPU")),
}
"""Operators, what serves them, and on which devices."""


class Activation:
    """What `activate` gives: as a context manager it ends with its block, and what was active before is again."""

    def __init__(self, before: str | None) -> None:
        self._before = before

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before == NAME:
            return
        restore()
        if self._before is not None:
            torch.nn.attention.activate_flash_attention_impl(self._before)


def activate() -> Activation:
    """Have every `torch.nn.functional.scaled_dot_product_attention` and `torch.nn.attention.varlen.varlen_attn` of the
    process run Eintune's kernels, compiled programs included, until `restore`. `with eintune.activate():` ends it with
    the block.

    Registers with PyTorch's registry of flash-attention implementations under the name "eintune" and activates it
    there; one that was active is replaced. Calls that Eintune does not take (dropout, and of cuDNN's and the
    memory-efficient kernels those of which a gradient is recorded) run by PyTorch's kernel, and each reason is said
    once. So do those that PyTorch gives to no fused kernel. Raises UnsupportedArgument for a PyTorch without that
    registry (before 2.11).
    """
    registry = _registry()
    before: str | None = registry.current_flash_attention_impl()
    registry.register_flash_attention_impl(NAME, register_fn=put_in_place)
    if before != NAME:
        registry.activate_flash_attention_impl(NAME)
    return Activation(before)


def restore() -> None:
    """Give PyTorch its own kernels back, if Eintune's are active."""
    registry = _registry()
    if registry.current_flash_attention_impl() == NAME:
        registry.restore_flash_attention_impl()


def _registry() -> Any:
    import torch.nn.attention as found

    names = ("register", "activate", "restore", "current")
    missing = [n for n in names if not hasattr(found, f"{n}_flash_attention_impl")]
    if missing or not hasattr(torch.library, "get_kernel"):
        raise UnsupportedArgument(
            "eintune.activate needs PyTorch's registry of flash-attention implementations (2.11 and later), but this "
            f"is PyTorch {torch.__version__}"
        )
    return found


class Handle:
    """Functions in the place of PyTorch's kernels."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def remove(self) -> None:
        """Put the kernels back that were there."""
        self._library._destroy()
        replace_libraries(-1)


def put_in_place(served: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] | None = None) -> Handle:
    """Register the functions with PyTorch's dispatcher, for the devices that this PyTorch is built for."""
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced, which is what is asked for
        for name, (function, devices) in (SERVED if served is None else served).items():
            for device in devices:
                if device == "CUDA" and not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
                    continue
                library.impl(name, _or_else(name, function, _kernel(name, device)), device, with_keyset=True)
    replace_libraries(1)
    return Handle(library)


def _kernel(name: str, device: str) -> Any:
    """PyTorch's own, or None where it has none."""
    try:
        return torch.library.get_kernel(f"aten::{name}", device)
    except RuntimeError:
        return None


def _or_else(name: str, function: Callable[..., Any], kernel: Any) -> Callable[..., Any]:
    """The function, and the kernel for what it does not take, which is said once for each reason."""

    @hidden
    def run(keyset: Any, *args: Any, **named: Any) -> Any:
        try:
            return function(*args, **named)
        except UnsupportedArgument as error:
            if kernel is None:
                raise
            reason, _, _ = str(error).partition(", but ")
            say_once(f"eintune: {name} runs by PyTorch: {error}", about=(name, reason))
        return kernel.call_boxed(keyset, *args, **named)

    return run
