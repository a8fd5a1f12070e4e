"""Which tensors a kernel can read: numbers at an address, as strides say, and nothing that a wrapper would add."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

PLAIN = (Tensor, torch.nn.Parameter)
DENSE = "a dense tensor in memory is wanted"


def is_transformed() -> bool:
    """Whether a transform of `torch.func` or forward differentiation is at work, whose tensors look like any other."""
    return forward_ad._current_level >= 0 or (
        _functorch is not None and _functorch.peek_interpreter_stack() is not None
    )


_functorch: Any = getattr(torch._C, "_functorch", None)


def not_plain(t: Tensor) -> str:
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
