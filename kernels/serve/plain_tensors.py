"""Which tensors a kernel can read: numbers at an address, as strides say, and nothing that a wrapper would add."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .errors import UnsupportedArgument

PLAIN = (Tensor, torch.nn.Parameter)
DENSE = "a dense tensor in memory is wanted"


def kind_of_tensor(name: str, t: Tensor) -> Any:
    """What of a tensor decides how a call is served. Raises UnsupportedArgument for one that has no strides."""
    try:
        return t.shape, t.stride(), t.dtype, t.device, type(t), t.is_neg()
    except Exception as error:
        check_plain(name, t)
        raise UnsupportedArgument(f"`{name}` must be a tensor with a shape and strides: {_line(error)}") from error


def check_plain(name: str, t: Tensor) -> None:
    """Raise UnsupportedArgument, naming the tensor and what it is, for one that a kernel cannot read."""
    if t.device.type not in ("cpu", "cuda"):
        raise UnsupportedArgument(f"`{name}` must be on a CPU or CUDA device, but is on {t.device}")
    if what := _fault(t):
        raise UnsupportedArgument(f"`{name}` must not be {what}: {DENSE}")


def is_transformed() -> bool:
    """Whether a transform of `torch.func` or forward differentiation is at work, whose tensors look like any other."""
    return forward_ad._current_level >= 0 or (
        _functorch is not None and _functorch.peek_interpreter_stack() is not None
    )


_functorch: Any = getattr(torch._C, "_functorch", None)


def _fault(t: Tensor) -> str:
    """What a tensor is, where that is nothing to read, or ""."""
    if t.is_nested:
        return "a nested tensor"
    if type(t) not in PLAIN:
        return f"a subclass of torch.Tensor ({type(t).__name__})"
    if _functorch is not None and _functorch.is_functorch_wrapped_tensor(t):
        return "transformed (torch.func.vmap, grad, jvp)"
    if t.layout != torch.strided:
        return f"of layout {t.layout}"
    if t.is_neg() or t.is_conj():
        return "a lazily negated or conjugated view (resolve_neg and resolve_conj make it plain)"
    if t._is_zerotensor():
        return "a tensor of zeros without memory"
    if forward_ad._current_level >= 0 and _has_tangent(t):
        return "a dual tensor (Eintune has no forward derivatives)"
    return ""


def _has_tangent(t: Tensor) -> bool:
    return forward_ad.unpack_dual(t).tangent is not None  # type: ignore[no-untyped-call]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
