"""Generate with a small random model of transformers, by Eintune's attention.

    python examples/in_transformers.py --tokens 12

A decoder with grouped heads and sliding windows, random weights, two prompts of different lengths in one padded batch.
The same weights generate once more by PyTorch's attention, and the tokens are compared.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoModelForCausalLM, MistralConfig

from eintune.integrations import transformers

CONFIG = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "sliding_window": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@torch.inference_mode()
def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--tokens", type=int, default=12)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = options.parse_args()

    transformers.register()
    torch.manual_seed(0)
    models = [
        AutoModelForCausalLM.from_config(MistralConfig(**CONFIG), attn_implementation=name).to(given.device).eval()
        for name in ("eintune", "sdpa")
    ]
    models[1].load_state_dict(models[0].state_dict())
    prompts = [[5, 17, 40, 8, 99, 23, 61, 12, 77, 30], [64, 3, 91]]
    widest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (widest - len(p)) + p for p in prompts], device=given.device)
    mask = (tokens != 0).long()
    made = [
        model.generate(tokens, attention_mask=mask, max_new_tokens=given.tokens, do_sample=False)[:, widest:].tolist()
        for model in models
    ]
    for prompt, new in zip(prompts, made[0], strict=True):
        print(f"{len(prompt)} tokens, then {new}")
    if made[0] != made[1]:
        raise SystemExit(f"PyTorch's attention generates others: {made[1]}")
    print("the same tokens as by PyTorch's attention")


if __name__ == "__main__":
    main()
