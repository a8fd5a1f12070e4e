"""Peers: each computes what it is said to, modifiers included, or says why it cannot."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from attention_variants import published_slopes
from torch import Tensor

from eintune.search.measure.inputs import draw_inputs
from eintune.search.measure.reference import reference
from eintune.search.peers import score_mods
from eintune.search.peers import torch_compile as compiling
from eintune.search.peers.attention import Operands, eager, flash_attention_4, sdpa
from eintune.search.peers.flex import flex
from eintune.search.peers.peers import PEERS, attention_peers, missing_peers, peers_of
from eintune.search.peers.rows import FUNCTIONS
from eintune.search.peers.score_mods import FILTERS, READERS, SCORES, Unavailable
from eintune.space.cascade.problem import Problem
from eintune.space.tracing.site import AXES
from eintune.space.workloads import modifiers, spans
from eintune.space.workloads.attention import Attention, attention_problem
from eintune.space.workloads.builtin import WORKLOADS
from eintune.space.workloads.modifiers import (
    ALIGN,
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

CASES = {
    "plain": Attention(),
    "causal": Attention((Causal(),)),
    "lower right": Attention((Causal("lower_right"),)),
    "window": Attention((Window(3), Causal())),
    "both sides": Attention((Window(3, both=True, align="lower_right"),)),
    "prefix": Attention((Prefix(3),)),
    "prefix, lower right": Attention((Prefix(6, align="lower_right"),)),
    "softcap": Attention((Softcap(1.5), Causal())),
    "slopes": Attention((Slopes(), Causal())),
    "standard slopes": Attention((Slopes(standard=True),)),
    "slopes, lower right": Attention((Slopes(align="lower_right"), Causal("lower_right")), lse=True),
    "bias": Attention((Bias("hpm"),)),
    "relative bias": Attention((RelativeBias(99), Causal("lower_right"))),
    "documents": Attention((Documents(), Causal())),
    "spans": Attention((Spans(),)),
    "packed, slopes": Attention((PlacedSlopes(), Spans("bp", 2))),
    "keys up to a length": Attention((PlacedSlopes(standard=True, axes="b"), Spans("b"))),
    "mask": Attention((Mask("bpm"), Causal())),
    "head scale": Attention((HeadScale(), Bias("bm"))),
    "sinks": Attention((Causal(),), sinks=True),
    "lse": Attention((Causal(),), lse=True),
    "all": Attention((HeadScale(), Softcap(2.0), Slopes(), Window(4), Causal()), sinks=True, lse=True),
    "sigmoid": Attention((Bias("pm"), Causal()), weights="sigmoid"),
}
FLEX_CANNOT = {"sigmoid"}
SDPA_CANNOT = {"slopes, lower right", "softcap", "head scale", "sinks", "lse", "all", "sigmoid"}
NAMED = pytest.mark.parametrize("name", CASES)


def posed(about: Attention, *, kv_heads: int = 2, seq: int = 5, kv_seq: int = 9, head_dim: int = 16) -> Problem:
    return attention_problem(
        batch=2, heads=4, kv_heads=kv_heads, seq=seq, kv_seq=kv_seq, head_dim=head_dim, dtype="fp32", variant=about
    )


def fault(factory: Callable[..., Any], about: Attention, *, problem: Problem | None = None, **options: Any) -> str:
    wanted = problem or posed(about)
    inputs = draw_inputs(wanted, "cpu")
    return reference(wanted, inputs).fault(factory(wanted, inputs, about=about, **options)(), 4.0)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """torch.compile itself is PyTorch's matter (and takes long): what it is given runs as it is; how it was asked."""
    import torch._dynamo.config

    asked: list[Any] = []
    counted = iter(range(10_000))

    def run_as_it_is(function: Callable[..., object], **options: object) -> Callable[..., object]:
        if "backend" not in options:  # with one, FlexAttention calls it itself
            asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", run_as_it_is)
    monkeypatch.setattr(compiling, "graphs", lambda: next(counted))
    config: Any = torch._dynamo.config
    with config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        yield asked


# ---- right, with every modifier


@NAMED
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_the_definition_in_pytorch(name: str, kv_heads: int) -> None:
    about = CASES[name]
    assert fault(eager, about, problem=posed(about, kv_heads=kv_heads)) == ""


def test_another_modifier_is_another_result() -> None:
    """The check can fail: peers that do something else are found out."""
    wanted = posed(CASES["window"])
    inputs = draw_inputs(wanted, "cpu")
    for other in ("plain", "causal", "lower right"):
        made = eager(wanted, inputs, about=CASES[other])()
        assert "but the budget is" in reference(wanted, inputs).fault(made, 4.0)


@NAMED
def test_sdpa(name: str) -> None:
    if name in SDPA_CANNOT:
        with pytest.raises(Unavailable, match=r"^it (has neither|takes masks and biases, but not )"):
            fault(sdpa, CASES[name], backend="sdpa")
    else:
        assert fault(sdpa, CASES[name], backend="sdpa") == ""


@NAMED
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention(name: str, uncompiled: list[Any]) -> None:
    if name in FLEX_CANNOT:
        with pytest.raises(Unavailable, match="sigmoid"):
            fault(flex, CASES[name], mode=None)
    else:
        assert fault(flex, CASES[name], mode=None) == ""


def test_every_modifier_has_a_form_for_peers() -> None:
    every = {
        m
        for m in (*vars(modifiers).values(), *vars(spans).values())
        if isinstance(m, type) and issubclass(m, Modifier) and m is not Modifier
    }
    assert every == {*SCORES, *FILTERS}
    assert all(m.filters == (m in FILTERS) for m in every)
    subsets = {"".join(a for i, a in enumerate(AXES) if bits >> i & 1) for bits in range(1, 2 ** len(AXES))}
    assert set(READERS) == subsets


@pytest.mark.parametrize("axes", READERS)
def test_readers_look_at_their_axes(axes: str) -> None:
    at = {"b": 1, "h": 2, "p": 3, "m": 4}
    t = torch.arange(5 ** len(axes)).view(*[5] * len(axes))
    assert READERS[axes](t)(*map(torch.tensor, at.values())) == t[tuple(at[a] for a in axes)]


# ---- under the compiler


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("name", ["flex", "flex-max-autotune", "compiled"])
def test_what_is_handed_to_the_compiler(name: str, uncompiled: list[Any]) -> None:
    import torch._dynamo.config

    (peer,) = attention_peers("cpu", CASES["lower right"], (name,))
    module, _, function = peer.factory.partition(":")
    wanted = posed(CASES["lower right"])
    inputs = draw_inputs(wanted, "cpu")
    made = getattr(importlib.import_module(module), function)(wanted, inputs, **peer.options)()
    assert reference(wanted, inputs).fault(made, 4.0) == ""
    mode = "max-autotune-no-cudagraphs" if name == "flex-max-autotune" else None
    assert uncompiled == [{"dynamic": False, "fullgraph": True, "mode": mode}]
    config: Any = torch._dynamo.config
    assert config.recompile_limit >= 64 and config.fail_on_recompile_limit_hit


def test_what_ran_uncompiled_is_refused(uncompiled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "graphs", lambda: 7)
    with pytest.raises(Unavailable, match="ran it uncompiled"):
        compiling.compiled(lambda: 1)()


def test_graphs_are_counted_for_real() -> None:
    before = compiling.graphs()
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(3))
    assert compiling.graphs() == before + 1


# ---- rows


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("peer", ["eager", "compiled"])
def test_functions_over_rows(name: str, peer: str, uncompiled: list[Any]) -> None:
    row = WORKLOADS[name]
    sizes = dict(zip((o.name for o in row.options if o.kind == "size"), (6, 24, 8), strict=False))
    problem = row.posed(sizes, "fp32").problem
    inputs = draw_inputs(problem, "cpu")
    (found,), refused = peers_of(problem, None, (peer,))
    module, _, function = found.factory.partition(":")
    made = getattr(importlib.import_module(module), function)(problem, inputs, **found.options)()
    assert not refused and reference(problem, inputs).fault(made, 4.0) == ""
    assert len(uncompiled) == (peer == "compiled")


def test_peers_that_compute_something_else() -> None:
    problem = WORKLOADS["softmax"].posed({"rows": 4, "cols": 8}, "fp32").problem
    found, refused = peers_of(problem, None, tuple(PEERS))
    assert {p.label for p in found} == {"eager", "compiled"}
    assert refused["sdpa"] == "computes no softmax" and set(refused) | {p.label for p in found} == set(PEERS)
    unknown = WORKLOADS["linear_attention"].posed({}, "fp32").problem
    (peer,), _ = peers_of(unknown, None, ("eager",))
    with pytest.raises(Unavailable, match="no function of PyTorch is known for linear_attention"):
        importlib.import_module("eintune.search.peers.rows").library(unknown, {}, **peer.options)
    with pytest.raises(ValueError, match="but got 'fastest'"):
        peers_of(problem, None, ("fastest",))


# ---- FlashAttention, which is not here


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in with its signature and layout; what it was called with."""
    calls: list[dict[str, Any]] = []

    def flash_attn_func(  # type: ignore[no-untyped-def]
        q, k, v, softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None, softcap=0.0
    ) -> tuple[Tensor, None]:
        assert q.is_contiguous() and q.shape == (2, 9, 4, 16) and k.shape == (2, 9, 2, 16)
        calls.append({"causal": causal, "window": window_size, "sink": learnable_sink, "softcap": softcap})
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True
        )
        return out.transpose(1, 2), None

    module = types.ModuleType("flash_attn.cute")
    module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", module)
    return calls


@pytest.mark.parametrize("name", ["plain", "causal", "lower right"])
def test_flash_attention_gets_its_layout(name: str, flash: list[dict[str, Any]]) -> None:
    assert fault(flash_attention_4, CASES[name], problem=posed(CASES[name], seq=9)) == ""


@pytest.mark.parametrize(
    ("about", "says"),
    [
        (Attention((Window(4),)), {"causal": False, "window": (3, None)}),
        (Attention((Window(4), Causal())), {"causal": False, "window": (3, 0)}),
        (Attention((Window(4, both=True),)), {"causal": False, "window": (3, 3)}),
        (Attention((Softcap(30.0), Causal())), {"causal": True, "softcap": 30.0}),
    ],
)
def test_flash_attention_is_told_the_modifiers(
    about: Attention, says: dict[str, Any], flash: list[dict[str, Any]]
) -> None:
    wanted = posed(about, seq=9)
    flash_attention_4(wanted, draw_inputs(wanted, "cpu"), about=about)()
    (call,) = flash
    assert says.items() <= call.items()


def test_flash_attention_gets_the_sinks_by_head(flash: list[dict[str, Any]]) -> None:
    wanted = posed(CASES["sinks"], seq=9)
    inputs = draw_inputs(wanted, "cpu")
    flash_attention_4(wanted, inputs, about=CASES["sinks"])()
    assert flash[0]["sink"].equal(inputs["SINK"].flatten())


@pytest.mark.parametrize(
    ("about", "seq", "says"),
    [
        (CASES["causal"], 5, "aligned to the last query"),
        (CASES["documents"], 9, "no argument for documents"),
        (CASES["bias"], 9, "no argument for bias over hpm"),
        (CASES["sigmoid"], 9, "no weights by sigmoid"),
    ],
)
def test_flash_attention_says_what_it_lacks(about: Attention, seq: int, says: str, flash: list[dict[str, Any]]) -> None:
    wanted = posed(about, seq=seq)
    with pytest.raises(Unavailable, match=says):
        flash_attention_4(wanted, draw_inputs(wanted, "cpu"), about=about)


# ---- where they run


def test_a_backend_says_why_it_does_not_run() -> None:
    wanted = posed(Attention())
    with pytest.raises((Unavailable, RuntimeError), match=r"(?i)backend|kernel"):
        sdpa(wanted, draw_inputs(wanted, "cpu"), backend="sdpa-cudnn", about=Attention())


def test_peers_that_cannot_run_here() -> None:
    missing = missing_peers(tuple(PEERS), "cpu")
    assert set(missing) == {"sdpa-cudnn", "sdpa-efficient", "flash-attn-4"}
    if "flash-attn-4" in missing_peers(tuple(PEERS), "cuda"):
        assert missing_peers(["flash-attn-4"], "cuda") == {"flash-attn-4": "not installed (no module flash_attn.cute)"}
    assert [p.label for p in attention_peers("cuda", None, tuple(PEERS))] == list(PEERS)


def test_operands_put_all_query_heads_on_one_axis() -> None:
    about = CASES["sinks"]
    problem = posed(about)
    inputs = draw_inputs(problem, "cpu")
    t = Operands.of(problem, inputs, about)
    assert t.q.shape == (2, 4, 5, 16) and t.k.shape == (2, 2, 9, 16) and t.grouped
    assert t.sink is not None and t.sink.equal(inputs["SINK"].flatten())
    assert t.given.shift("lower_right") == 4 and all(t.given.shift(a) == 0 for a in ALIGN[:1])


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 20, 71])
def test_the_peers_slopes_are_the_published_ones(heads: int) -> None:
    found = score_mods.standard_slope(torch.arange(heads), heads)
    assert found.tolist() == pytest.approx(published_slopes(heads), rel=1e-6)
