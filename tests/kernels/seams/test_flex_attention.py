"""FlexAttention's call: PyTorch's documented examples as they are, beside PyTorch's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask, and_masks, create_block_mask, or_masks

import eintune

B, H, S, D = 2, 4, 150, 16


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "flex"
    monkeypatch.setenv("EINTUNE_CACHE", str(folder))
    return folder


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


Q, K, V = drawn(B, H, S, D), drawn(B, H, S, D, seed=1), drawn(B, H, S, D, seed=2)


def theirs(*args: Any, **named: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        return flex.flex_attention(*args, **named)


def check(score_mod: Callable[..., Any] | None, mask_mod: Callable[..., Any] | None) -> None:
    block_mask = mask_mod and create_block_mask(mask_mod, B, H, S, S, device="cpu")
    out, lse = eintune.flex_attention(Q, K, V, score_mod, block_mask, return_lse=True)
    want, logs = theirs(Q, K, V, score_mod, block_mask, return_lse=True)
    torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lse, logs, rtol=1e-4, atol=1e-5)


# ---- scores


def test_full() -> None:
    check(None, None)
    check(lambda score, b, h, q_idx, kv_idx: score, None)


def test_relative_positions() -> None:
    check(lambda score, b, h, q_idx, kv_idx: score + (q_idx - kv_idx), None)


def test_a_table_of_relative_biases() -> None:
    bias = drawn(H, 2 * S - 1, seed=3)
    check(lambda score, b, h, q_idx, kv_idx: score + bias[h, q_idx - kv_idx + S - 1], None)


def test_alibi() -> None:
    slopes = torch.tensor([2.0 ** (-8 * (i + 1) / H) for i in range(H)])

    def alibi(score, b, h, q_idx, kv_idx):
        bias = slopes[h] * (kv_idx - q_idx)
        return score + bias

    check(alibi, None)


def test_alibi_of_numbers_alone() -> None:
    def generate_alibi_bias(H: int):
        def alibi_mod(score, b, h, q_idx, kv_idx):
            scale = torch.exp2(-((h + 1) * 8.0 / H))
            return score + (kv_idx - q_idx) * scale

        return alibi_mod

    check(generate_alibi_bias(H), lambda b, h, q_idx, kv_idx: q_idx >= kv_idx)


def test_soft_caps() -> None:
    softcap = 20

    def soft_cap(score, b, h, q_idx, kv_idx):
        score = score / softcap
        score = torch.tanh(score)
        score = score * softcap
        return score

    check(soft_cap, None)


def test_tanh() -> None:
    check(lambda score, b, h, q_idx, kv_idx: torch.tanh(score), None)


def test_causal_as_a_score() -> None:
    check(lambda score, b, h, q_idx, kv_idx: torch.where(q_idx >= kv_idx, score, -float("inf")), None)


def test_biases_by_head_and_checkerboards() -> None:
    head_bias = drawn(H, seed=4)
    check(lambda score, b, h, q_idx, kv_idx: score + 2 * head_bias[h], None)

    def checkerboard(score, batch, head, token_q, token_kv):
        score = torch.where(torch.abs(token_kv - token_q) % 2 == 1, score * 0.5, score)
        return torch.where(torch.abs(token_kv - token_q) % 2 == 0, score * 2.0, score)

    check(checkerboard, None)


# ---- masks


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def test_causal() -> None:
    check(None, causal)


def test_sliding_windows() -> None:
    SLIDING_WINDOW = 24

    def sliding_window_causal(b, h, q_idx, kv_idx):
        causal_mask = q_idx >= kv_idx
        window_mask = q_idx - kv_idx <= SLIDING_WINDOW
        return causal_mask & window_mask

    def sliding_window(b, h, q_idx, kv_idx):
        return q_idx - kv_idx <= SLIDING_WINDOW

    check(None, sliding_window_causal)
    check(None, and_masks(causal, sliding_window))


def test_prefixes() -> None:
    prefix_length = torch.tensor([12, 77], dtype=torch.int32)

    def prefix_mask(b, h, q_idx, kv_idx):
        return kv_idx <= prefix_length[b]

    check(None, or_masks(prefix_mask, causal))


def test_documents() -> None:
    document_id = torch.tensor([0] * 40 + [1] * 77 + [2] * 33)

    def document_masking(b, h, q_idx, kv_idx):
        return document_id[q_idx] == document_id[kv_idx]

    check(None, and_masks(causal, document_masking))


def test_jagged_documents() -> None:
    def offsets_to_doc_ids(offsets: Tensor) -> Tensor:
        counts = offsets[1:] - offsets[:-1]
        return torch.repeat_interleave(torch.arange(len(counts)), counts)

    def generate_doc_mask_mod(mask_mod, offsets):
        document_id = offsets_to_doc_ids(offsets)

        def doc_mask_mod(b, h, q_idx, kv_idx):
            same_doc = document_id[q_idx] == document_id[kv_idx]
            q_logical = q_idx - offsets[document_id[q_idx]]
            kv_logical = kv_idx - offsets[document_id[kv_idx]]
            inner_mask = mask_mod(b, h, q_logical, kv_logical)
            return same_doc & inner_mask

        return doc_mask_mod

    check(None, generate_doc_mask_mod(causal, torch.tensor([0, 40, 117, S])))


def test_neighbourhoods() -> None:
    WIDTH, HEIGHT, KERNEL_W, KERNEL_H = 15, 10, 5, 3

    def get_x_y(idx):
        return idx // WIDTH, idx % WIDTH

    def natten_mask_mod(b, h, q_idx, kv_idx):
        q_x, q_y = get_x_y(q_idx)
        kv_x, kv_y = get_x_y(kv_idx)
        kernel_x = q_x.clamp(KERNEL_W // 2, (HEIGHT - 1) - KERNEL_W // 2)
        kernel_y = q_y.clamp(KERNEL_H // 2, (WIDTH - 1) - KERNEL_H // 2)
        hori_mask = (kernel_x - kv_x).abs() <= KERNEL_W // 2
        vert_mask = (kernel_y - kv_y).abs() <= KERNEL_H // 2
        return hori_mask & vert_mask

    check(None, natten_mask_mod)


def test_transfusion() -> None:
    modalities = torch.tensor([[[5, 30], [60, 70]], [[0, 20], [100, 50]]])

    def transfusion_attn_mask(modalities: Tensor):
        def modality_mask(b, h, q_idx, kv_idx):
            mask = q_idx.new_zeros((), dtype=torch.bool)
            for i in range(modalities.shape[1]):
                offset, length = modalities[b, i, 0], modalities[b, i, 1]
                mask = mask | (
                    (q_idx >= offset) & (q_idx < offset + length) & (kv_idx >= offset) & (kv_idx < offset + length)
                )
            return mask

        return or_masks(causal, modality_mask)

    check(None, transfusion_attn_mask(modalities))


def test_a_score_and_a_mask() -> None:
    slopes = drawn(H, seed=5)
    check(lambda score, b, h, q_idx, kv_idx: score + slopes[h] * (kv_idx - q_idx), causal)


# ---- the rest of the call


def test_groups_scales_and_what_is_returned_beside() -> None:
    k, v = K[:, :2], V[:, :2]
    made = eintune.flex_attention(Q, k, v, scale=0.3, enable_gqa=True, kernel_options={"BLOCK_M": 64})
    torch.testing.assert_close(made, theirs(Q, k, v, scale=0.3, enable_gqa=True), rtol=1e-4, atol=1e-5)
    out, aux = eintune.flex_attention(Q, K, V, return_aux=flex.AuxRequest(lse=True))
    want, beside = theirs(Q, K, V, return_aux=flex.AuxRequest(lse=True))
    torch.testing.assert_close((out, aux.lse), (want, beside.lse), rtol=1e-4, atol=1e-5)
    assert aux.max_scores is None
    assert eintune.flex_attention(Q, K, V, return_aux=flex.AuxRequest())[1] == flex.AuxOutput()


def test_rows_that_see_nothing() -> None:
    check(None, lambda b, h, q_idx, kv_idx: q_idx > kv_idx)


def test_a_mask_for_all_batches_and_heads() -> None:
    block_mask = create_block_mask(causal, None, None, S, S, device="cpu")
    torch.testing.assert_close(
        eintune.flex_attention(Q, K, V, block_mask=block_mask),
        theirs(Q, K, V, block_mask=block_mask),
        rtol=1e-4,
        atol=1e-5,
    )


def test_functions_are_read_at_each_call() -> None:
    for width in (3, 50):
        mask = and_masks(causal, lambda b, h, q_idx, kv_idx, width=width: q_idx - kv_idx < width)
        check(None, mask)


def some_blocks() -> BlockMask:
    """The first block of keys alone, without a function that says so."""
    count = torch.ones((1, 1, 2), dtype=torch.int32)
    index = torch.zeros((1, 1, 2, 2), dtype=torch.int32)
    return BlockMask.from_kv_blocks(count, index, BLOCK_SIZE=128, seq_lengths=(S, S))


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"block_mask": causal}, "`block_mask` must be a BlockMask, but got function"),
        ({"block_mask": "shorter"}, r"`block_mask` must be of \(150, 150\) queries and keys, but is of \(128, 150\)"),
        ({"block_mask": "batch"}, r"must be of batch and heads 1 or \(2, 4\), but is of \(3, 1\)"),
        ({"block_mask": "blocks"}, "`block_mask` must have the blocks that its function gives"),
        ({"key": K[:, :2], "value": V[:, :2]}, "`enable_gqa` must be True where .* got 4 and 2"),
        ({"query": Q[0]}, "`query` must be a tensor .* but got"),
        ({"return_aux": flex.AuxRequest(max_scores=True)}, "not for max_scores"),
        ({"return_aux": True}, "`return_aux` must be an AuxRequest, but got bool"),
        ({"return_aux": flex.AuxRequest(lse=True), "return_lse": True}, "give one of them"),
    ],
)
def test_bad_input_is_one_line(named: dict[str, Any], says: str) -> None:
    masks: dict[str, Callable[[], Any]] = {
        "shorter": lambda: create_block_mask(causal, None, None, 128, S, device="cpu"),
        "batch": lambda: create_block_mask(causal, 3, None, S, S, device="cpu"),
        "blocks": some_blocks,
    }
    if isinstance(named.get("block_mask"), str):
        named = named | {"block_mask": masks[named["block_mask"]]()}
    with pytest.raises(eintune.UnsupportedArgument, match=says) as caught:
        eintune.flex_attention(**({"query": Q, "key": K, "value": V} | named))
    assert "\n" not in str(caught.value)
