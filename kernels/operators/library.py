"""Operators of PyTorch's: what each has to say to the dispatcher, said once.

A compiler meets a call as one operator: a fake implementation gives shapes, and the real one runs what an eager call
runs. Gradients are refused where they would be recorded, until somebody registers a backward (`register_backward`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eintune.kernels.serve.attention import autocasted
from eintune.kernels.serve.errors import UnsupportedArgument

from .transformed import transformed_call

NAMESPACE = "eintune"
DEVICES = ("CPU", "CUDA")
TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
"""Kernels are chosen by strides, and those of a compiled program should be those that its eager run has."""

_library: Any = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


def define(
    name: str,
    schema: str,
    run: Callable[..., list[Tensor]],
    fake: Callable[..., list[Tensor]],
    batched: Callable[..., Any],
    *,
    forward_only: Callable[..., str],
    casted: int = 0,
) -> Any:
    """The operator of this name. run, fake: its implementations, and `batched` that under vmap. forward_only: of the
    operator's arguments, what to say where a gradient would be recorded. casted: how many arguments, from the first,
    autocast gives its dtype to, as it does for PyTorch's attention."""
    _library.define(f"{name}{schema}", tags=TAGS)
    operator = getattr(getattr(torch.ops, NAMESPACE), name).default
    for device in DEVICES:
        _library.impl(name, run, device)
        if casted:
            _library.impl(name, _autocast(operator, device, casted), f"Autocast{device}")
    _library.impl(name, _refusing(operator, forward_only), "Autograd", with_keyset=True)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    torch.library.register_vmap(f"{NAMESPACE}::{name}", batched, lib=_library)
    _batched[operator] = batched
    return operator


def register_backward(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Give an operator its gradients, as `torch.library.register_autograd` takes them: from then on, inputs that need
    them are taken. This is the one place where a backward comes in."""
    # What that makes, without its registration: PyTorch 2.11 refuses a second kernel for a key.
    from torch._library.autograd import Info, make_autograd_impl

    operator = getattr(getattr(torch.ops, NAMESPACE), name).default
    _gradients[operator] = make_autograd_impl(operator, Info(_backward_fn=backward, _setup_context_fn=setup))
    _transformed[operator] = transformed_call(operator, setup, backward, _batched[operator])


def call(operator: Any, *args: Any) -> list[Tensor]:
    """An operator's call, by what `torch.func` composes where a transform is at work."""
    if torch._C._are_functorch_transforms_active() and (transformed := _transformed.get(operator)) is not None:
        return transformed(*args)
    made: list[Tensor] = operator(*args)
    return made


_gradients: dict[Any, Callable[..., Any]] = {}
"""What takes an operator's calls where gradients may be recorded, once it has a backward."""
_transformed: dict[Any, Callable[..., list[Tensor]]] = {}
"""And what takes them where `torch.func` transforms a function."""
_batched: dict[Any, Callable[..., Any]] = {}


def _refusing(operator: Any, forward_only: Callable[..., str]) -> Callable[..., Any]:
    def autograd(keyset: Any, *args: Any) -> Any:
        if (recorded := _gradients.get(operator)) is not None:
            return recorded(keyset, *args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            raise UnsupportedArgument(forward_only(*args))
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    return autograd


def _autocast(operator: Any, device: str, casted: int) -> Callable[..., Any]:
    key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device}"))

    def autocast(*args: Any) -> Any:
        given = autocasted(args[:casted])  # before autocast is off
        with torch._C._ExcludeDispatchKeyGuard(key):
            return operator(*given, *args[casted:])

    return autocast
