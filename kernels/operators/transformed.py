"""Operators with gradients under `torch.func.grad` and its like, which ask more of a function than autograd does."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def transformed_call(
    operator: Any, setup: Callable[..., None], backward: Callable[..., Any], batched: Callable[..., Any]
) -> Callable[..., list[Tensor]]:
    """The operator as a function whose gradients PyTorch's transforms compose. setup, backward: as of
    `library.register_backward`; what they see of a context is what they set and saved. batched: the operator under
    vmap."""

    class Call(torch.autograd.Function):
        @staticmethod
        def forward(structure: Any, *leaves: Any) -> tuple[Tensor, ...]:
            return tuple(operator(*pytree.tree_unflatten(list(leaves), structure)))

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
            structure, *leaves = inputs
            ctx.structure = structure
            setup(ctx, tuple(pytree.tree_unflatten(leaves, structure)), [*output])

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
            needs = list(ctx.needs_input_grad[1:])
            own = {n: x for n, x in vars(ctx).items() if n != "needs_input_grad"}
            seen = SimpleNamespace(**own, saved_tensors=ctx.saved_tensors)
            seen.needs_input_grad = tuple(pytree.tree_unflatten(needs, ctx.structure))
            found = backward(seen, [*cotangents])
            flat: list[Any] = []
            for given, wanted in zip(found, seen.needs_input_grad, strict=True):
                flat += given if isinstance(wanted, list) else [given]
            return None, *flat

        @staticmethod
        def vmap(info: Any, in_dims: Any, structure: Any, *leaves: Any) -> Any:
            args = pytree.tree_unflatten(list(leaves), structure)
            made, dims = batched(info, tuple(pytree.tree_unflatten(list(in_dims[1:]), structure)), *args)
            return tuple(made), tuple(dims)

    def call(*args: Any) -> list[Tensor]:
        leaves, structure = pytree.tree_flatten(args)
        return [*Call.apply(structure, *leaves)]  # type: ignore[no-untyped-call]

    return call
