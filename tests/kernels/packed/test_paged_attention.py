"""`eintune.paged_attention`: one query a sequence, several, and prompts and single queries mixed, over a cache in pages
whose unused places hold NaN, against each sequence by itself in float64."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_reference import drawn, in_cache, one_sequence, packed
from torch import Tensor

import eintune
from eintune.host.recent import Recent
from eintune.kernels.packed import calls
from eintune.kernels.serve import serving
from eintune.kernels.serve.errors import UnsupportedArgument

H, KV, D, F, PAGE = 4, 2, 16, 8, 8


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests here, so that what was derived is derived once."""
    folder = tmp_path_factory.getbasetemp() / "packed"
    monkeypatch.setenv("EINTUNE_CACHE", str(folder))
    return folder


KEYS = [9, 0, 16, 1, 27]
"""Part of a page, none, whole pages, one key."""
K = [drawn(n, KV, D, seed=n) for n in KEYS]
V = [drawn(n, KV, F, seed=n + 50) for n in KEYS]
KC, VC, TABLE, USED = in_cache(K, V, PAGE)
BY_HEAD = drawn(H, seed=3)
QUERIES = [6, 2, 1, 0, 5]
"""A prompt, queries without keys, a single one, none, a few after many."""
CU_Q = torch.tensor([0, *itertools.accumulate(QUERIES)], dtype=torch.int32)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "top left": {"causal": "top_left"},
    "window": {"causal": True, "window": 4},
    "window as FlashAttention's": {"window_size": (5, 2)},
    "softcap": {"causal": True, "softcap": 2.0, "scale": 0.5},
    "alibi": {"causal": True, "alibi": BY_HEAD.abs()},
    "sinks": {"causal": True, "sinks": BY_HEAD},
    "all": {"causal": True, "window": 7, "softcap": 1.5, "alibi": BY_HEAD, "sinks": BY_HEAD},
}
CASES = [(name, torch.float32) for name in OPTIONS]
CASES += [(name, dtype) for dtype in TOLERANCE for name in ("causal", "all") if dtype != torch.float32]


def check(made: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], dtype: torch.dtype = torch.float32) -> None:
    near = TOLERANCE[dtype]
    assert made[0].dtype == dtype and made[0].is_contiguous()
    torch.testing.assert_close(made[0].double(), exact[0], atol=near, rtol=near)
    torch.testing.assert_close(made[1].double(), exact[1], atol=near * 10, rtol=near)


def each(q: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Of queries (batch, queries, heads, head dim)."""
    found = [one_sequence(q[n], K[n].to(q.dtype), V[n].to(q.dtype), **options) for n in range(len(K))]
    outs, logs = zip(*found, strict=True)
    return torch.stack(outs), torch.stack(logs)


@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.parametrize("queries", [1, 3])
def test_as_many_queries_of_each(queries: int, name: str, dtype: torch.dtype) -> None:
    q, given = drawn(len(K), queries, H, D, dtype=dtype), OPTIONS[name]
    exact = each(q, **given)
    check(eintune.paged_attention(q, KC.to(dtype), VC.to(dtype), TABLE, USED, return_lse=True, **given), exact, dtype)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_prompts_and_single_queries_in_one_batch(name: str, dtype: torch.dtype) -> None:
    q, given = drawn(sum(QUERIES) + 2, H, D, dtype=dtype), OPTIONS[name]
    k, v = (torch.cat([x.to(dtype) for x in t]) for t in (K, V))
    exact = packed(q, k, v, CU_Q.tolist(), [0, *itertools.accumulate(KEYS)], **given)
    made = eintune.paged_attention(
        q, KC.to(dtype), VC.to(dtype), TABLE, USED, cu_seq_q=CU_Q, max_q=6, return_lse=True, **given
    )
    check(made, exact, dtype)
    assert not made[0][sum(QUERIES) :].any()


def test_one_query_a_sequence_without_an_axis() -> None:
    q = drawn(len(K), H, D)
    out, log = eintune.paged_attention(q, KC, VC, TABLE, USED, window=3, return_lse=True)
    exact = each(q[:, None], window=3)
    check((out, log), (exact[0][:, 0], exact[1][..., 0]))
    alone = eintune.paged_attention(q, KC, VC, TABLE, USED, window=3)
    torch.testing.assert_close(alone, out)


def test_as_packed_keys_are() -> None:
    """A cache in pages and the same keys one after another, of whole numbers that have other types."""
    q, cu = drawn(sum(QUERIES), H, D), torch.tensor([0, *itertools.accumulate(KEYS)])
    made = eintune.paged_attention(q, KC, VC, TABLE.long(), USED.long(), cu_seq_q=CU_Q.long(), causal=True)
    torch.testing.assert_close(made, eintune.varlen_attention(q, torch.cat(K), torch.cat(V), CU_Q, cu, causal=True))


@pytest.mark.parametrize("padding", [-1, 0, 2**31 - 1])
def test_what_the_table_has_beyond_a_sequence_may_be_anything(padding: int) -> None:
    table = torch.where(torch.arange(TABLE.shape[1]) * PAGE < USED[:, None], TABLE, padding)
    q, packed_q = drawn(len(K), 3, H, D), drawn(sum(QUERIES), H, D)
    check(eintune.paged_attention(q, KC, VC, table, USED, causal=True, return_lse=True), each(q, causal=True))
    made = eintune.paged_attention(packed_q, KC, VC, table, USED, cu_seq_q=CU_Q)
    assert torch.equal(made, eintune.paged_attention(packed_q, KC, VC, TABLE, USED, cu_seq_q=CU_Q))


def test_plain_operators_do_as_kernels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no kernel serves: the table has what points nowhere here, too."""
    monkeypatch.setattr(serving, "choices", lambda *given: iter(()))
    monkeypatch.setattr(calls, "_ready", Recent(8))
    clean = [t.nan_to_num(0.0) for t in (KC, VC)]  # operators weigh what nobody sees with 0
    q = drawn(len(K), 3, H, D)
    check(eintune.paged_attention(q, *clean, TABLE, USED, causal=True, return_lse=True), each(q, causal=True))


def test_sizes_that_are_priced_rounded_fit_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """More keys than a table has room for were no problem that any kernel serves."""
    monkeypatch.setattr(serving, "by_operators", None)
    keys = [drawn(n, KV, D, seed=n) for n in (385, 3)]
    caches = in_cache(keys, keys, 16)
    assert caches[2].shape[1] == 26
    q = drawn(6, H, D)
    made = eintune.paged_attention(q, *caches, cu_seq_q=torch.tensor([0, 3, 6], dtype=torch.int32))
    exact = packed(q, *[torch.cat(keys)] * 2, [0, 3, 6], [0, 385, 388])
    torch.testing.assert_close(made.double(), exact[0], atol=2e-6, rtol=2e-6)


def test_a_length_beyond_the_table_is_that_of_the_table() -> None:
    whole = torch.full_like(USED, KC.shape[1] * 2)
    q, caches = drawn(len(K), 3, H, D), [t.nan_to_num(0.5) for t in (KC, VC)]
    table = TABLE[:, :2].clamp(0, KC.shape[0] - 1)
    made = eintune.paged_attention(q, *caches, table, whole + 5, causal=True)
    assert torch.equal(made, eintune.paged_attention(q, *caches, table, whole, causal=True))


def test_pages_that_sequences_share() -> None:
    """A prompt that several sequences begin with is in the cache once."""
    table, used = TABLE[[4, 4, 4]], torch.tensor([16, 27, 20])
    q = drawn(3, 1, H, D)
    for n, made in enumerate(eintune.paged_attention(q, KC, VC, table, used, causal=True)):
        wanted, _ = one_sequence(q[n], K[4][: used[n]], V[4][: used[n]], causal=True)
        torch.testing.assert_close(made.double(), wanted, atol=2e-6, rtol=2e-6)


def test_nothing_at_all() -> None:
    for table, used, q, more in (
        (TABLE[:0], USED[:0], drawn(0, 2, H, D), {}),
        (TABLE[:, :0], USED, drawn(5, 2, H, D), {}),
        (TABLE[:0], USED[:0], drawn(3, H, D), {"cu_seq_q": CU_Q[:1]}),
        (TABLE, USED * 0, drawn(5, 1, H, D), {}),
        (TABLE, USED, drawn(0, H, D), {"cu_seq_q": CU_Q * 0}),
    ):
        out, log = eintune.paged_attention(q, KC, VC, table, used, return_lse=True, **more)
        assert out.shape == (*q.shape[:-1], F) and not out.any() and (log == -math.inf).all()


def test_strides_of_caches() -> None:
    """Keys and values in one buffer, and caches whose heads come before their places."""
    q = drawn(len(K), 3, H, D)
    both = torch.stack([KC, KC], 1)
    exact = [one_sequence(q[n], K[n], K[n], causal=True)[0] for n in range(len(K))]
    made = eintune.paged_attention(q, both[:, 0], both[:, 1], TABLE, USED, causal=True)
    torch.testing.assert_close(made.double(), torch.stack(exact), atol=2e-6, rtol=2e-6)
    k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (KC, VC))
    check(eintune.paged_attention(q, k, v, TABLE, USED, causal=True, return_lse=True), each(q, causal=True))


Q = drawn(len(K), 2, H, D)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "axes": ({"q": Q[0, 0]}, "`q` must have the axes (batch, queries, heads, head_dim), or"),
    "axes beside lengths": ({"cu_seq_q": CU_Q}, "its shape is (5, 2, 4, 16) beside `cu_seq_q`"),
    "a cache without pages": ({"k_cache": KC[0]}, "`k_cache` must have 4 axes (blocks, block_size, kv_heads, head_dim"),
    "dtypes": ({"v_cache": VC.double()}, "`v_cache` must have the dtype and device of `q`"),
    "a table of floats": ({"block_table": TABLE.float()}, "`block_table` must be an int32 or int64 tensor of 2 axes"),
    "lengths": ({"cache_seqlens": USED[1:]}, "`block_table` and `cache_seqlens` must agree in batch"),
    "lengths as a list": ({"cache_seqlens": KEYS}, "`cache_seqlens` must be a torch.Tensor, but got list"),
    "batches": ({"q": Q[:3]}, "`q` and `block_table` must agree in batch"),
    "packed without lengths": ({"q": Q.flatten(0, 1)}, "queries of several lengths need `cu_seq_q`"),
    "packed lengths": ({"q": Q.flatten(0, 1), "cu_seq_q": CU_Q[1:]}, "`cu_seq_q` must have batch + 1 elements"),
    "caches": ({"v_cache": VC[:-1]}, "`k_cache` and `v_cache` must agree in blocks, block_size and kv_heads"),
    "no places": ({"k_cache": KC[:, :0], "v_cache": VC[:, :0]}, "`k_cache` must have a block_size of at least 1"),
    "room": (
        {"block_table": TABLE[:, :1].expand(5, 2**28), "cache_seqlens": USED},
        "room for at most 2**30 keys, but got",
    ),
    "heads": ({"q": Q[:, :, :3]}, "heads of `q` must be a multiple"),
    "head dims": ({"q": Q[..., :8]}, "queries and keys must agree in head_dim"),
    "gradients": ({"q": Q.clone().requires_grad_()}, "eintune.paged_attention is forward only"),
    "sinks": ({"sinks": BY_HEAD[:3]}, "`sinks` must have shape (heads,)"),
    "window": ({"window": -1}, "`window` must be a positive integer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    changed, said = REFUSED[name]
    given: dict[str, Any] = {"q": Q, "k_cache": KC, "v_cache": VC, "block_table": TABLE, "cache_seqlens": USED}
    with pytest.raises(UnsupportedArgument) as caught:
        eintune.paged_attention(**given | changed)
    assert said in str(caught.value) and "\n" not in str(caught.value)
