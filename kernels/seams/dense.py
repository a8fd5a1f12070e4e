"""Attention into tensors that are there already, as PyTorch's own operators lay them out."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from eintune.host.recent import Recent
from eintune.kernels.operators.served import attention
from eintune.kernels.serve.attention import broken, check_kinds, rules
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.kernels.serve.plain_tensors import check_plain, kind_of_tensor
from eintune.kernels.serve.serving import MOST_READY, Fill, dtype_name, serve
from eintune.space.workloads.attention import Attention, attention_problem

Mode = Literal["top_left", "lower_right"] | None

_ready: Recent[Any, Fill] = Recent(MOST_READY)


def attend_into(
    out: Tensor, log: Tensor | None, q: Tensor, k: Tensor, v: Tensor, causal: Mode, scale: float | None,
    bias: Tensor | None = None,
) -> None:  # fmt: skip
    """Fill `out` (batch, heads, queries, value dim) and `log`, the log-sum-exp (batch, heads, queries), with what
    `attention` gives for q, k, v; any strides. bias: added to the scores, or true where a query sees a key. Raises
    UnsupportedArgument, and leaves them as they were."""
    if bias is not None:
        _attend_with(out, log, q, k, v, causal, scale, bias)
        return
    tensors = (q, k, v, out, *(() if log is None else (log,)))
    try:
        key = (*[kind_of_tensor("a tensor", t) for t in tensors], causal, scale)
        fill = _ready.get(key)
    except Exception:
        _check(q, k, v)
        raise
    if fill is not None:
        fill(_by_key_heads(tensors))
        return
    _check(q, k, v)
    if 0 in (*out.shape, *k.shape):
        out.zero_()
        if log is not None:
            log.fill_(-torch.inf)
        return
    problem = attention_problem(
        batch=q.shape[0], heads=q.shape[1], kv_heads=k.shape[1], seq=q.shape[2], kv_seq=k.shape[2],
        head_dim=q.shape[3], value_dim=v.shape[3], dtype=dtype_name(q, "q"), causal=causal, scale=scale,
        variant=None if log is None else Attention(lse=True),
    )  # fmt: skip
    fill = serve(problem, _by_key_heads(tensors))
    if q.device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        _ready[key] = fill


def _by_key_heads(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """With the queries' heads in groups, one for each head of the keys."""
    q, k, v, *made = tensors
    if q.shape[1] == k.shape[1]:
        return tensors
    groups = (k.shape[1], q.shape[1] // k.shape[1])
    return (torch.unflatten(q, 1, groups), k, v, *(torch.unflatten(t, 1, groups) for t in made))


def _attend_with(
    out: Tensor, log: Tensor | None, q: Tensor, k: Tensor, v: Tensor, causal: Mode, scale: float | None, bias: Tensor
) -> None:
    # An axis along which nothing changes is one element that is broadcast, however it was expanded.
    for axis, stride in enumerate(bias.stride()):
        if stride == 0 and bias.shape[axis] > 1:
            bias = bias.narrow(axis, 0, 1)
    given: dict[str, Any] = {"mask" if bias.dtype == torch.bool else "bias": bias}
    with torch.no_grad():  # what is recorded is recorded around this
        if log is None:
            out.copy_(attention(q, k, v, causal=causal or False, scale=scale, **given))
            return
        made, logs = attention(q, k, v, causal=causal or False, scale=scale, return_lse=True, **given)
    out.copy_(made)
    log.copy_(logs)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, t in (("q", q), ("k", k), ("v", v)):
        check_plain(name, t)
    check_kinds(q, k, v)
    for rule, holds in rules(q, k, v):
        if not holds:
            raise UnsupportedArgument(broken(rule, q, k, v))
