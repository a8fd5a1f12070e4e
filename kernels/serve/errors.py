"""What the runtime raises for arguments that it does not take."""

from __future__ import annotations

from collections.abc import Sequence


class UnsupportedArgument(ValueError):
    """An argument that Eintune does not take; the message names the rule and the value."""


class NeedsGradient(UnsupportedArgument):
    """A call that what was made ready for its like cannot serve: a gradient is recorded."""


FORWARD_ONLY = (
    "eintune.attention is forward only: call it under torch.no_grad() or detach its inputs, but an input "
    "has requires_grad=True"
)

ELSEWHERE = {
    "is_causal": "causal", "softmax_scale": "scale", "sm_scale": "scale", "attn_mask": "mask", "attention_mask": "mask",
    "attn_bias": "bias", "block_mask": "mask_mod", "window_size": "window", "sliding_window": "window",
    "logits_soft_cap": "softcap", "alibi_slopes": "alibi", "s_aux": "sinks", "learnable_sink": "sinks",
    "return_softmax_lse": "return_lse", "return_attn_probs": "return_lse",
}  # fmt: skip
"""What other libraries call what `attention` has."""


def unknown_modifiers(given: Sequence[str], known: Sequence[str]) -> UnsupportedArgument:
    """The error for names that there are not, with those that may be meant."""
    from difflib import get_close_matches

    every = (*known, "causal", "scale")
    close = {n: found[0] for n in given if (found := get_close_matches(n, every, 1, 0.75))}
    meant = dict.fromkeys(m for n in given if (m := ELSEWHERE.get(n) or close.get(n)))
    hint = f" (did you mean {' and '.join(f'`{m}`' for m in meant)}?)" if meant else ""
    return UnsupportedArgument(f"modifiers are {', '.join(known)}, but got {', '.join(given)}{hint}")
