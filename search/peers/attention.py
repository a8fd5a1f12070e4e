"""PyTorch's and FlashAttention's attention as peers, with what of a problem's modifiers they take.

Each factory is called in the measuring worker with the problem, its inputs and what attention it is (see
`tasks.Peer`), and raises where the peer cannot serve it.
"""

from __future__ import annotations

import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from eintune.space.cascade.problem import Problem
from eintune.space.workloads.attention import Attention
from eintune.space.workloads.modifiers import Causal, Documents, Mask, Softcap, Window
from eintune.space.workloads.spans import Spans

from .flash_varlen import flash_attention_4_varlen
from .score_mods import ADDED, Given, Unavailable, filters_of, positions, scores_of
from .torch_compile import compiled as under_compiler

BACKENDS: dict[str, SDPBackend | None] = {
    "sdpa": None,
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}

Outputs = dict[str, Tensor]
Run = Callable[[], Outputs]


@dataclass(frozen=True)
class Operands:
    """Q, K, V with all query heads on one axis; what the modifiers read; the output's shape, and the scale."""

    q: Tensor
    k: Tensor
    v: Tensor
    given: Given
    shape: tuple[int, ...]
    grouped: bool
    scale: float

    @classmethod
    def of(cls, problem: Problem, inputs: Mapping[str, Tensor], about: Attention) -> Operands:
        if about.page is not None:
            raise Unavailable("it reads no keys and values from pages")
        q, k, v = (inputs[name] for name in "QKV")
        grouped = q.ndim == 5
        flat = q.flatten(1, 2) if grouped else q
        axes = about.tensors
        tensors = {n: _one_head_axis(inputs[n], a) if grouped else inputs[n] for n, a in axes.items()}
        given = Given(tensors, axes, flat.shape[1], flat.shape[2], k.shape[2])
        return cls(flat, k, v, given, (*q.shape[:-1], v.shape[-1]), grouped, problem.params["scale"])

    @property
    def sink(self) -> Tensor | None:
        """SINK by query head, where there are sinks."""
        return self.given.tensors.get("SINK")

    def outputs(self, attended: Tensor, lse: Tensor | None = None) -> Outputs:
        """The outputs by name, in the problem's shapes."""
        out = {"AV": attended.reshape(self.shape)}
        return out if lse is None else out | {"L": lse.reshape(self.shape[:-1])}


def _one_head_axis(t: Tensor, axes: str) -> Tensor:
    """The two ranks of a query head as one axis."""
    at = axes.find("h")
    return t.flatten(at, at + 1) if at >= 0 else t


# ---- PyTorch's operators


def eager(problem: Problem, inputs: Mapping[str, Tensor], *, about: Attention) -> Run:
    """The definition in PyTorch's operators, one by one: all scores are in memory."""
    t = Operands.of(problem, inputs, about)
    run = definition(t, about)
    return lambda: t.outputs(*run(t.q, t.k, t.v))


def compiled(problem: Problem, inputs: Mapping[str, Tensor], *, about: Attention) -> Run:
    """The same under torch.compile (which may recognise it and call an SDPA backend)."""
    t = Operands.of(problem, inputs, about)
    run = under_compiler(definition(t, about))
    return lambda: t.outputs(*run(t.q, t.k, t.v))


def definition(t: Operands, about: Attention) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    """Attention as a function of Q, K, V over (b, heads, rows, d); key heads are repeated where there are fewer."""
    changes, filters = scores_of(about, t.given), filters_of(about, t.given)
    at = positions(len(t.q), t.given, t.q.device)
    hidden = None
    for seen in filters:
        hides = ~seen(*at)
        hidden = hides if hidden is None else hidden | hides
    may_be_empty = (
        any(isinstance(m, (Documents, Mask, Spans)) for m in about.modifiers) or t.given.keys < t.given.queries
    )
    repeats, scale, sink = t.given.heads // t.k.shape[1], t.scale, t.sink
    sigmoid, with_lse = about.weights == "sigmoid", about.lse

    def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        if repeats > 1:
            k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
        scores = (q @ k.mT) * scale
        for change in changes:
            scores = change(scores, *at)
        if hidden is not None:
            scores = scores.masked_fill(hidden, -math.inf)
        if sigmoid:
            return (torch.sigmoid(scores).to(v.dtype) @ v,)
        if sink is not None:
            sinks = sink.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
            scores = torch.cat([scores, sinks], -1)
        weights = torch.softmax(scores, -1)
        weights = weights if sink is None else weights[..., :-1]
        weights = torch.nan_to_num(weights, nan=0.0) if may_be_empty else weights
        attended = weights.to(v.dtype) @ v
        return (attended, torch.logsumexp(scores.float(), -1)) if with_lse else (attended,)

    return attend


# ---- PyTorch's fused attention


def sdpa(problem: Problem, inputs: Mapping[str, Tensor], *, backend: str, about: Attention) -> Run:
    """PyTorch's scaled_dot_product_attention on Q, K, V, with one backend or PyTorch's own choice.

    What only adds to scores, and what filters other than a causal mask of its own, is handed over as a mask in memory.
    Raises Unavailable for anything else.
    """
    if about.weights != "softmax" or about.sinks or about.lse or about.statistics:
        raise Unavailable("it has neither sinks nor weights by sigmoid, and returns no log-sum-exp")
    t = Operands.of(problem, inputs, about)
    is_causal, mask = _as_mask(t, about)
    only = BACKENDS[backend]

    def attend() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            t.q, t.k, t.v, attn_mask=mask, is_causal=is_causal, scale=t.scale, enable_gqa=t.grouped
        )

    def run() -> Outputs:
        if only is None:
            return t.outputs(attend())
        with sdpa_kernel(only):
            return t.outputs(attend())

    return _with_reasons(run)


def _as_mask(t: Operands, about: Attention) -> tuple[bool, Tensor | None]:
    """Whether it is just causal, else all modifiers as one tensor: what is seen, or what is added."""
    same = t.given.queries == t.given.keys
    if all(isinstance(m, Causal) and (m.align == "top_left" or same) for m in about.modifiers):
        return bool(about.modifiers), None
    if other := [m.words for m in about.modifiers if not (m.filters or isinstance(m, ADDED))]:
        raise Unavailable(f"it takes masks and biases, but not {', '.join(other)}")
    at = positions(len(t.q), t.given, t.q.device)
    seen = torch.ones((), dtype=torch.bool, device=t.q.device)
    for filters in filters_of(about, t.given):
        seen = seen & filters(*at)
    if all(m.filters for m in about.modifiers):
        return False, seen
    added = torch.zeros((), device=t.q.device)
    for change in scores_of(about, t.given):
        added = change(added, *at)
    return False, torch.where(seen, added, -math.inf).to(t.q.dtype)


def _with_reasons(run: Run) -> Run:
    """`run`, after one call: PyTorch says in warnings why a backend does not take its arguments.

    Raises Unavailable with what it said.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            run()
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            told = [str(w.message).partition(" (Triggered internally")[0].strip() for w in said]
            reasons = [text for text in told if not text.endswith("because:")]
            raise Unavailable("; ".join(dict.fromkeys(reasons)) or str(error)) from None
    return run


# ---- other libraries


def flash_attention_4(problem: Problem, inputs: Mapping[str, Tensor], *, about: Attention) -> Run:
    """FlashAttention's CuTe kernels, on tensors in their own layout (batch, rows, heads, d).

    Raises Unavailable for what they have no argument for, and where their one kind of causal mask (the last query
    sees all keys) is not the wanted one.
    """
    if about.page is not None or any(isinstance(m, Spans) for m in about.modifiers):
        return flash_attention_4_varlen(problem, inputs, about)
    attend: Any = importlib.import_module("flash_attn.cute").flash_attn_func
    t = Operands.of(problem, inputs, about)
    options = {"softmax_scale": t.scale, "causal": False, **_flash_options(t, about)}
    for name in options:
        if name not in inspect.signature(attend).parameters:
            raise Unavailable(f"the installed version has no argument `{name}`")
    q, k, v = (x.transpose(1, 2).contiguous() for x in (t.q, t.k, t.v))

    def run() -> Outputs:
        made = attend(q, k, v, **options)
        out: Tensor = made[0] if isinstance(made, tuple) else made
        heads_first = out.transpose(1, 2)
        # a view, also of heads that came as groups
        return {"AV": heads_first.reshape(t.shape) if t.grouped else heads_first}

    return run


def _flash_options(t: Operands, about: Attention) -> dict[str, Any]:
    if about.weights != "softmax" or about.lse or about.statistics:
        raise Unavailable("it has no weights by sigmoid, and returns no log-sum-exp in this form")
    options: dict[str, Any] = {}
    for m in about.modifiers:
        if isinstance(m, (Causal, Window)) and m.align == "top_left" and t.given.queries != t.given.keys:
            raise Unavailable("its masks are aligned to the last query, but the problem's to the first")
        match m:
            case Causal():
                options["causal"] = True
            case Window(size=size, both=both):
                options["window_size"] = (size - 1, size - 1 if both else None)
            case Softcap(cap=cap):
                options["softcap"] = cap
            case _:
                raise Unavailable(f"it has no argument for {m.words}")
    if options.get("causal") and "window_size" in options:
        options["window_size"] = (options["window_size"][0], 0)
        options["causal"] = False  # the window says it
    if (sink := t.sink) is not None:
        options["learnable_sink"] = sink.to(t.q.dtype)
    return options
