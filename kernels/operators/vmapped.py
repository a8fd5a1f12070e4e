"""Operators under `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .library import call


def one_by_one(operator: Callable[..., list[Tensor]], count: int, in_dims: Any, args: Sequence[Any]) -> Any:
    """Call after call, and the results stacked: where nothing is known of the arguments, this is right."""

    def at(n: int, x: Any, d: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return [at(n, y, e) for y, e in zip(x, d, strict=True)]
        return x if d is None else x.select(d, n)

    made = [call(operator, *[at(n, x, d) for x, d in zip(args, in_dims, strict=True)]) for n in range(count)]
    return [torch.stack(ts) for ts in zip(*made, strict=True)], [0] * len(made[0])


def with_batch_in_front(
    t: Tensor, dim: int | None, count: int, axes: int, batch: int, optional: bool = False
) -> Tensor:
    """A tensor of `axes` axes, the first of them the batch, with vmap's axis at `dim` (None: it has none) as part of
    the batch. optional: leading axes may be missing or 1; they stay so where vmap has no axis and they are."""
    if dim is None:
        if optional and (t.ndim < axes or t.shape[0] == 1):
            return t
        t = t.expand(count, *t.shape)
    else:
        t = t.movedim(dim, 0)
    t = t.reshape(count, *(1,) * (axes + 1 - t.ndim), *t.shape[1:])
    return t.expand(count, batch, *t.shape[2:]).flatten(0, 1)
