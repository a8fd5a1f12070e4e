"""Packed and paged calls on a GPU against each sequence by itself in float64, their gradients, and PyTorch's seam."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from packed_reference import drawn, in_cache, packed
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import eintune

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 3e-2}
"""TF32 products, as PyTorch's own attention in float32 has them."""
H, KV, D = 8, 2, 64
LENGTHS = [100, 1, 257, 33]
BY_HEAD = drawn(H, seed=3)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"causal": True, "window": 40},
    "all": {"causal": True, "window": 70, "softcap": 5.0, "alibi": BY_HEAD.abs(), "sinks": BY_HEAD},
}


def on_gpu(given: Any) -> Any:
    return given.cuda() if isinstance(given, Tensor) else given


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", OPTIONS)
def test_packed_sequences(name: str, dtype: torch.dtype) -> None:
    cu = [0, *itertools.accumulate(LENGTHS)]
    q, k, v = (drawn(cu[-1], h, D, seed=n, dtype=dtype) for n, h in enumerate((H, KV, KV)))
    exact, log = packed(q, k, v, cu, cu, **OPTIONS[name])
    given = {n: on_gpu(x) for n, x in OPTIONS[name].items()}
    bounds = torch.tensor(cu, dtype=torch.int32, device="cuda")
    made, lse = eintune.varlen_attention(
        q.cuda(), k.cuda(), v.cuda(), bounds, bounds, 257, 257, return_lse=True, **given
    )
    torch.testing.assert_close(made.cpu().double(), exact, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(lse.cpu().double(), log, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("queries", [[1, 1, 1, 1], [5, 1, 40, 2]], ids=["decode", "mixed"])
def test_pages(queries: list[int], name: str, dtype: torch.dtype) -> None:
    keys = [100, 7, 257, 33]
    k, v = ([drawn(n, KV, D, seed=n + s, dtype=dtype) for n in keys] for s in (0, 50))
    kc, vc, table, used = in_cache(k, v, 16)
    cu_q, cu_k = ([0, *itertools.accumulate(x)] for x in (queries, keys))
    q = drawn(cu_q[-1], H, D, seed=9, dtype=dtype)
    options = {"causal": True, **OPTIONS[name]}
    exact, _ = packed(q, torch.cat(k), torch.cat(v), cu_q, cu_k, **options)
    moved = (t.cuda() for t in (q, kc, vc, table, used))
    made = eintune.paged_attention(
        *moved, cu_seq_q=torch.tensor(cu_q, dtype=torch.int32, device="cuda"), max_q=max(queries),
        **{n: on_gpu(x) for n, x in options.items()},
    )  # fmt: skip
    torch.testing.assert_close(made.cpu().double(), exact, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_packed_sequences(causal: bool) -> None:
    cu = [0, *itertools.accumulate(LENGTHS)]
    bounds = torch.tensor(cu, dtype=torch.int32, device="cuda")
    q, k, v = (drawn(cu[-1], h, D, seed=n).cuda().bfloat16().requires_grad_() for n, h in enumerate((H, KV, KV)))
    made = eintune.varlen_attention(q, k, v, bounds, bounds, 257, 257, causal=causal)
    cotangent = torch.randn_like(made)
    found = torch.autograd.grad(made, (q, k, v), cotangent)
    for n in range(len(LENGTHS)):
        rows = slice(cu[n], cu[n + 1])
        alone = [t.detach()[rows].transpose(0, 1)[None].double().requires_grad_() for t in (q, k, v)]
        wanted = F.scaled_dot_product_attention(*alone, is_causal=causal, enable_gqa=True)
        exact = torch.autograd.grad(wanted, alone, cotangent[rows].transpose(0, 1)[None].double())
        for g, e in zip(found, exact, strict=True):
            torch.testing.assert_close(g[rows].transpose(0, 1)[None].double(), e, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize(
    "backend", [None, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
)
@pytest.mark.parametrize("causal", [False, True])
def test_pytorchs_own_calls(causal: bool, backend: SDPBackend | None) -> None:
    q, k, v = (drawn(2, 4, 300, 64, seed=n).cuda().bfloat16().requires_grad_() for n in range(3))

    def run() -> tuple[Tensor, ...]:
        if backend is None:
            made = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        else:
            with sdpa_kernel(backend):
                made = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return made, *torch.autograd.grad(made.float().square().sum(), (q, k, v))

    theirs = run()
    with eintune.activate():
        ours = run()
        with torch.no_grad():
            alone = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=3e-2, rtol=3e-2)
    torch.testing.assert_close(alone, theirs[0], atol=3e-2, rtol=3e-2)
    assert math.isfinite(float(alone.sum()))
