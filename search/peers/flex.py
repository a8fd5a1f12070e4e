"""FlexAttention as a peer, compiled: each modifier as its users write it, sinks by the log-sum-exp that it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eintune.space.cascade.problem import Problem
from eintune.space.workloads.attention import Attention

from .attention import Operands, Run
from .score_mods import Score, Seen, Unavailable, filters_of, scores_of
from .torch_compile import compiled


def flex(problem: Problem, inputs: Mapping[str, Tensor], *, mode: str | None, about: Attention) -> Run:
    """FlexAttention compiled for these shapes; what is hidden is a block mask, so that whole blocks are skipped.

    Raises Unavailable where weights are not by softmax.
    """
    if about.weights != "softmax":
        raise Unavailable("it has no weights by sigmoid")
    t = Operands.of(problem, inputs, about)
    mask = _block_mask(t, about)
    changes = scores_of(about, t.given)
    attend = compiled(_attention(_together(changes), t, about), mode)
    return lambda: t.outputs(*attend(t.q, t.k, t.v, t.sink, mask))


def _attention(score: Score | None, t: Operands, about: Attention) -> Any:
    """What is compiled: FlexAttention, and with sinks its result scaled by the share that is not theirs."""
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    scale, grouped, sinks, with_lse = t.scale, t.grouped, about.sinks, about.lse

    def plain(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, mask: Any) -> tuple[Tensor, ...]:
        made = flex_attention(q, k, v, score_mod=score, block_mask=mask, scale=scale, enable_gqa=grouped)
        assert isinstance(made, Tensor)
        return (made,)

    def extended(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, mask: Any) -> tuple[Tensor, ...]:
        made, aux = flex_attention(
            q,
            k,
            v,
            score_mod=score,
            block_mask=mask,
            scale=scale,
            enable_gqa=grouped,
            return_aux=AuxRequest(lse=True),
        )
        lse = aux.lse
        assert lse is not None
        if sink is not None:
            at = sink.view(1, -1, 1)
            made = made * torch.sigmoid(lse - at).unsqueeze(-1).to(made.dtype)
            lse = torch.logaddexp(lse, at.expand_as(lse))
        return (made, lse) if with_lse else (made,)

    return extended if sinks or with_lse else plain


def _together(changes: Sequence[Score]) -> Score | None:
    """One score_mod of all changes, in order."""
    if not changes:
        return None
    first, *rest = changes
    if not rest:
        return first
    others = _together(rest)
    assert others is not None
    return lambda score, b, h, p, m: others(first(score, b, h, p, m), b, h, p, m)


def _block_mask(t: Operands, about: Attention) -> Any:
    """All filters as one block mask, made with the batch and the heads only where a filter looks at them."""
    from torch.nn.attention.flex_attention import and_masks, create_block_mask

    filters: list[Seen] = filters_of(about, t.given)
    if not filters:
        return None
    axes = "".join(a for m in about.modifiers if m.filters for a in m.tensors.values())
    batch = len(t.q) if "b" in axes else None
    heads = t.given.heads if "h" in axes else None
    seen = filters[0] if len(filters) == 1 else and_masks(*filters)
    return create_block_mask(seen, batch, heads, t.given.queries, t.given.keys, device=t.q.device.type)
