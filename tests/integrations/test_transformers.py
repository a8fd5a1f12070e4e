"""Small random models of transformers: logits and greedy tokens beside the eager implementation of each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5.0")

from eintune.integrations.transformers import register  # noqa: E402
from eintune.kernels.seams import transformers as seam  # noqa: E402

SIZES = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": None,
}  # fmt: skip
DECODERS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen3": {},
    "Mistral": {"sliding_window": 8},
    "Gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "Gemma3Text": {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "GptOss": {"sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
}
"""Softcaps and alternating windows (Gemma), sinks and windows (GPT-OSS), windows (Mistral)."""
LENGTH, PADDED = 21, 7


@pytest.fixture(autouse=True)
def _settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "models"
    monkeypatch.setenv("EINTUNE_CACHE", str(folder))
    transformers.logging.set_verbosity_error()
    register()
    return folder


def decoder(name: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(SIZES | DECODERS[name]))
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def prompts() -> torch.Tensor:
    return torch.randint(2, 99, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def both(model: Any, run: Any) -> tuple[Any, Any]:
    """What a function of the model gives by its eager implementation, and by ours."""
    found = []
    for implementation in ("eager", "eintune"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            found.append(run(model))
    return found[0], found[1]


def close(pair: tuple[Any, Any]) -> None:
    torch.testing.assert_close(pair[1], pair[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_prompts_padding_and_packed_sequences(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, ids = decoder(name), prompts()
    close(both(model, lambda m: m(ids).logits))
    tokens = torch.ones_like(ids)
    tokens[0, :PADDED] = 0
    close(both(model, lambda m: m(ids, attention_mask=tokens).logits[:, PADDED:]))
    positions = torch.cat([torch.arange(9), torch.arange(LENGTH - 9)])[None]
    close(both(model, lambda m: m(ids[1:], position_ids=positions).logits))
    assert not [r for r in caplog.records if "runs by PyTorch" in r.getMessage()]


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", DECODERS)
def test_greedy_tokens_are_those_of_the_eager_model(name: str, cache: str, caplog: pytest.LogCaptureFixture) -> None:
    model, ids = decoder(name), prompts()
    tokens = torch.ones_like(ids)
    tokens[0, :PADDED] = 0
    options: dict[str, Any] = {"max_new_tokens": 64 if cache == "dynamic" else 24, "do_sample": False}
    options |= {"cache_implementation": "static", "disable_compile": True} if cache == "static" else {}
    for given in ({}, {"attention_mask": tokens}):
        want, made = both(model, lambda m, given=given: m.generate(ids, **given, **options))
        assert torch.equal(made, want)
    assert not [r for r in caplog.records if "runs by PyTorch" in r.getMessage()]


def test_assisted_decoding() -> None:
    model, helper, ids = decoder("Llama"), decoder("Llama"), prompts()[:1]
    want, made = both(model, lambda m: m.generate(ids, assistant_model=helper, max_new_tokens=20, do_sample=False))
    assert torch.equal(made, want)


def test_encoders_with_padding() -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )
    model = transformers.BertModel._from_config(config, attn_implementation="eager").eval()
    ids, tokens = prompts(), torch.ones(2, LENGTH, dtype=torch.long)
    tokens[1, -PADDED:] = 0
    close(both(model, lambda m: m(ids).last_hidden_state))
    close(both(model, lambda m: m(ids, attention_mask=tokens).last_hidden_state[:, :-PADDED]))


def test_images() -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    model = transformers.ViTModel._from_config(config, attn_implementation="eager").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    close(both(model, lambda m: m(images).last_hidden_state))


def test_biases_by_position() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=99, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    ids = prompts()
    close(both(model, lambda m: m(input_ids=ids, decoder_input_ids=ids[:, :9]).logits))
    want, made = both(model, lambda m: m.generate(ids, max_new_tokens=16, do_sample=False))
    assert torch.equal(made, want)


def test_masks_of_the_callers_own() -> None:
    model, ids = decoder("Llama"), prompts()
    seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1)
    seen[:, :, :, 3] &= torch.arange(LENGTH)[:, None].eq(3).T[0]
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    close(both(model, lambda m: m(ids, attention_mask=added).logits))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        want = model(ids, attention_mask=added).logits
        model.set_attn_implementation("eintune")
        torch.testing.assert_close(model(ids, attention_mask=seen).logits, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "GptOss"])
def test_gradients_of_all_parameters(name: str) -> None:
    """Padding on the left, softcaps, windows, sinks: as the eager model has them."""
    model, ids = decoder(name), prompts()
    tokens = torch.ones_like(ids)
    tokens[0, :PADDED] = 0
    found = []
    for implementation in ("eager", "eintune"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        model(ids, attention_mask=tokens).logits[:, PADDED:].square().mean().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for n, wanted in found[0].items():
        torch.testing.assert_close(found[1][n], wanted, rtol=1e-3, atol=1e-6, msg=lambda m, n=n: f"{n}: {m}")


def test_training_steps_are_those_of_the_eager_model() -> None:
    losses = []
    for implementation in ("eager", "eintune"):
        model, ids = decoder("Llama"), prompts()
        model.set_attn_implementation(implementation)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses.append([])
        for _ in range(5):
            optimiser.zero_grad()
            loss = model(ids, labels=ids).loss
            loss.backward()
            optimiser.step()
            losses[-1].append(float(loss.detach()))
    assert losses[0][-1] < 0.9 * losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_dropout_runs_by_pytorch_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model, ids = decoder("Llama"), prompts()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.set_attn_implementation("eintune")
    caplog.set_level(logging.WARNING, logger="eintune")
    model.train()(ids)
    assert any("runs by PyTorch: dropout must be 0, but got 0.5" in r.getMessage() for r in caplog.records)


def test_what_pytorch_leaves_out_is_an_error() -> None:
    model, ids = decoder("Gemma2"), prompts()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.set_attn_implementation("eintune")
    with pytest.raises(Exception, match="PyTorch's attention has no softcap, and this call needs it"):
        model.train()(ids)


def test_no_mask_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import masking_utils

    def never(*args: object, **named: object) -> None:
        raise AssertionError("a mask was made")

    monkeypatch.setattr(masking_utils, "sdpa_mask", never)
    given: list[dict[str, Any]] = []
    attend = seam.attention
    monkeypatch.setattr(seam, "attention", lambda *a, **named: (given.append(named), attend(*a, **named))[1])
    model = decoder("Mistral")
    model.set_attn_implementation("eintune")
    with torch.no_grad():
        model.generate(prompts(), max_new_tokens=4, do_sample=False)
    assert {n for named in given for n in named} == {"scale", "causal", "window"}
