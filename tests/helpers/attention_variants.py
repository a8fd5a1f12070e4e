"""Attentions with modifiers drawn at random, and what they come to in plain PyTorch operators, in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from hypothesis import strategies as st

from eintune.space.ir.pointwise import Array
from eintune.space.workloads.attention import Attention
from eintune.space.workloads.modifiers import (
    Bias,
    Causal,
    Documents,
    HeadScale,
    Mask,
    Modifier,
    Prefix,
    RelativeBias,
    Slopes,
    Softcap,
    Window,
)
from eintune.space.workloads.spans import PlacedSlopes, Spans

COLUMNS = 499
"""Of a table of relative biases: as many as any test's sizes need, and more."""

ALONE: dict[str, Attention] = {
    "plain": Attention(),
    "head scale": Attention((HeadScale(),)),
    "softcap": Attention((Softcap(2.0),)),
    "slopes": Attention((Slopes(),)),
    "standard slopes": Attention((Slopes(standard=True), Causal())),
    "standard slopes, lower right": Attention((Slopes(standard=True, align="lower_right"),), lse=True),
    "slopes, lower right": Attention((Slopes(align="lower_right"), Causal("lower_right")), sinks=True),
    "slopes, lower right, sigmoid": Attention((Slopes(align="lower_right"),), weights="sigmoid"),
    "bias": Attention((Bias(),)),
    "bias of a key": Attention((Bias("bm"),)),
    "relative bias": Attention((RelativeBias(COLUMNS),)),
    "relative bias, window": Attention((RelativeBias(COLUMNS), Causal("lower_right"), Window(7, align="lower_right"))),
    "causal": Attention((Causal(),)),
    "causal, lower right": Attention((Causal("lower_right"),)),
    "window": Attention((Window(3),)),
    "window, causal": Attention((Causal(), Window(3))),
    "window to both sides": Attention((Window(2, both=True, align="lower_right"),)),
    "prefix": Attention((Prefix(4),)),
    "documents": Attention((Documents(),)),
    "documents, causal": Attention((Causal(), Documents())),
    "spans": Attention((Spans(),)),
    "spans, slopes": Attention((PlacedSlopes(), Spans()), sinks=True, lse=True),
    "spans of a batch": Attention((PlacedSlopes(standard=True, axes="b"), Spans("b"))),
    "mask": Attention((Mask(),)),
    "mask of keys": Attention((Mask("bm"),)),
    "sinks": Attention(sinks=True),
    "sinks, causal": Attention((Causal("lower_right"),), sinks=True),
    "log-sum-exp": Attention((Causal(),), lse=True),
    "sigmoid": Attention((Causal(),), weights="sigmoid"),
}
"""Each modifier by itself, or with what it is for."""


def combinations() -> st.SearchStrategy[Attention]:
    """Any number of modifiers, in any order."""
    aligned = st.sampled_from(["top_left", "lower_right"])
    axes = st.sampled_from(["bhpm", "hpm", "pm", "m", "bm", "h", "bp"])
    pieces: list[st.SearchStrategy[Modifier]] = [
        st.just(HeadScale()),
        st.floats(0.5, 3.0).map(lambda c: Softcap(round(c, 2))),
        st.builds(Slopes, st.booleans(), aligned),
        st.builds(Bias, axes),
        st.just(RelativeBias(COLUMNS)),
        st.builds(Causal, aligned),
        st.builds(Window, st.integers(1, 9), st.booleans(), aligned),
        st.builds(Prefix, st.integers(1, 9), aligned),
        st.just(Documents()),
        st.builds(Mask, axes),
    ]
    chosen = st.lists(st.sampled_from(range(len(pieces))), unique=True, max_size=4).flatmap(
        lambda which: st.tuples(*(pieces[i] for i in which))
    )

    def made(modifiers: tuple[Modifier, ...], weights: str, sinks: bool, lse: bool) -> Attention:
        softmax = weights == "softmax"
        return Attention(modifiers, weights, sinks and softmax, lse and softmax)  # type: ignore[arg-type]

    return st.builds(made, chosen, st.sampled_from(["softmax", "softmax", "sigmoid"]), st.booleans(), st.booleans())


def published_slopes(heads: int) -> list[float]:
    """The slopes of ALiBi as its authors' own code gives them (ofirpress/attention_with_linear_biases)."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**i for i in range(heads)]
    closest = 2 ** math.floor(math.log2(heads))
    return published_slopes(closest) + published_slopes(2 * closest)[0::2][: heads - closest]


def variant_data(variant: Attention, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Random inputs of a variant, as its cascade reads them."""
    rng = np.random.default_rng(seed)
    cascade = variant.cascade(grouped="g" in sizes)
    data: dict[str, Array] = {}
    lengths = {r: n for m in variant.modifiers for r, n in m.bound(sizes).items()} | dict(sizes)
    for name, tensor in cascade.inputs.items():
        shape = [lengths[r] for r in tensor.ranks]
        match tensor.kind:
            case "int" if name in ("FIRST", "END", "AT"):
                data[name] = rng.integers(0, sizes["m"] + 1, shape)
            case "int":
                data[name] = np.sort(rng.integers(0, 3, shape), -1)
            case "bool":
                data[name] = rng.random(shape) < 0.6
            case _:
                data[name] = rng.normal(size=shape).astype(np.float32).astype(np.float64)
    return data


def plainly(variant: Attention, sizes: Mapping[str, int], data: Mapping[str, Array], scale: float) -> dict[str, Array]:
    """The outputs, written without any of the project's expressions: one tensor operation after the other."""
    grouped = "g" in sizes
    t = {n: torch.from_numpy(np.asarray(a)) for n, a in data.items()}
    q, k, v = t["Q"], t["K"], t["V"]
    groups = sizes.get("g", 1)
    heads, rows, keys = sizes["h"] * groups, sizes["p"], sizes["m"]
    if grouped:
        q = q.flatten(1, 2)
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    s = (q @ k.mT) * scale
    p, m = torch.arange(rows)[:, None], torch.arange(keys)[None, :]

    def spread(name: str, axes: str) -> torch.Tensor:
        """A tensor over some axes as one over all four."""
        whole = t[name].flatten(axes.index("h"), axes.index("h") + 1) if grouped and "h" in axes else t[name]
        for position, axis in enumerate("bhpm"):
            whole = whole if axis in axes else whole.unsqueeze(position)
        return whole

    seen = torch.ones(rows, keys, dtype=torch.bool)
    for modifier in variant.modifiers:
        shift = keys - rows if getattr(modifier, "align", "") == "lower_right" else 0
        match modifier:
            case HeadScale():
                s = s * spread("HS", "h")
            case Softcap(cap):
                s = cap * torch.tanh(s / cap)
            case PlacedSlopes(standard, _, axes):
                slopes = torch.tensor(published_slopes(heads), dtype=torch.float64)
                s = s + (slopes[None, :, None, None] if standard else spread("SLOPE", "h")) * (m - spread("AT", axes))
            case Spans(axes):
                seen = seen & (spread("FIRST", axes) <= m) & (m < spread("END", axes))
            case Slopes(standard):
                slopes = torch.tensor(published_slopes(heads), dtype=torch.float64)
                s = s + (slopes[None, :, None, None] if standard else spread("SLOPE", "h")) * (m - p - shift)
            case Bias(axes):
                s = s + spread("BIAS", axes)
            case RelativeBias():
                s = s + (t["REL"].flatten(0, 1) if grouped else t["REL"])[:, p - m + keys - 1]
            case Causal():
                seen = seen & (m <= p + shift)
            case Window(size, both):
                seen = seen & (p + shift - m < size) & ((m - p - shift < size) | (not both))
            case Prefix(size):
                seen = seen & ((m <= p + shift) | (m < size))
            case Documents():
                seen = seen & (t["DOCQ"][:, None, :, None] == t["DOCK"][:, None, None, :])
            case Mask(axes):
                seen = seen & spread("MASK", axes)
    s = s.masked_fill(~seen, -math.inf)
    sink = spread("SINK", "h").expand(*s.shape[:-1], 1) if variant.sinks else s[..., :0]
    whole = torch.cat([s, sink], -1)
    weights = torch.sigmoid(s) if variant.weights == "sigmoid" else torch.softmax(whole, -1)[..., :keys].nan_to_num(0.0)
    shape = (sizes["b"], sizes["h"], groups) if grouped else (sizes["b"], sizes["h"])
    made = {"AV": (weights @ v).reshape(*shape, rows, -1).numpy()}
    if variant.lse:
        made["L"] = torch.logsumexp(whole, -1).reshape(*shape, rows).numpy()
    return made
