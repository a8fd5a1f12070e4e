"""FlashAttention's packed and paged forms as peers."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from eintune.space.cascade.problem import Problem
from eintune.space.workloads.attention import Attention
from eintune.space.workloads.modifiers import Softcap
from eintune.space.workloads.spans import END, Spans

from .score_mods import Unavailable


def flash_attention_4_varlen(
    problem: Problem, inputs: Mapping[str, Tensor], about: Attention
) -> Callable[[], dict[str, Tensor]]:
    """`flash_attn_varlen_func` of FlashAttention's CuTe kernels, of sequences that `Spans` says are drawn.

    Raises Unavailable for what it has no argument for.
    """
    attend: Any = importlib.import_module("flash_attn.cute").flash_attn_varlen_func
    options = _options(problem, inputs, about)
    q = inputs["Q"].flatten(1, -3) if inputs["Q"].ndim == 5 else inputs["Q"]
    # (batch, heads, queries, d), of which one is 1: as tokens of all sequences
    tokens = q.transpose(1, 2).flatten(0, 1).contiguous()
    if about.page is None:
        keys, values = (inputs[n][0].transpose(0, 1).contiguous() for n in "KV")
    else:
        keys, values = inputs["KC"], inputs["VC"]
    for name in options:
        if name not in inspect.signature(attend).parameters:
            raise Unavailable(f"the installed version has no argument `{name}`")
    shape = (*inputs["Q"].shape[:-1], values.shape[-1])
    batch, rows = q.shape[0], q.shape[2]

    def run() -> dict[str, Tensor]:
        made = attend(tokens, keys, values, **options)
        out: Tensor = made[0] if isinstance(made, tuple) else made
        return {"AV": out.unflatten(0, (batch, rows)).transpose(1, 2).reshape(shape)}  # type: ignore[no-untyped-call]

    return run


def _options(problem: Problem, inputs: Mapping[str, Tensor], about: Attention) -> dict[str, Any]:
    if about.weights != "softmax" or about.lse or about.statistics:
        raise Unavailable("it has no weights by sigmoid, and returns no log-sum-exp in this form")
    options: dict[str, Any] = {"softmax_scale": problem.params["scale"], "causal": False}
    for m in about.modifiers:
        match m:
            case Spans():
                options |= _lengths(m, problem, inputs, about)
            case Softcap(cap=cap):
                options["softcap"] = cap
            case _:
                raise Unavailable(f"it has no argument for {m.words}")
    if about.sinks:
        options["learnable_sink"] = inputs["SINK"].flatten().to(torch.bfloat16)
    return options


def _lengths(spans: Spans, problem: Problem, inputs: Mapping[str, Tensor], about: Attention) -> dict[str, Any]:
    """Cumulative lengths, and of pages how many keys are used and where they are."""
    end, sizes = inputs[END], problem.sizes
    queries, keys, count = sizes["p"], sizes["m"], spans.sequences
    if about.page is not None:
        cu = torch.arange(sizes["b"] + 1, dtype=torch.int32, device=end.device) * queries
        used = end if spans.axes == "b" else torch.full_like(cu[1:], keys)
        found: dict[str, Any] = {"cu_seqlens_q": cu, "max_seqlen_q": queries, "causal": spans.causal}
        return found | {"seqused_k": used, "page_table": inputs["BT"]}
    if not count:
        raise Unavailable("it takes sequences of some lengths, but no stretches of keys")
    if queries % count or keys % count:
        raise Unavailable(f"its sequences are of whole lengths, but {queries} and {keys} are not {count} of one")
    at = torch.arange(count + 1, dtype=torch.int32, device=end.device)
    found = {"cu_seqlens_q": at * (queries // count), "causal": spans.causal, "max_seqlen_q": queries // count}
    return found | {"cu_seqlens_k": at * (keys // count), "max_seqlen_k": keys // count}
