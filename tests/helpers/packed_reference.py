"""Attention of packed sequences as it is written down: sequence by sequence, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def one_sequence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: object = False,
    scale: float | None = None,
    window: int | None = None,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float | None = None,
    alibi: Tensor | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Of one sequence, (queries, heads, head dim) and (keys, kv heads, head dim): the output, and the log-sum-exp
    (heads, queries)."""
    queries, keys, heads = q.shape[0], k.shape[0], q.shape[1]
    groups = heads // k.shape[1]
    q, k, v = (t.double().transpose(0, 1) for t in (q, k, v))
    s = q @ k.repeat_interleave(groups, 0).mT * (1 / math.sqrt(q.shape[2]) if scale is None else scale)
    stands = torch.arange(queries)[:, None] + (0 if causal == "top_left" else keys - queries)
    m = torch.arange(keys)
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    if alibi is not None:
        s = s + alibi.double()[:, None, None] * (m - stands)
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if causal:
        seen &= m <= stands
    if window is not None:
        seen &= stands - m < window
    left, right = window_size
    seen &= (left < 0) | (stands - m <= left)
    seen &= (right < 0) | (m - stands <= right)
    s = s.masked_fill(~seen, -math.inf)
    sink = s[..., :0] if sinks is None else sinks.double()[:, None, None].expand(heads, queries, 1)
    whole = torch.cat([s, sink], -1)
    weights = torch.softmax(whole, -1)[..., :keys].nan_to_num(0.0)
    return (weights @ v.repeat_interleave(groups, 0)).transpose(0, 1), torch.logsumexp(whole, -1)


def packed(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Sequence[int], cu_k: Sequence[int], used: Sequence[int] | None = None,
    **options: object,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Of every sequence, one after another; what lies beyond the last is 0, and has the sinks alone."""
    out = torch.zeros(*q.shape[:2], v.shape[2], dtype=torch.float64)
    log = torch.full((q.shape[1], q.shape[0]), -math.inf, dtype=torch.float64)
    if isinstance(sinks := options.get("sinks"), Tensor):
        log[:] = sinks.double()[:, None]
    for n in range(len(cu_q) - 1):
        rows, first = slice(cu_q[n], cu_q[n + 1]), cu_k[n]
        keys = slice(first, cu_k[n + 1] if used is None else min(first + used[n], cu_k[n + 1]))
        out[rows], log[:, rows] = one_sequence(q[rows], k[keys], v[keys], **options)  # type: ignore[arg-type]
    return out, log


def in_cache(
    k: Sequence[Tensor], v: Sequence[Tensor], page: int, more_pages: int = 1, seed: int = 0, junk: float = math.nan
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A cache in pages that holds sequences' keys and values (keys, heads, dim), in no order, its table and the
    lengths. Whatever no key lies in is `junk`, and what the table has beyond a sequence points nowhere."""
    generator = torch.Generator().manual_seed(seed)
    pages = [-(-len(t) // page) for t in k]
    count, widest = sum(pages) + more_pages, max(pages) + 1
    caches = [t[0].new_full((count, page, *t[0].shape[1:]), junk) for t in (k, v)]
    order, table = torch.randperm(count, generator=generator), torch.full((len(k), widest), -1, dtype=torch.int32)
    taken = 0
    for n, used in enumerate(pages):
        table[n, :used] = order[taken : taken + used]
        taken += used
        for cache, t in zip(caches, (k[n], v[n]), strict=True):
            for at, part in enumerate(t.split(page)):
                cache[table[n, at], : len(part)] = part
    return *caches, table, torch.tensor([len(t) for t in k], dtype=torch.int32)
