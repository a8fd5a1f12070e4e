"""FlexAttention's call as PyTorch has it, for programs that were written for that."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from eintune.kernels.operators.served import attention
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.kernels.serve.opaque import opaque

BLOCKS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
"""What of a block mask says which blocks are looked at, and which of them without its function."""

_agreeing: weakref.WeakSet[Any] = weakref.WeakSet()
"""Block masks whose blocks were found to be those of their functions."""


@opaque
def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Any] | None = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Mapping[str, Any] | None = None,
    *,
    return_aux: Any = None,
) -> Any:
    """`torch.nn.attention.flex_attention.flex_attention`, by the fastest kernel that is known.

    query, key, value: (batch, heads, length, head dim), as `attention` takes them; other numbers of heads need
    `enable_gqa`. score_mod: a function (score, b, h, q_idx, kv_idx) -> score. block_mask: what `create_block_mask`
    gave: its function is traced, and its blocks are looked at once, for whether they are those of the function.
    scale: 1/sqrt(head dim) unless given. kernel_options: of PyTorch's kernels, left alone. Returns the output; with
    `return_lse` also the log-sum-exp (natural, float32, -inf where a query sees nothing); with `return_aux` (an
    `AuxRequest`) also what it asks for. Raises UnsupportedArgument for blocks that hide more than the function, and for
    the greatest scores.
    """
    for name, t in (("query", query), ("key", key), ("value", value)):
        if not isinstance(t, Tensor) or t.ndim != 4:
            got = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise UnsupportedArgument(f"`{name}` must be a tensor (batch, heads, length, head dim), but got {got}")
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise UnsupportedArgument(
            f"`enable_gqa` must be True where query and key have other numbers of heads, but got {query.shape[1]} and "
            f"{key.shape[1]}"
        )
    lse, aux = _wanted(return_lse, return_aux)
    given: dict[str, Any] = {"score_mod": score_mod, "mask_mod": _mask_of(block_mask, query, key)}
    given = {name: function for name, function in given.items() if function is not None}
    if not lse:
        out, logs = attention(query, key, value, scale=scale, **given), None
    else:
        out, logs = attention(query, key, value, scale=scale, return_lse=True, **given)
    if aux is not None:
        return out, aux(lse=logs, max_scores=None)
    return (out, logs) if lse else out


def _wanted(return_lse: object, return_aux: Any) -> tuple[bool, Any]:
    """Whether the log-sum-exp is asked for, and what holds it beside the output."""
    if return_aux is None:
        return bool(return_lse), None
    if return_lse:
        raise UnsupportedArgument("`return_lse` and `return_aux` are two ways to ask for one thing: give one of them")
    from torch.nn.attention import flex_attention as flex

    if not isinstance(return_aux, flex.AuxRequest):
        raise UnsupportedArgument(f"`return_aux` must be an AuxRequest, but got {type(return_aux).__name__}")
    if return_aux.max_scores:
        raise UnsupportedArgument("`return_aux` may ask for lse, but not for max_scores: no kernel keeps those")
    return bool(return_aux.lse), flex.AuxOutput


def _mask_of(block_mask: Any, query: Tensor, key: Tensor) -> Callable[..., Any] | None:
    """The function that a block mask stands for. Raises UnsupportedArgument for one of other sizes, and for one whose
    blocks hide what the function shows."""
    if block_mask is None:
        return None
    from torch.nn.attention import flex_attention as flex

    if not isinstance(block_mask, flex.BlockMask):
        raise UnsupportedArgument(f"`block_mask` must be a BlockMask, but got {type(block_mask).__name__}")
    batch, heads, *lengths = block_mask.shape
    wanted = (query.shape[2], key.shape[2])
    if tuple(lengths) != wanted:
        raise UnsupportedArgument(f"`block_mask` must be of {wanted} queries and keys, but is of {tuple(lengths)}")
    if batch not in (1, query.shape[0]) or heads not in (1, query.shape[1]):
        raise UnsupportedArgument(
            f"`block_mask` must be of batch and heads 1 or {tuple(query.shape[:2])}, but is of {(batch, heads)}"
        )
    if block_mask not in _agreeing:
        _check_blocks(block_mask, flex)
        _agreeing.add(block_mask)
    mask: Callable[..., Any] = block_mask.mask_mod
    return None if mask is flex.noop_mask else mask


def _check_blocks(block_mask: Any, flex: Any) -> None:
    """Blocks may be given by themselves, and hide keys that the function would show: then they are a mask of their own,
    which nothing here reads."""
    made = flex.create_block_mask(
        block_mask.mask_mod, *block_mask.shape, device=block_mask.kv_indices.device, BLOCK_SIZE=block_mask.BLOCK_SIZE
    )
    if not torch.equal(_looked_at(block_mask), _looked_at(made)):
        raise UnsupportedArgument(
            "`block_mask` must have the blocks that its function gives, as create_block_mask makes them, but got "
            "others: say in the function what is seen"
        )


def _looked_at(block_mask: Any) -> Tensor:
    """Of each block 0 where it is left out, 1 where the function is asked, 2 where all of it is seen."""
    rows, columns = (math.ceil(n / b) for n, b in zip(block_mask.shape[2:], block_mask.BLOCK_SIZE, strict=True))
    found = torch.zeros((*block_mask.kv_num_blocks.shape[:2], rows, columns + 1), dtype=torch.int8)
    for weight, (count, index) in enumerate((BLOCKS[:2], BLOCKS[2:]), 1):
        counts, indices = getattr(block_mask, count), getattr(block_mask, index)
        if counts is not None:
            counts, indices = counts.cpu()[:, :, :rows], indices.cpu()[:, :, :rows].long()
            there = torch.arange(indices.shape[-1]) < counts[..., None]
            found.scatter_(-1, torch.where(there, indices.clamp(max=columns), columns), weight)
    return found[..., :columns]
