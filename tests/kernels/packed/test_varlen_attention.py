"""`eintune.varlen_attention`: packed sequences of any lengths, against each by itself in float64."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_reference import drawn, packed
from torch import Tensor

import eintune
from eintune.kernels.packed import calls
from eintune.kernels.serve.errors import UnsupportedArgument

H, KV, D, F = 4, 2, 16, 8


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests here, so that what was derived is derived once."""
    folder = tmp_path_factory.getbasetemp() / "packed"
    monkeypatch.setenv("EINTUNE_CACHE", str(folder))
    return folder


def cumulated(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


QUERIES, KEYS = [5, 0, 7, 1, 8, 3], [9, 7, 0, 8, 21, 2]
"""Without queries, without keys, one query, and more queries than keys."""
CU_Q, CU_K = cumulated(QUERIES), cumulated(KEYS)
Q, K, V = drawn(sum(QUERIES), H, D), drawn(sum(KEYS), KV, D, seed=1), drawn(sum(KEYS), KV, F, seed=2)
BY_HEAD = drawn(H, seed=3)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "causal, by name": {"causal": "lower_right", "scale": 0.3},
    "causal, top left": {"causal": "top_left", "window": 3},
    "window": {"window": 3},
    "window, causal": {"window": 1, "causal": True},
    "window to both sides": {"window_size": (2, 1)},
    "window as FlashAttention's": {"window_size": (-1, 0)},
    "a wide window": {"window_size": (2**31 - 1, 2**31 - 1)},
    "softcap": {"softcap": 2.0, "causal": True},
    "alibi": {"alibi": BY_HEAD.abs(), "causal": True},
    "alibi, top left": {"alibi": BY_HEAD, "causal": "top_left"},
    "alibi to both sides": {"alibi": BY_HEAD},
    "sinks": {"sinks": BY_HEAD, "causal": True},
    "all": {"sinks": BY_HEAD, "causal": True, "window": 4, "softcap": 1.5, "alibi": BY_HEAD, "scale": 0.5},
}
CASES = [(name, torch.float32) for name in OPTIONS]
CASES += [(name, dtype) for dtype in TOLERANCE for name in ("causal", "all") if dtype != torch.float32]


def check(made: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    (out, log), (wanted, logs) = made, exact
    assert out.dtype == dtype and out.is_contiguous()
    assert log.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    near = TOLERANCE[dtype]
    torch.testing.assert_close(out.double(), wanted, atol=near, rtol=near)
    torch.testing.assert_close(log.double(), logs, atol=near * 10, rtol=near)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_each_sequence_by_itself(name: str, dtype: torch.dtype) -> None:
    q, k, v = (t.to(dtype) for t in (Q, K, V))
    given = OPTIONS[name]
    exact = packed(q, k, v, CU_Q.tolist(), CU_K.tolist(), **given)
    check(eintune.varlen_attention(q, k, v, CU_Q, CU_K, 8, 21, return_lse=True, **given), exact, dtype)
    alone = eintune.varlen_attention(q, k, v, CU_Q.long(), CU_K.long(), **given)
    torch.testing.assert_close(alone.double(), exact[0], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_published_slopes() -> None:
    slopes = torch.tensor([2.0 ** (-8 * (h + 1) / H) for h in range(H)])
    exact = packed(Q, K, V, CU_Q.tolist(), CU_K.tolist(), alibi=slopes, causal=True)
    check(eintune.varlen_attention(Q, K, V, CU_Q, CU_K, alibi=True, causal=True, return_lse=True), exact, torch.float32)


def test_keys_are_the_queries_own_unless_said() -> None:
    q, k, v = drawn(24, H, D), drawn(24, H, D, seed=1), drawn(24, H, D, seed=2)
    cu = cumulated(QUERIES)
    exact = packed(q, k, v, cu.tolist(), cu.tolist(), causal=True)
    check(eintune.varlen_attention(q, k, v, cu, causal=True, return_lse=True), exact, torch.float32)


def test_some_keys_are_used() -> None:
    used = [4, 9, 0, 8, 0, 1]  # more than there are, too
    exact = packed(Q, K, V, CU_Q.tolist(), CU_K.tolist(), used, causal=True)
    made = eintune.varlen_attention(Q, K, V, CU_Q, CU_K, causal=True, seqused_k=torch.tensor(used), return_lse=True)
    check(made, exact, torch.float32)


def test_what_is_padded_is_not_seen() -> None:
    """Tokens beyond the last sequence, which a batch of a fixed size has, and keys that are not used."""
    more_q, more_k, more_v = (torch.cat([t, torch.full_like(t[:20], torch.nan)]) for t in (Q, K, V))
    used = torch.tensor([4, 7, 0, 2, 21, 1])
    for n, (start, length) in enumerate(zip(CU_K.tolist(), KEYS, strict=False)):
        more_k[start + int(used[n]) : start + length] = torch.nan
        more_v[start + int(used[n]) : start + length] = torch.inf
    exact = packed(Q, K, V, CU_Q.tolist(), CU_K.tolist(), used.tolist(), causal=True, sinks=BY_HEAD)
    out, log = eintune.varlen_attention(
        more_q, more_k, more_v, CU_Q, CU_K, causal=True, seqused_k=used, sinks=BY_HEAD, return_lse=True
    )
    check((out[:24].contiguous(), log[:, :24]), exact, torch.float32)
    assert not out[24:].any()


def test_other_lengths_make_no_other_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does another batch, nor a window, nor whether it is causal."""
    import eintune.kernels.serve.any_size as any_size

    made: list[str] = []
    emit = any_size.emit

    def emitted(*given: Any) -> Any:
        kernel = emit(*given)
        made.append(kernel.source)
        return kernel

    monkeypatch.setattr(any_size, "emit", emitted)
    for n, (queries, keys) in enumerate([([3, 295, 1], [70, 235, 9]), ([250, 71], [302, 31]), ([37] * 9, [37] * 9)]):
        q, k, v = drawn(sum(queries), H, D), drawn(sum(keys), KV, D, seed=1), drawn(sum(keys), KV, D, seed=2)
        options = [{"causal": True}, {"window": 7}, {"window_size": (-1, 3)}][n]
        exact = packed(q, k, v, cumulated(queries).tolist(), cumulated(keys).tolist(), **options)
        out = eintune.varlen_attention(q, k, v, cumulated(queries), cumulated(keys), **options)
        torch.testing.assert_close(out.double(), exact[0], atol=2e-6, rtol=2e-6)
    assert len(set(made)) == 1


@pytest.mark.parametrize("sinks", [None, BY_HEAD])
def test_nothing_at_all(sinks: Tensor | None) -> None:
    none = torch.zeros(1, dtype=torch.int32)
    for q, k, v, cu_q, cu_k in (
        (Q[:0], K, V, CU_Q * 0, CU_K),
        (Q, K[:0], V[:0], CU_Q, CU_K * 0),
        (Q[:0], K[:0], V[:0], none, none),
        (Q, K, V, none, none),
    ):
        out, log = eintune.varlen_attention(q, k, v, cu_q, cu_k, sinks=sinks, return_lse=True)
        assert out.shape == (len(q), H, F) and not out.any()
        wanted = torch.full((H, len(q)), -math.inf) if sinks is None else sinks[:, None].expand(H, len(q))
        torch.testing.assert_close(log, wanted)


def test_strides_and_packed_projections() -> None:
    """q, k and v of one projection, (total, 3, heads, dim), as models have them."""
    whole = drawn(24, 3, H, D)
    q, k, v = whole.unbind(1)
    exact = packed(q, k, v, CU_Q.tolist(), CU_Q.tolist(), causal=True)
    check(eintune.varlen_attention(q, k, v, CU_Q, causal=True, return_lse=True), exact, torch.float32)
    q = Q.transpose(0, 1).contiguous().transpose(0, 1)
    made = eintune.varlen_attention(q, K, V, CU_Q, CU_K, return_lse=True)
    check(made, packed(Q, K, V, CU_Q.tolist(), CU_K.tolist()), torch.float32)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "axes": ({"q": Q[None]}, "`q` must have 3 axes"),
    "dtypes": ({"k": K.double()}, "`k` must have the dtype and device of `q`"),
    "integers": ({"q": Q.int(), "k": K.int(), "v": V.int()}, "`q` must have a dtype among"),
    "no tensor": ({"v": 3}, "`v` must be a torch.Tensor, but got int"),
    "lengths as floats": ({"cu_seq_q": CU_Q.float()}, "`cu_seq_q` must be an int32 or int64 tensor of 1 axes"),
    "lengths of another batch": ({"cu_seq_k": CU_K[:-1]}, "`cu_seq_q` and `cu_seq_k` must have sequences + 1"),
    "no lengths": ({"cu_seq_q": CU_Q[:0], "cu_seq_k": CU_Q[:0]}, "must have sequences + 1 elements"),
    "lengths as a list": ({"cu_seq_q": CU_Q.tolist()}, "`cu_seq_q` must be a torch.Tensor, but got list"),
    "keys and values": ({"v": V[1:]}, "`k` and `v` must agree in total and heads"),
    "heads": ({"k": K[:, [0, 0, 0]], "v": V[:, [0, 0, 0]]}, "heads of `q` must be a multiple"),
    "head dims": ({"k": K[..., :8]}, "queries and keys must agree in head_dim"),
    "used": ({"seqused_k": CU_K}, "`seqused_k` must have an element for each sequence"),
    "sinks": ({"sinks": BY_HEAD[:3]}, "`sinks` must have shape (heads,)"),
    "sinks as integers": ({"sinks": BY_HEAD.int()}, "`sinks` must be a floating-point tensor"),
    "alibi": ({"alibi": 0.5}, "`alibi` must be a tensor (heads,), or True"),
    "causal": ({"causal": "upper"}, "`causal` must be False, True, 'lower_right' or 'top_left'"),
    "window": ({"window": 0}, "`window` must be a positive integer"),
    "two windows": ({"window": 3, "window_size": (2, 0)}, "`window` and `window_size` are two ways"),
    "window of floats": ({"window_size": (2.0, 0)}, "`window_size` must be (left, right)"),
    "softcap": ({"softcap": -1.0}, "`softcap` must be a positive number"),
    "scale": ({"scale": math.nan}, "`scale` must be a finite number or None"),
    "scale as a list": ({"scale": [1]}, "`scale` must be a number, but got list"),
    "return_lse": ({"return_lse": 1}, "`return_lse` must be True or False"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    changed, said = REFUSED[name]
    given: dict[str, Any] = {"q": Q, "k": K, "v": V, "cu_seq_q": CU_Q, "cu_seq_k": CU_K} | changed
    with pytest.raises(UnsupportedArgument) as caught:
        eintune.varlen_attention(**given)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_alibi_counts_keys_that_float32_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_PLACES", 40)
    with pytest.raises(UnsupportedArgument, match="`alibi` counts keys in float32: there must be at most"):
        eintune.varlen_attention(Q, K, V, CU_Q, CU_K, alibi=BY_HEAD, scale=0.123)
