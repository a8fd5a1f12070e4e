"""The attention and the mask interface of Hugging Face transformers (5.x).

A mask arrives as a predicate on positions. One that is causal, with a window or without, becomes these modifiers; any
other is traced as a function of the user's is. No mask tensor is made. What cannot be served here (dropout)
goes to transformers' own call of PyTorch's, with the mask that that would have had, which is said once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from eintune.host.notices import say_once
from eintune.kernels.operators.served import attention
from eintune.kernels.serve.errors import UnsupportedArgument

NAME = "eintune"
CAUSAL, WINDOW, EVERYTHING, BOTH = (
    "causal_mask_function", "sliding_window_overlay.<locals>.inner_mask", "bidirectional_mask_function",
    "and_masks.<locals>.and_mask",
)  # fmt: skip
"""What transformers' functions are called that are known here."""


class MaskOf(BlockMask):
    """What a mask would be made of; a `BlockMask` by name alone, which models pass on as one that is ready.

    shape: (batch, 1, queries, keys). function: (b, h, q, kv) -> whether it is seen, at positions that begin with
    `q_offset` and `kv_offset`, numbers or tensors that hold one. padding: (batch, keys from position 0 on), true for a
    token; None where all are. whole: what makes the mask as a tensor.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int, int],
        function: Callable[..., Any],
        q_offset: Any,
        kv_offset: Any,
        padding: Tensor | None,
        whole: Callable[[], Tensor | None],
    ) -> None:
        # Not BlockMask's own: there are no blocks.
        self.sizes, self.function, self.q_offset, self.kv_offset = sizes, function, q_offset, kv_offset
        self.padding, self.whole = padding, whole

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.sizes

    @property
    def ndim(self) -> int:
        return len(self.sizes)

    def __repr__(self) -> str:
        return f"MaskOf({self.function.__qualname__}, {self.sizes})"

    __str__ = __repr__


def register(name: str = NAME) -> None:
    """Make `attn_implementation=name` an implementation that models may be given.

    Raises ImportError without transformers.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, mask_of)


def mask_of(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    **others: Any,
) -> MaskOf:
    """What a model's layers are given as their mask (transformers' mask interface)."""
    from transformers import masking_utils

    function = masking_utils.causal_mask_function if mask_function is None else mask_function
    padding = None if attention_mask is None else attention_mask.bool()
    # Looked at once a step, for all layers: without padding nothing is read in every tile.
    if padding is not None and bool(padding.all()) and padding.shape[-1] >= kv_length + kv_offset:
        padding = None

    # A static cache counts in place, and does so before its layers attend.
    if isinstance(q_offset, Tensor):
        q_offset = q_offset.clone()

    def whole() -> Tensor | None:
        made: Tensor | None = masking_utils.sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, function, attention_mask,
            **(others | {"allow_is_causal_skip": False}),
        )  # fmt: skip
        return made

    return MaskOf((batch_size, 1, q_length, kv_length), function, q_offset, kv_offset, padding, whole)


def attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: MaskOf | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer (transformers' attention interface): query, key, value (batch, heads, length, head dim),
    the output (batch, length, heads, head dim).

    attention_mask: what `mask_of` gave, or a tensor of the caller's own. softcap, s_aux (sinks), position_bias: as
    models have them. Windows are in the mask.
    """
    asked = {"softcap": softcap, "sinks": s_aux, "bias": position_bias}
    modifiers: dict[str, Any] = {name: x for name, x in asked.items() if x is not None}
    try:
        if dropout:
            raise UnsupportedArgument(f"dropout must be 0, but got {dropout:g}")
        key, value, given = _masked(module, query, key, value, attention_mask, is_causal)
        if "bias" in modifiers:
            modifiers["bias"] = _cut(modifiers["bias"], query.shape[2], key.shape[2])
        out = attention(query, key, value, scale=scaling, **given, **modifiers)
    except UnsupportedArgument as error:
        say_once(f"eintune: attention of {type(module).__name__} runs by PyTorch: {error}")
        made = attention_mask.whole() if isinstance(attention_mask, MaskOf) else attention_mask
        return _by_pytorch(module, query, key, value, made, dropout, scaling, is_causal, asked, others)
    return out.transpose(1, 2).contiguous(), None


def _masked(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: MaskOf | Tensor | None, is_causal: bool | None
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Keys and values that may be seen, and the arguments that say which of them are."""
    queries = query.shape[2]
    if mask is None:
        # As transformers means it: one query sees everything, more of a decoder see what is before them.
        asked = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if not asked or queries == 1:
            return key, value, {}
        return key[:, :, :queries], value[:, :, :queries], {"causal": True}
    if isinstance(mask, Tensor):
        mask = _cut(mask, queries, key.shape[2])
        return key, value, {"mask" if mask.dtype == torch.bool else "bias": mask}
    if not isinstance(mask, MaskOf):
        raise UnsupportedArgument(f"a mask must be what {NAME} made, or a tensor, but got {type(mask).__name__}")
    parts = list(_parts(mask.function))
    names = [f.__qualname__ for f in parts]
    whole = isinstance(mask.q_offset, int) and isinstance(mask.kv_offset, int)
    ahead = mask.q_offset - mask.kv_offset if whole else None
    if ahead is not None and CAUSAL in names:
        # Keys that no query sees yet: what a cache of a given length has room for.
        seen = min(max(ahead + queries, 1), key.shape[2])
        key, value = key[:, :, :seen], value[:, :, :seen]
    found: dict[str, Any] = {}
    left = [f for f in parts if f.__qualname__ not in (CAUSAL, WINDOW, EVERYTHING)]
    aligned = ahead is not None and ahead + queries == key.shape[2]
    if left or (not aligned and {CAUSAL, WINDOW} & set(names)):
        found["mask_mod"] = _moved(mask, query.device)
    else:
        found |= {"causal": "lower_right"} if CAUSAL in names and queries > 1 else {}
        found |= _window(parts, queries)
    if mask.padding is not None:
        found["mask"] = _tokens(mask.padding, mask.kv_offset, key.shape[2])
    return key, value, found


def _parts(function: Callable[..., Any]) -> Iterator[Any]:
    """The functions that all have to hold."""
    if getattr(function, "__qualname__", "") == BOTH:
        for part in inspect.getclosurevars(function).nonlocals["mask_functions"]:
            yield from _parts(part)
    else:
        yield function if hasattr(function, "__qualname__") else (lambda *at: function(*at))


def _window(parts: list[Any], queries: int) -> dict[str, Any]:
    """The narrowest window, for queries of which the last sees the last key."""
    widths = [inspect.getclosurevars(f).nonlocals["sliding_window"] for f in parts if f.__qualname__ == WINDOW]
    if not widths:
        return {}
    causal = {"causal": "lower_right"}  # positions of one query are counted from the last key, too
    return {"window": int(min(widths)), **causal}


def _moved(mask: MaskOf, device: torch.device) -> Callable[..., Any]:
    """The function at positions that begin with 0."""
    function, q_offset, kv_offset = mask.function, mask.q_offset, mask.kv_offset
    if isinstance(q_offset, int) and isinstance(kv_offset, int) and q_offset == kv_offset == 0:
        return function
    # As tensors, so that the next step is no other kernel.
    q_at, kv_at = (torch.as_tensor(n, device=device).to(torch.int32).reshape(()) for n in (q_offset, kv_offset))

    def moved(b: Any, h: Any, p: Any, m: Any) -> Any:
        return function(b, h, p + q_at, m + kv_at)

    return moved


def _tokens(padding: Tensor, offset: Any, keys: int) -> Tensor:
    """Which of a layer's keys are tokens, (batch, 1, 1, keys)."""
    start = int(offset)
    found = padding[:, start : start + keys]
    missing = keys - found.shape[1]
    found = torch.nn.functional.pad(found, (0, missing)) if missing > 0 else found
    return found[:, None, None, :]


def _cut(mask: Tensor, queries: int, keys: int) -> Tensor:
    """A mask or a bias for the keys that there are."""
    return mask[..., :keys] if mask.shape[-1] > keys else mask


def _by_pytorch(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    is_causal: bool | None,
    asked: dict[str, Any],
    others: dict[str, Any],
) -> tuple[Tensor, None]:
    """transformers' own call. Raises UnsupportedArgument for what that leaves out in silence."""
    left_out = [n for n in ("softcap", "sinks") if asked[n] is not None]
    if left_out:
        raise UnsupportedArgument(f"PyTorch's attention has no {' and no '.join(left_out)}, and this call needs it")
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    beside = {"position_bias": asked["bias"]} if asked["bias"] is not None else {}
    out, _ = sdpa_attention_forward(
        module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **beside, **others
    )
    return out, None
