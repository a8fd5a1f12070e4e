"""Attention as a workload: its options, and the problem, the title and the folder that they come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eintune.space.tracing.site import AXES

from .attention import Attention, Weights, attention, attention_problem
from .function_modifiers import MaskMod, ScoreMod
from .modifiers import (
    ALIGN,
    Align,
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
from .spans import PlacedSlopes, Spans
from .workload import WORKLOADS, Option, Posed, Workload, counted

OPTIONS = (
    Option("seq", "queries a head"),
    Option("heads", "query heads"),
    Option("causal", "key m is seen by query p where m <= p", "choice", default="", choices=ALIGN, bare="top_left"),
    Option("head_dim", "default: 128", default=128),
    Option("batch", "default: 1", default=1),
    Option("kv_heads", "default: as many as --heads", default=""),
    Option("kv_seq", "keys a head; default: as many as --seq", default=""),
    Option("value_dim", "columns of V; default: as many as --head-dim", default=""),
    Option("scale", "of the scores; default: 1/sqrt(head dim)", "number", default=""),
    Option("window", "key m is seen by query p where p - m < N", "count", default=""),
    Option("window_both", "the window reaches as far to the other side", "flag", default=False),
    Option("prefix", "key m is seen by query p where m <= p or m < N; aligned as --causal says", "count", default=""),
    Option("softcap", "scores become X * tanh(score / X)", "number", default=""),
    Option("head_scale", "a factor a head", "flag", default=False),
    Option(
        "alibi",
        "score + slope * (m - p), the slopes a tensor, or the standard ones; aligned as --causal says",
        "choice",
        default="",
        choices=("tensor", "standard"),
        bare="tensor",
    ),
    Option("bias", f"a tensor added to the scores, over some of {AXES}", "text", default="", bare=AXES),
    Option(
        "relative_bias", "score + table[h, p - m + keys - 1], a table over heads and distances", "flag", default=False
    ),
    Option("mask", f"a tensor that says what is seen, over some of {AXES}", "text", default="", bare=AXES),
    Option("score_mod", "FILE.py:NAME, a function (score, b, h, p, m) -> score", "function", default=""),
    Option("mask_mod", "FILE.py:NAME, a function (b, h, p, m) -> what is seen", "function", default=""),
    Option("documents", "packed sequences: a query sees its own document", "flag", default=False),
    Option("packed", "N sequences one after another, of equal lengths, each seen by itself", "count", default=""),
    Option("page", "keys and values lie in pages of N, those of each sequence up to its length", "count", default=""),
    Option("sinks", "a score a head that every query sees and that has no value", "flag", default=False),
    Option("sigmoid", "weights by sigmoid instead of softmax", "flag", default=False),
    Option("lse", "also return the log-sum-exp", "flag", default=False),
    Option("statistics", "also return each row's greatest score and the log of its sum", "flag", default=False),
)


def _variant(wanted: Mapping[str, Any]) -> Attention:
    align: Align = wanted["causal"] or "top_left"
    if wanted["window_both"] and not wanted["window"]:
        raise ValueError("`window_both` needs a `window`")
    spans = _spans(wanted)
    pieces: list[Modifier | None] = [
        HeadScale() if wanted["head_scale"] else None,
        Softcap(wanted["softcap"]) if wanted["softcap"] != "" else None,
        _slopes(wanted, align, spans) if wanted["alibi"] else None,
        Bias(wanted["bias"]) if wanted["bias"] else None,
        RelativeBias(wanted["seq"] + (wanted["kv_seq"] or wanted["seq"]) - 1) if wanted["relative_bias"] else None,
        ScoreMod(wanted["score_mod"]) if wanted["score_mod"] else None,
        Causal(wanted["causal"]) if wanted["causal"] and wanted["prefix"] == "" and not spans else None,
        Window(wanted["window"], wanted["window_both"], align) if wanted["window"] != "" else None,
        Prefix(wanted["prefix"], align) if wanted["prefix"] != "" else None,
        Documents() if wanted["documents"] else None,
        Mask(wanted["mask"]) if wanted["mask"] else None,
        MaskMod(wanted["mask_mod"]) if wanted["mask_mod"] else None,
        spans,
    ]
    weights: Weights = "sigmoid" if wanted["sigmoid"] else "softmax"
    page = wanted["page"] if wanted["page"] != "" else None
    about = weights, wanted["sinks"], wanted["lse"], page, wanted["statistics"]
    return Attention(tuple(p for p in pieces if p), *about)


def _spans(wanted: Mapping[str, Any]) -> Spans | None:
    """What queries see of packed sequences, and of a cache in pages, whose queries stand at the last keys. Raises
    ValueError for what does not go with them."""
    if wanted["packed"] == wanted["page"] == "":
        return None
    beside = [n for n in ("window", "prefix") if wanted[n] != ""]
    beside += [n for n in ("documents", "mask", "mask_mod", "bias", "relative_bias", "score_mod") if wanted[n]]
    if beside:
        raise ValueError(f"`packed` and `page` go with causal, softcap, alibi, sinks and lse, but not with {beside}")
    causal, queries, keys = bool(wanted["causal"]), wanted["seq"], wanted["kv_seq"] or wanted["seq"]
    if wanted["packed"] == "":
        return Spans("b") if queries == 1 else Spans("bp", 1, causal)
    if wanted["page"] != "":
        raise ValueError("`packed` queries over pages are pieces of one sequence each: give `batch` and `seq` instead")
    if wanted["batch"] != 1 or (causal and queries != keys):
        raise ValueError(
            "`packed` sequences are one batch, causal ones of as many queries as keys, but got "
            f"batch={wanted['batch']}, seq={queries}, kv_seq={keys}"
        )
    return Spans("bp", wanted["packed"], causal)


def _slopes(wanted: Mapping[str, Any], align: Align, spans: Spans | None) -> Slopes:
    standard = wanted["alibi"] == "standard"
    return Slopes(standard, align) if spans is None else PlacedSlopes(standard, axes=spans.axes)


def _pose(wanted: Mapping[str, Any], dtype: str) -> Posed:
    variant = _variant(wanted)
    heads, seq, head_dim = wanted["heads"], wanted["seq"], wanted["head_dim"]
    problem = attention_problem(
        batch=wanted["batch"],
        heads=heads,
        kv_heads=wanted["kv_heads"] or heads,
        seq=seq,
        kv_seq=wanted["kv_seq"] or seq,
        head_dim=head_dim,
        value_dim=wanted["value_dim"] or head_dim,
        dtype=dtype,
        scale=None if wanted["scale"] == "" else wanted["scale"],
        variant=variant,
    )
    return Posed(
        problem, _title(problem.sizes, dtype, variant), _folder(problem.sizes, dtype, variant, wanted), variant
    )


def _heads(sizes: Mapping[str, int]) -> tuple[int, int]:
    return sizes["h"] * sizes.get("g", 1), sizes["h"]


def _title(sizes: Mapping[str, int], dtype: str, variant: Attention) -> str:
    heads, kv_heads = _heads(sizes)
    parts = [f"batch {sizes['b']}", counted(heads, "heads")]
    parts += [counted(kv_heads, "kv heads")] if kv_heads != heads else []
    same = sizes["p"] == sizes["m"]
    parts.append(f"length {sizes['p']}" if same else f"{counted(sizes['p'], 'queries')}, {counted(sizes['m'], 'keys')}")
    parts.append(f"head dim {sizes['e']}")
    parts += [f"value dim {sizes['f']}"] if sizes["e"] != sizes["f"] else []
    return "Attention: " + ", ".join(filter(None, [*parts, dtype, variant.words]))


def _folder(sizes: Mapping[str, int], dtype: str, variant: Attention, wanted: Mapping[str, Any]) -> str:
    heads, kv_heads = _heads(sizes)
    groups = f"kv{kv_heads}" if kv_heads != heads else ""
    keys = f"k{sizes['m']}" if sizes["p"] != sizes["m"] else ""
    columns = f"v{sizes['f']}" if sizes["e"] != sizes["f"] else ""
    name = f"attention-b{sizes['b']}-h{heads}{groups}-s{sizes['p']}{keys}-d{sizes['e']}{columns}-{dtype}"
    scale = f"scale{wanted['scale']:g}" if wanted["scale"] != "" else ""
    return "-".join(filter(None, [name, variant.slug, scale]))


WORKLOADS["attention"] = Workload("attention", attention, OPTIONS, pose=_pose)
