"""PyTorch's fused attention operators, as functions of this package: each with its operator's arguments and results.

Results that backward passes read are as PyTorch leaves them: a log-sum-exp in natural units, +inf where a query of a
packed sequence sees nothing, and numbers of a random generator that nothing was drawn from. What is not taken raises
UnsupportedArgument before anything is written.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from eintune.kernels.packed.arguments import Options
from eintune.kernels.packed.attention import packed_call, paged_call
from eintune.kernels.packed.calls import Call
from eintune.kernels.packed.lengths import Reach, of_batch
from eintune.kernels.serve.errors import UnsupportedArgument

from .dense import attend_into

BACKWARD = "a gradient may be recorded, and this operator's backward reads what its own forward leaves"


# ---- scaled_dot_product_attention


def flash(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False,
    return_debug_mask: bool = False, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """`aten::_scaled_dot_product_flash_attention`: (batch, heads, length, head dim). Causal is lower right here."""
    _refuse_draws(dropout_p, return_debug_mask)
    if query.shape[-1] != value.shape[-1]:
        raise UnsupportedArgument(
            f"query and value must agree in head dim, but have {query.shape[-1]}, {value.shape[-1]}"
        )
    out = torch.empty_like(query)
    log = query.new_empty(query.shape[:3], dtype=torch.float32)
    _in_float32(query)
    attend_into(out, log, query, key, value, "lower_right" if is_causal else None, scale)
    return out, log, None, None, query.shape[2], key.shape[2], *_draws(query)


def cudnn(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None, compute_log_sumexp: bool,
    dropout_p: float = 0.0, is_causal: bool = False, return_debug_mask: bool = False, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """`aten::_scaled_dot_product_cudnn_attention`, where no gradient is recorded. Causal is top left."""
    _refuse_draws(dropout_p, return_debug_mask)
    if compute_log_sumexp:
        raise UnsupportedArgument(BACKWARD)
    out = _laid_out_like(query, (*query.shape[:3], value.shape[3]))
    attend_into(out, None, query, key, value, "top_left" if is_causal else None, scale, attn_bias)
    log = query.new_empty((*query.shape[:3], 1), dtype=torch.float32)
    return out, log, None, None, query.shape[2], key.shape[2], *_seeds(), None


def efficient(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None, compute_log_sumexp: bool,
    dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """`aten::_scaled_dot_product_efficient_attention`, where no gradient is recorded. Causal is top left."""
    _refuse_draws(dropout_p, False)
    if compute_log_sumexp:
        raise UnsupportedArgument(BACKWARD)
    batch, heads, queries, _ = query.shape
    out = query.new_empty((batch, queries, heads, value.shape[3])).transpose(1, 2)
    attend_into(out, None, query, key, value, "top_left" if is_causal else None, scale, attn_bias)
    return out, query.new_empty((batch, heads, 0), dtype=torch.float32), *_seeds()


def for_cpu(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False, *,
    attn_mask: Tensor | None = None, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """`aten::_scaled_dot_product_flash_attention_for_cpu`. Causal is top left."""
    _refuse_draws(dropout_p, False)
    if query.shape[-1] != value.shape[-1]:
        raise UnsupportedArgument(
            f"query and value must agree in head dim, but have {query.shape[-1]}, {value.shape[-1]}"
        )
    batch, heads, queries, _ = query.shape
    out = torch.empty_like(query)
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    log = query.new_empty((batch, queries, heads), dtype=wide).transpose(1, 2)
    attend_into(out, log, query, key, value, "top_left" if is_causal else None, scale, attn_mask)
    return out, log


# ---- varlen_attn


def flash_forward(
    query: Tensor, key: Tensor, value: Tensor, cum_seq_q: Tensor | None, cum_seq_k: Tensor | None, max_q: int,
    max_k: int, dropout_p: float, is_causal: bool, return_debug_mask: bool, *, scale: float | None = None,
    window_size_left: int | None = None, window_size_right: int | None = None, seqused_k: Tensor | None = None,
    alibi_slopes: Tensor | None = None, block_table: Tensor | None = None, num_splits: int | None = None,
    out: Tensor | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """`aten::_flash_attention_forward`: (batch, length, heads, head dim), or packed (total, heads, head dim) with
    cumulative lengths, or with `block_table` over a cache in pages. Causal and windows are lower right. out: what is
    filled in the place of a new tensor."""
    _refuse_draws(dropout_p, return_debug_mask)
    if alibi_slopes is not None:
        raise UnsupportedArgument("`alibi_slopes` must be None: PyTorch's kernel leaves other log-sum-exps beside them")
    if num_splits == 1:
        raise UnsupportedArgument("`num_splits` must not be 1: that asks for sums that no other sequence changes")
    _in_float32(query)
    out = torch.empty_like(query) if out is None else out
    if query.shape[-1] != value.shape[-1] or out.shape != query.shape:
        raise UnsupportedArgument(
            f"query, value and out must agree in head dim, but have {query.shape[-1]}, {value.shape[-1]}"
        )
    before, beyond = (None if n is None or n < 0 else n for n in (window_size_left, window_size_right))
    asked = Options(Reach(before, 0 if is_causal else beyond), scale, lse=True)
    if cum_seq_q is not None:
        log = _packed(query, key, value, cum_seq_q, cum_seq_k, seqused_k, block_table, asked, out)
        # As its backward has it: weights are e^(score - this).
        log = torch.where(log == -math.inf, math.inf, log)
    elif block_table is not None:
        raise UnsupportedArgument("`cum_seq_q` must be given beside `block_table`")
    elif seqused_k is None and asked.reach[:2] in ((None, None), (None, 0)):
        log = query.new_empty((query.shape[0], query.shape[2], query.shape[1]), dtype=torch.float32)
        q, k, v, made = (t.transpose(1, 2) for t in (query, key, value, out))
        attend_into(made, log, q, k, v, "lower_right" if asked.reach.beyond == 0 else None, scale)
    else:
        log = _batched(query, key, value, seqused_k, asked, out)
        log = torch.where(log == -math.inf, math.inf, log)
    return out, log, *_draws(query)


def flash_forward_into(out: Tensor, *args: Any, **named: Any) -> Tensor:
    """`aten::_flash_attention_forward_no_dropout_inplace`: as `flash_forward`, into `out`; gives the log-sum-exp."""
    log: Tensor = flash_forward(*args, **named, out=out)[1]
    return log


def _packed(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor | None, used: Tensor | None, table: Tensor | None,
    asked: Options, out: Tensor,
) -> Tensor:  # fmt: skip
    if table is not None:
        if used is None:
            raise UnsupportedArgument("`seqused_k` must be given beside `block_table`")
        log = paged_call(q, k, v, table, used, cu_q, asked, out=out)[1]
    else:
        if cu_k is None:
            raise UnsupportedArgument("`cum_seq_k` must be given where there is no `block_table`")
        log = packed_call(q, k, v, cu_q, cu_k, used, asked, out=out)[1]
    assert log is not None
    return log


def _batched(q: Tensor, k: Tensor, v: Tensor, used: Tensor | None, asked: Options, out: Tensor) -> Tensor:
    """Of a batch whose keys end anywhere, or are seen through a window."""
    if not (q.ndim == k.ndim == v.ndim == 4) or q.shape[0] != k.shape[0] or k.shape[:3] != v.shape[:3]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise UnsupportedArgument(f"query, key and value must be one batch of 4 axes, but got {shapes}")
    room = k.shape[1]
    lengths = used.int().clamp(0, room) if used is not None else q.new_full((q.shape[0],), room, dtype=torch.int32)
    call = Call(q, k, v, None, of_batch(q.shape[1], lengths, asked.reach, False), asked, out=out)
    log = call.ready()(call)[1]
    assert log is not None
    return log


# ---- what all have


def _refuse_draws(dropout_p: float, return_debug_mask: bool) -> None:
    if dropout_p:
        raise UnsupportedArgument(f"dropout must be 0, but got {dropout_p:g}")
    if return_debug_mask:
        raise UnsupportedArgument("`return_debug_mask` must be False")


def _in_float32(query: Tensor) -> None:
    """Its log-sum-exp is float32 whatever the inputs are."""
    if query.dtype == torch.float64:
        raise UnsupportedArgument(f"query must be float16, bfloat16 or float32, but is {query.dtype}")


def _draws(query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The state of a random generator that nothing was drawn from, and no debug mask."""
    state = torch.empty((2,), dtype=torch.uint64, device=query.device)
    return state, torch.empty((), dtype=torch.uint64, device=query.device), query.new_empty(0)


def _seeds() -> tuple[Tensor, Tensor]:
    return torch.empty((), dtype=torch.int64), torch.empty((), dtype=torch.int64)


def _laid_out_like(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A new tensor whose axes lie in memory in the order of another's."""
    if tuple(t.shape) == shape:
        return torch.empty_like(t)
    order = sorted(range(t.ndim), key=lambda axis: t.stride(axis), reverse=True)
    return torch.empty_permuted(shape, order, dtype=t.dtype, device=t.device)
