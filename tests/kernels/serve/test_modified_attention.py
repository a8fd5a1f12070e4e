"""`eintune.attention` with modifiers and with functions, and PyTorch's signature with masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import eintune
from eintune.kernels.serve import attention as runtime
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.space.tracing.functions import cos

B, H, KV, P, M, E, F = 2, 4, 2, 19, 23, 16, 8
ROWS, KEYS = torch.arange(P)[:, None], torch.arange(M)[None, :]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests here, so that what was derived is derived once."""
    folder = tmp_path_factory.getbasetemp() / "modified"
    monkeypatch.setenv("EINTUNE_CACHE", str(folder))
    return folder


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = drawn(B, H, P, E), drawn(B, KV, M, E, seed=1), drawn(B, KV, M, F, seed=2)
WHOLE_V = V.repeat_interleave(H // KV, 1)
SCORES = Q @ K.repeat_interleave(H // KV, 1).mT / math.sqrt(E)
PER_HEAD = drawn(H, seed=3)
AN_ARRAY = PER_HEAD.numpy()
DOCUMENTS = (torch.arange(M) // 6).expand(B, M)
HEADS = PER_HEAD[None, :, None, None]


TABLE = drawn(H, P + M - 1, seed=9)
DISTANCES = ROWS - KEYS
BUCKETS = (torch.arange(P + M - 1) * 7) % 11
PAIRS = DOCUMENTS[:, None] * 2 - DOCUMENTS[:, 1 : P + 1, None]
NEAR = torch.arange(M) % 3 < 2


def attend(scores: Tensor, seen: Tensor | None = None) -> Tensor:
    scores = scores if seen is None else scores.masked_fill(~seen, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ WHOLE_V


CASES: list[tuple[dict[str, Any], Tensor]] = [
    ({"causal": True, "window": 4}, attend(SCORES, (KEYS <= ROWS) & (ROWS - KEYS < 4))),
    (
        {"causal": "lower_right", "window": 3},
        attend(SCORES, (KEYS <= ROWS + 4) & (ROWS + 4 - KEYS < 3)),
    ),
    ({"window": 2, "window_both": True}, attend(SCORES, (ROWS - KEYS).abs() < 2)),
    ({"prefix": 7}, attend(SCORES, (KEYS <= ROWS) | (KEYS < 7))),
    ({"softcap": 2.0, "alibi": PER_HEAD}, attend(2 * torch.tanh(SCORES / 2) + HEADS * (KEYS - ROWS))),
    (
        {"alibi": True},
        attend(SCORES + 2.0 ** (-8 * (torch.arange(H) + 1.0) / H)[:, None, None].double() * (KEYS - ROWS)),
    ),
    ({"bias": drawn(H, 1, M, seed=4), "head_scale": PER_HEAD}, attend(SCORES * HEADS + drawn(H, 1, M, seed=4))),
    ({"bias": torch.ones(1, 1).double()}, attend(SCORES)),
    ({"mask": KEYS % 3 < ROWS % 4}, attend(SCORES, KEYS % 3 < ROWS % 4)),
    (
        {"documents": (DOCUMENTS[:, :P], DOCUMENTS)},
        attend(SCORES, DOCUMENTS[:, None, :P, None] == DOCUMENTS[:, None, None]),
    ),
    (
        {"documents": (DOCUMENTS[0, :P].int(), DOCUMENTS[0].int())},
        attend(SCORES, DOCUMENTS[0, :P, None] == DOCUMENTS[0]),
    ),
    ({"sigmoid": True}, torch.sigmoid(SCORES) @ WHOLE_V),
    (
        {"score_mod": lambda s, b, h, p, m: s + PER_HEAD[h] * (m - p), "mask_mod": lambda b, h, p, m: p - m < 5},
        attend(SCORES + HEADS * (KEYS - ROWS), ROWS - KEYS < 5),
    ),
    ({"relative_bias": TABLE}, attend(SCORES + TABLE[:, DISTANCES + M - 1])),
    (
        {"relative_bias": TABLE, "causal": True, "window": 6},
        attend(SCORES + TABLE[:, DISTANCES + M - 1], (KEYS <= ROWS) & (DISTANCES < 6)),
    ),
    (
        {"score_mod": lambda s, b, h, p, m: s + TABLE[h, torch.clamp(p - m, min=-5, max=4) + 5]},
        attend(SCORES + TABLE[:, DISTANCES.clamp(-5, 4) + 5]),
    ),
    (
        {"score_mod": lambda s, b, h, p, m: s + TABLE[h, abs(p - m)], "mask_mod": lambda b, h, p, m: p - m < 5},
        attend(SCORES + TABLE[:, DISTANCES.abs()], DISTANCES < 5),
    ),
    (
        {"score_mod": lambda s, b, h, p, m: s + TABLE[h, BUCKETS[p - m + 22]]},
        attend(SCORES + TABLE[:, BUCKETS[DISTANCES + 22]]),
    ),
    (
        {"score_mod": lambda s, b, h, p, m: s + TABLE[h, (p // 4 - m // 4 + 5) * 4 + p % 4]},
        attend(SCORES + TABLE[:, (ROWS // 4 - KEYS // 4 + 5) * 4 + ROWS % 4]),
    ),
    (
        {"score_mod": lambda s, b, h, p, m: s + TABLE[h, DOCUMENTS[b, m] * 2 - DOCUMENTS[b, p + 1]]},
        attend(SCORES + (TABLE[:, PAIRS.clamp(min=0)] * (PAIRS >= 0)).transpose(0, 1)),
    ),
    (
        {
            "score_mod": lambda s, b, h, p, m: s**3 + torch.sin(s) * cos(s),
            "mask_mod": lambda b, h, p, m: NEAR[abs(p - m)],
        },
        attend(SCORES**3 + torch.sin(SCORES) * torch.cos(SCORES), NEAR[DISTANCES.abs()]),
    ),
    ({"mask_mod": lambda b, h, p, m: (m <= p) | (m < 5)}, attend(SCORES, (KEYS <= ROWS) | (KEYS < 5))),
    ({"mask_mod": lambda b, h, p, m: DOCUMENTS[b, m] > 7}, torch.zeros(B, H, P, F)),
    ({"mask_mod": lambda b, h, p, m: (m <= p) & False}, torch.zeros(B, H, P, F)),
    ({"prefix": 7, "causal": True}, attend(SCORES, (KEYS <= ROWS) | (KEYS < 7))),
    ({"prefix": 7, "causal": "lower_right"}, attend(SCORES, (KEYS <= ROWS + M - P) | (KEYS < 7))),
]


def published(heads: int) -> list[float]:
    """The slopes of the paper's own code, for heads of any number."""
    closest = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (h + 1) / closest) for h in range(closest)]
    return first if heads == closest else first + published(2 * closest)[0::2][: heads - closest]


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 3), (6, 2), (8, 8), (12, 12), (20, 5)])
def test_standard_slopes_are_the_published_ones(heads: int, kv_heads: int) -> None:
    q, k, v = drawn(1, heads, 5, 8), drawn(1, kv_heads, 7, 8, seed=1), drawn(1, kv_heads, 7, 8, seed=2)
    slopes = torch.tensor(published(heads), dtype=torch.float64)
    ours = eintune.attention(q, k, v, alibi=True, causal=True)
    torch.testing.assert_close(ours, eintune.attention(q, k, v, alibi=slopes, causal=True), rtol=1e-12, atol=1e-12)
    scores = q @ k.repeat_interleave(heads // kv_heads, 1).mT / math.sqrt(8)
    scores = scores + slopes[:, None, None] * (torch.arange(7) - torch.arange(5)[:, None])
    scores = scores.masked_fill(torch.arange(7) > torch.arange(5)[:, None], -math.inf)
    want = torch.softmax(scores, -1) @ v.repeat_interleave(heads // kv_heads, 1)
    torch.testing.assert_close(ours, want, rtol=1e-10, atol=1e-10)


def test_the_published_slopes_of_twelve_heads() -> None:
    """In numbers, so that nobody's formula is compared with itself."""
    want = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625, *(2**-x for x in (0.5, 1.5, 2.5, 3.5))]
    assert published(12) == pytest.approx(want, rel=1e-15)


@pytest.mark.parametrize(("rows", "keys"), [(5, 9), (9, 5), (7, 7), (1, 9), (9, 1)])
@pytest.mark.parametrize("causal", ["lower_right", True])
def test_distances_count_from_where_a_query_stands(rows: int, keys: int, causal: Any) -> None:
    """What depends on the distance itself and not on differences: log-sum-exp, sinks, sigmoid."""
    q, k, v = drawn(1, H, rows, 8), drawn(1, H, keys, 8, seed=1), drawn(1, H, keys, 8, seed=2)
    stands = torch.arange(rows)[:, None] + (keys - rows if causal == "lower_right" else 0)
    ahead = torch.arange(keys) - stands
    first = 1 - rows if causal == "lower_right" else 1 - keys  # the least distance that there is
    by_distance = torch.cos(torch.arange(first, first + rows + keys - 1) * PER_HEAD[:, None])
    seen = (ahead <= 0) & (-ahead < 4)
    plain = q @ k.mT / math.sqrt(8)
    for given, scores in (
        ({"alibi": PER_HEAD}, plain + PER_HEAD[:, None, None] * ahead),
        ({"relative_bias": by_distance}, plain + torch.cos(-ahead * PER_HEAD[:, None, None])),
    ):
        scores = scores.masked_fill(~seen, -math.inf)
        given = {**given, "causal": causal, "window": 4}
        out, lse = eintune.attention(q, k, v, **given, sinks=PER_HEAD, return_lse=True)
        whole = torch.cat([scores, PER_HEAD[:, None, None].expand(1, H, rows, 1)], -1)
        torch.testing.assert_close(out, torch.softmax(whole, -1)[..., :keys] @ v, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(lse, torch.logsumexp(whole, -1), rtol=1e-10, atol=1e-10)
        out = eintune.attention(q, k, v, **given, sigmoid=True)
        torch.testing.assert_close(out, torch.sigmoid(scores) @ v, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("arguments", "want"), CASES, ids=[" ".join(c) for c, _ in CASES])
def test_modifiers_are_pytorchs(arguments: dict[str, Any], want: Tensor) -> None:
    for _ in range(2):
        made = eintune.attention(Q, K, V, **arguments)
        torch.testing.assert_close(made, want.to(made.dtype), rtol=1e-10, atol=1e-10)


def test_sinks_and_the_log_sum_exp() -> None:
    out, lse = eintune.attention(Q, K, V, sinks=PER_HEAD, return_lse=True, causal=True)
    scores = SCORES.masked_fill(KEYS > ROWS, -math.inf)
    whole = torch.cat([scores, HEADS.expand(B, H, P, 1)], -1)
    torch.testing.assert_close(out, torch.softmax(whole, -1)[..., :M] @ WHOLE_V, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(lse, torch.logsumexp(whole, -1), rtol=1e-10, atol=1e-10)


def test_each_call_reads_its_own_tensors() -> None:
    """The same function over other tensors of the same kind is the same kernel."""
    for seed in (7, 8):
        slopes = drawn(H, seed=seed)
        made = eintune.attention(Q, K, V, score_mod=lambda s, b, h, p, m: s * slopes[h])  # noqa: B023
        torch.testing.assert_close(made, attend(SCORES * slopes[None, :, None, None]), rtol=1e-10, atol=1e-10)
    for factor in (2.0, 3.0):
        made = eintune.attention(Q, K, V, score_mod=lambda s, b, h, p, m: s * factor)  # noqa: B023
        torch.testing.assert_close(made, attend(SCORES * factor), rtol=1e-10, atol=1e-10)


def _scaled(factor: float) -> Callable[..., Any]:
    return lambda s, b, h, p, m, factor=factor: s * factor


def _scaled_by_keyword(factor: float) -> Callable[..., Any]:
    def function(s: Any, b: Any, h: Any, p: Any, m: Any, *, factor: float = factor) -> Any:
        return s * factor

    return function


@pytest.mark.parametrize("made", [_scaled, _scaled_by_keyword])
def test_a_default_is_part_of_a_function(made: Callable[[float], Callable[..., Any]]) -> None:
    for factor in (2.0, 3.0):
        out = eintune.attention(Q, K, V, score_mod=made(factor))
        torch.testing.assert_close(out, attend(SCORES * factor), rtol=1e-10, atol=1e-10)


def test_what_changes_in_place_is_read_at_each_call() -> None:
    numbers, settings = [1.0], SimpleNamespace(factor=1.0, reach=3)

    def score(s: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
        return s * numbers[0] * settings.factor

    def seen(b: Any, h: Any, p: Any, m: Any) -> Any:
        return m < settings.reach

    for numbers[0], settings.factor, settings.reach in [(2.0, 1.0, 3), (2.0, 3.0, 3), (2.0, 3.0, 5)]:
        out = eintune.attention(Q, K, V, score_mod=score, mask_mod=seen)
        want = attend(SCORES * (numbers[0] * settings.factor), settings.reach > KEYS)
        torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-10)


def test_quotients_of_positions_are_whole() -> None:
    """In float32, where 82 * (1/41) rounds to less than 2, and 7 * (1/7) term by term to less than 1."""
    n, width = 200, 8
    q, k, v = (drawn(1, 1, n, width, seed=s).float() for s in (20, 21, 22))
    scores = q.double() @ k.double().mT / math.sqrt(width)
    rows, keys = torch.arange(n)[:, None], torch.arange(n)
    for made in (lambda p, m: p // 41 == m // 41, lambda p, m: (p - m) % 7 == 0, lambda p, m: (p // 11) % 3 == m % 3):
        out = eintune.attention(q, k, v, mask_mod=lambda b, h, p, m: made(p, m))  # noqa: B023
        want = torch.softmax(scores.masked_fill(~made(rows, keys), -math.inf), -1) @ v.double()
        torch.testing.assert_close(out.double(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(P, M), (1, M), (B, 1, P, M), (H, 1, 1)])
@pytest.mark.parametrize("boolean", [True, False])
def test_masks_in_pytorchs_signature(shape: tuple[int, ...], boolean: bool) -> None:
    k, v = K.repeat_interleave(2, 1), WHOLE_V
    mask = drawn(*shape, seed=5)
    mask = mask > -0.5 if boolean else mask
    want = torch.nn.functional.scaled_dot_product_attention(Q, k, v, attn_mask=mask)
    made = eintune.scaled_dot_product_attention(Q, k, v, attn_mask=mask)
    torch.testing.assert_close(made, want.nan_to_num(0.0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("query", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "mask",
    ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64"],
)
def test_masks_have_the_dtypes_that_pytorch_takes(query: torch.dtype, mask: str) -> None:
    q, given = drawn(1, 2, 5, 8).to(query), torch.ones(5, 5).tril().to(getattr(torch, mask))
    try:
        want = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=given)
    except RuntimeError as error:
        assert "Expected attn_mask dtype to be bool" in str(error)
        with pytest.raises(UnsupportedArgument, match=rf"`attn_mask` must have dtype .*, but got torch\.{mask}$"):
            eintune.scaled_dot_product_attention(q, q, q, attn_mask=given)
        return
    made = eintune.scaled_dot_product_attention(q, q, q, attn_mask=given)
    near = 2e-2 if query == torch.bfloat16 else 1e-5
    torch.testing.assert_close(made, want, rtol=near, atol=near)


def test_masks_of_five_axes_and_of_three() -> None:
    q, k, v = drawn(3, 2, 2, 5, 4), drawn(3, 2, 2, 6, 4, seed=1), drawn(3, 2, 2, 6, 4, seed=2)
    mask = drawn(3, 1, 1, 5, 6, seed=3) > 0
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).nan_to_num(0.0)
    made = eintune.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(made, want, rtol=1e-10, atol=1e-10)
    made = eintune.scaled_dot_product_attention(q[0, 0], k[0, 0], v[0, 0], attn_mask=mask[0, 0, 0])
    torch.testing.assert_close(made, want[0, 0], rtol=1e-10, atol=1e-10)


def test_a_key_that_an_added_mask_hides_is_hidden() -> None:
    mask = torch.zeros(P, M, dtype=torch.float64)
    mask[3], mask[5, 2:] = -math.inf, -math.inf
    made = eintune.attention(Q, K, V, bias=mask)
    torch.testing.assert_close(made, attend(SCORES, mask == 0), rtol=1e-10, atol=1e-10)
    assert not made[:, :, 3].any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"colour": 1}, "modifiers are head_scale, softcap, .*but got colour$"),
        ({"windw": 3}, "but got windw .did you mean `window`"),
        ({"is_causal": True, "softmax_scale": 1.0}, "did you mean `causal` and `scale`"),
        ({"window": 0}, "`window` must be a positive integer, but got 0"),
        ({"window_both": True}, "`window_both` needs a `window`"),
        ({"softcap": -1.0}, "`softcap` must be a positive number, but got -1.0"),
        ({"softcap": "30"}, "`softcap` must be a positive number, but got '30'"),
        ({"alibi": torch.zeros(2)}, r"`alibi` must be a tensor of shape \(heads\) = \(4,\), but got \(2,\)"),
        ({"alibi": 0.5}, "but got float"),
        ({"bias": torch.zeros(3, M)}, r"`bias` must broadcast to .* = \(2, 4, 19, 23\), but its shape is \(3, 23\)"),
        ({"mask": torch.zeros(M)}, "`mask` must have dtype torch.bool, but got torch.float32"),
        ({"mask": torch.ones(M).int()}, "`mask` must have dtype torch.bool, but got torch.int32"),
        ({"bias": torch.ones(M).long()}, "`bias` must have a floating-point dtype, but got torch.int64; .* `mask`"),
        ({"bias": torch.ones(M).bool()}, "`bias` must have a floating-point dtype, but got torch.bool; .* `mask`"),
        ({"alibi": torch.ones(H).int()}, "`alibi` must have a floating-point dtype, but got torch.int32"),
        ({"sinks": torch.ones(H).bool()}, "`sinks` must have a floating-point dtype, but got torch.bool"),
        ({"head_scale": torch.ones(H).long()}, "`head_scale` must have a floating-point dtype, but got torch.int64"),
        ({"relative_bias": TABLE.int()}, "`relative_bias` must have a floating-point dtype, but got torch.int32"),
        ({"mask_mod": lambda b, h, p, m: BUCKETS[p + m]}, "a mask function returns a comparison"),
        ({"mask_mod": lambda b, h, p, m: BUCKETS[p + m] & (m <= p)}, "compare it with something"),
        (
            {"documents": torch.zeros(B, M).int()},
            r"of shape \(batch, queries\) = \(2, 19\)",
        ),
        ({"documents": (torch.zeros(P), torch.zeros(M))}, "`documents` must have dtype torch.int32 or torch.int64"),
        ({"sinks": torch.zeros(KV)}, r"`sinks` must be a tensor of shape \(heads\) = \(4,\)"),
        ({"sigmoid": True, "return_lse": True}, "need weights by softmax"),
        ({"score_mod": lambda s, b, h, p, m: s if s > 0 else -s}, "use where"),
        ({"score_mod": torch.tanh}, "must be a function, a method or a partial of one in Python"),
        (
            {"score_mod": lambda s, b, h, p, m: s * PER_HEAD[p]},
            r"`score_mod's perhead` must be .*= \(19,\)",
        ),
        ({"score_mod": lambda s, b, h, p, m: s * AN_ARRAY[h]}, "must be a torch.Tensor, but anarray is .*ndarray"),
        (
            {"relative_bias": TABLE[:, 1:]},
            r"`relative_bias` must be a tensor of shape \(heads, distances\) = \(4, 41\), but got \(4, 40\)",
        ),
        ({"relative_bias": True}, r"= \(4, 41\), but got bool"),
        (
            {"score_mod": lambda s, b, h, p, m: s + TABLE[h, p - m]},
            r"USTABLE is addressed within -22\.\.18 by a computed index, but its axis has 41 elements",
        ),
        ({"score_mod": lambda s, b, h, p, m: s + TABLE[h, p - m + 23]}, r"within 1\.\.41 .*its axis has 41 elements"),
        ({"mask_mod": lambda b, h, p, m: NEAR[p + m]}, r"UMNEAR is addressed within 0\.\.40 .*axis has 23 elements"),
        ({"score_mod": lambda s, b, h, p, m: s + TABLE[h, s]}, "an index that is no whole number of positions"),
        ({"bias": torch.zeros(M, dtype=torch.complex64)}, "must have a dtype among"),
        ({"bias": torch.zeros(M, device="meta")}, "must be on the device of `q`"),
    ],
)
def test_what_is_not_taken_is_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedArgument, match=says) as error:
        eintune.attention(Q, K, V, **arguments)
    assert "\n" not in str(error.value)


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(UnsupportedArgument, match=r"`k` must be a torch.Tensor, but got list"):
        eintune.attention(Q, [1.0], V)  # type: ignore[call-overload]


def test_a_mask_beside_causal_is_refused() -> None:
    with pytest.raises(UnsupportedArgument, match="must be None where `is_causal` is True"):
        eintune.scaled_dot_product_attention(Q, Q, Q, attn_mask=torch.ones(P, P).bool(), is_causal=True)


EMPTY = {
    "plain lse": {"return_lse": True},
    "causal": {"causal": "lower_right", "window": 3},
    "head scale": {"head_scale": "heads", "softcap": 20.0, "alibi": True},
    "bias": {"bias": "scores", "return_lse": True},
    "mask": {"mask": "seen", "return_lse": True},
    "sinks": {"sinks": "heads", "return_lse": True},
    "sigmoid": {"sigmoid": True},
    "function": {"score_mod": lambda s, b, h, p, m: s + (p - m) * 0.5, "mask_mod": lambda b, h, p, m: m <= p},
    "documents": {"documents": "documents"},
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "rows", "keys"),
    [(0, 4, 2, 3, 5), (2, 4, 2, 3, 0), (2, 4, 2, 0, 5), (2, 0, 2, 3, 5), (2, 4, 0, 3, 5), (1, 2, 2, 3, 0)],
)
def test_calls_without_anything_to_attend_to(
    name: str, batch: int, heads: int, kv_heads: int, rows: int, keys: int
) -> None:
    made = {
        "heads": torch.arange(float(heads)),
        "scores": torch.zeros(batch, 1, rows, keys),
        "seen": torch.ones(rows, keys, dtype=torch.bool),
        "documents": (torch.zeros(batch, rows, dtype=torch.int32), torch.zeros(batch, keys, dtype=torch.int32)),
    }
    given = {n: made.get(x, x) if isinstance(x, str) else x for n, x in EMPTY[name].items()}
    q, k, v = (
        torch.ones(batch, heads, rows, 8),
        torch.ones(batch, kv_heads, keys, 8),
        torch.ones(batch, kv_heads, keys, 6),
    )
    for _ in range(2):
        found = eintune.attention(q, k, v, **given)
        out, lse = found if isinstance(found, tuple) else (found, None)
        assert torch.equal(out, torch.zeros(batch, heads, rows, 6))
        if lse is not None:
            nothing = torch.full((batch, heads, rows), -torch.inf)
            assert torch.equal(lse, made["heads"][:, None].expand(batch, heads, rows) if "sinks" in given else nothing)


def test_wrong_modifiers_are_refused_without_keys_too() -> None:
    q, k = torch.ones(1, 2, 3, 8), torch.ones(1, 2, 0, 8)
    with pytest.raises(UnsupportedArgument, match="`bias` must broadcast"):
        eintune.attention(q, k, k, bias=torch.zeros(3, 7))


def test_values_without_elements_have_a_denominator() -> None:
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 5, 8)
    out, lse = eintune.attention(q, k, torch.zeros(1, 2, 5, 0), return_lse=True)
    assert out.shape == (1, 2, 3, 0)
    assert torch.allclose(lse, torch.logsumexp(q @ k.mT / 8**0.5, -1), atol=1e-5)


def test_a_call_that_was_seen_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kind is a key that was found, so nothing of it is checked again; another kind is."""
    slopes = drawn(H, seed=5)

    def steady(score: Tensor, b: Tensor, h: Tensor, p: Tensor, m: Tensor) -> Tensor:
        return score + slopes[h] * 0.5

    kinds: list[dict[str, Any]] = [{"window": 5}, {"softcap": 2.0, "sinks": PER_HEAD}, {"score_mod": steady}]
    first = [eintune.attention(Q, K, V, **given) for given in kinds]
    with monkeypatch.context() as patched:
        patched.setattr(runtime, "_check", lambda *tensors: pytest.fail("it was looked at again"))
        for given, wanted in zip(kinds, first, strict=True):
            assert torch.equal(eintune.attention(Q, K, V, **given), wanted)
    assert not torch.equal(eintune.attention(Q, K, V, window=6), first[0])
    assert not torch.equal(eintune.attention(Q, K, V, softcap=2.5, sinks=PER_HEAD), first[1])
    slopes.mul_(2)
    doubled = eintune.attention(Q, K, V, score_mod=lambda s, b, h, p, m: s + slopes[h] * 0.5)
    assert torch.equal(eintune.attention(Q, K, V, score_mod=steady), doubled)
    for wrong in ({"window": 5.0}, {"window": 5, "colour": 1}, {"window": 5, "causal": []}):
        with pytest.raises(UnsupportedArgument):
            eintune.attention(Q, K, V, **wrong)
    assert eintune.attention(Q.clone().requires_grad_(), K, V, window=5).requires_grad
    with pytest.raises(UnsupportedArgument, match="lazily negated"):
        eintune.attention(torch._neg_view(Q), K, V, window=5)


def test_a_batched_modifier_beside_plain_tensors_is_one_call_an_element() -> None:
    bias = drawn(3, H, P, M, seed=6)
    made = torch.func.vmap(lambda b: eintune.attention(Q, K, V, bias=b))(bias)
    torch.testing.assert_close(made, torch.stack([eintune.attention(Q, K, V, bias=b) for b in bias]))


def test_no_sinks_are_none_at_all_without_keys() -> None:
    none = K[:, :, :0]
    for _ in range(2):
        out, log = eintune.attention(Q, none, V[:, :, :0], sinks=None, return_lse=True)
        assert not out.any() and torch.equal(log, torch.full((B, H, P), -torch.inf))
