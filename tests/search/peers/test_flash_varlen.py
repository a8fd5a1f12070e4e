"""FlashAttention's packed and paged forms as peers: what they are asked is what the problem is."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from packed_reference import packed
from torch import Tensor

from eintune.search.measure.inputs import draw_inputs
from eintune.search.measure.reference import reference
from eintune.search.peers.attention import flash_attention_4
from eintune.search.peers.score_mods import Unavailable
from eintune.space.workloads.workload import WORKLOADS, Posed


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A library in FlashAttention's place, which computes what its arguments say; how it was asked."""
    found: list[dict[str, Any]] = []

    def flash_attn_varlen_func(  # type: ignore[no-untyped-def]
        q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, seqused_k=None,
        page_table=None, softmax_scale=None, causal=False, softcap=0.0, learnable_sink=None,
    ) -> Tensor:  # fmt: skip
        found.append({"causal": causal, "paged": page_table is not None})
        cu_q = cu_seqlens_q.tolist()
        if page_table is not None:
            room = page_table.shape[1] * k.shape[1]
            k, v = (t[page_table.flatten().long()].flatten(0, 1) for t in (k, v))
            cu_k, used = [n * room for n in range(len(cu_q))], seqused_k.tolist()
        else:
            cu_k, used = cu_seqlens_k.tolist(), None
        options: dict[str, Any] = {"causal": causal, "scale": softmax_scale, "softcap": softcap or None}
        return packed(q, k, v, cu_q, cu_k, used, sinks=learnable_sink, **options)[0].to(q.dtype)

    module = types.ModuleType("flash_attn.cute")
    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", module)
    return found


def posed(**options: Any) -> Posed:
    return WORKLOADS["attention"].posed({"heads": 4, "head_dim": 16, **options}, "fp32")


CASES: dict[str, dict[str, Any]] = {
    "packed": {"seq": 24, "packed": 3},
    "packed, causal": {"seq": 24, "packed": 3, "causal": "lower_right", "kv_heads": 2, "sinks": True},
    "more keys": {"seq": 6, "kv_seq": 48, "packed": 3, "softcap": 2.0},
    "pages": {"batch": 3, "seq": 6, "kv_seq": 21, "page": 8, "causal": "lower_right"},
    "pages, all keys": {"batch": 2, "seq": 6, "kv_seq": 16, "page": 8, "kv_heads": 2},
    "one query a sequence": {"batch": 5, "seq": 1, "kv_seq": 40, "page": 8, "kv_heads": 2},
}


@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_problem(name: str, asked: list[dict[str, Any]]) -> None:
    case = posed(**CASES[name])
    inputs = draw_inputs(case.problem, "cpu")
    if "SINK" in inputs:
        inputs["SINK"] = inputs["SINK"].bfloat16().float()
    run = flash_attention_4(case.problem, inputs, about=case.about)
    assert not reference(case.problem, inputs).fault(run(), 4.0)
    assert asked == [{"causal": "causal" in CASES[name], "paged": "page" in CASES[name]}]


CANNOT: dict[str, tuple[dict[str, Any], str]] = {
    "slopes": ({"seq": 24, "packed": 3, "alibi": "tensor"}, "it has no argument for ALiBi from places"),
    "a log-sum-exp": ({"seq": 24, "packed": 3, "lse": True}, "returns no log-sum-exp"),
    "parts": ({"seq": 25, "packed": 3}, "its sequences are of whole lengths"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_it_has_no_argument_for(name: str, asked: list[dict[str, Any]]) -> None:
    options, said = CANNOT[name]
    case = posed(**options)
    with pytest.raises(Unavailable, match=said):
        flash_attention_4(case.problem, draw_inputs(case.problem, "cpu"), about=case.about)


def test_an_older_version_is_told(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    older = types.ModuleType("flash_attn.cute")
    older.flash_attn_varlen_func = lambda q, k, v, cu_seqlens_q: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn.cute", older)
    case = posed(seq=24, packed=3)
    with pytest.raises(Unavailable, match="the installed version has no argument `softmax_scale`"):
        flash_attention_4(case.problem, draw_inputs(case.problem, "cpu"), about=case.about)


def test_what_is_drawn_are_sequences_of_one_length() -> None:
    inputs = draw_inputs(posed(seq=8, packed=2, causal="top_left").problem, "cpu")
    assert inputs["FIRST"].tolist() == [[0, 0, 0, 0, 4, 4, 4, 4]] and inputs["END"].tolist() == [[*range(1, 9)]]
    inputs = draw_inputs(posed(seq=4, kv_seq=9, packed=2).problem, "cpu")
    assert inputs["FIRST"].tolist() == [[0, 0, 4, 4]] and inputs["END"].tolist() == [[4, 4, 9, 9]]
    inputs = draw_inputs(posed(batch=2, seq=3, kv_seq=8, page=4, causal="lower_right").problem, "cpu")
    assert not inputs["FIRST"].any() and inputs["END"].tolist() == [[6, 7, 8]] * 2
    inputs = draw_inputs(posed(batch=9, seq=1, kv_seq=20, page=4).problem, "cpu")
    assert not inputs["FIRST"].any() and 1 <= inputs["END"].min() <= inputs["END"].max() <= 20
    assert len(set(inputs["END"].tolist())) > 1 and torch.equal(inputs["BT"].flatten().sort()[0], torch.arange(45))
