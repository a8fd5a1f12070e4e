"""What a forward hands over, and the stages of a backward."""

from __future__ import annotations

import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.gradients.training import training
from eintune.space.workloads.attention import Attention
from eintune.space.workloads.modifiers import Bias, Causal, Slopes, Softcap

LAYERNORM = """
Mt = Xt,c / |c|
VRt = (Xt,c - Mt) * (Xt,c - Mt) / |c|
Yt,c = (Xt,c - Mt) / sqrt(VRt + eps) * Wc + Bc
"""


def results(cascade: Cascade) -> dict[str, str]:
    return {n: ",".join(t.ranks) for n, t in cascade.outputs.items()}


@pytest.mark.parametrize("modifiers", [(), (Causal(),), (Softcap(30.0), Causal())])
def test_attention_hands_over_two_numbers_a_row(modifiers: tuple) -> None:
    """Not their sum: the logarithm of a sum would be lost beside a large maximum."""
    found = training(Attention(modifiers).cascade())
    assert results(found.forward) == {"AV": "b,h,p,f", "GM": "b,h,p", "R": "b,h,p"}
    assert "Rb,h,p = log(SDb,h,p)" in str(found.forward)
    for stage in found.stages[1:]:
        assert "- reference(GMb,h,p) - reference(Rb,h,p))" in str(stage)
    assert [results(s) for s in found.stages] == [
        {"RA": "b,h,p"},
        {"DQ": "b,h,p,e"},
        {"DK": "b,h,m,e", "DV": "b,h,m,f"},
    ]
    assert str(found.stages[0]).startswith("RAb,h,p = DAVb,h,p,f * AVb,h,p,f\n")
    for stage in found.stages[1:]:
        assert "max" not in str(stage)


def test_statistics_that_are_results_are_handed_over_anyway() -> None:
    found = training(Attention(lse=True, statistics=True).cascade(), of=("AV", "L"))
    assert found.residuals == ()
    assert "DLb,h,p - " in str(found.stages[0])


def test_a_slope_is_summed_over_the_keys_where_the_queries_gradient_is() -> None:
    found = training(Attention((Slopes(), Causal())).cascade(grouped=True))
    stages = [results(s) for s in found.stages]
    (partial,) = [name for name in stages[1] if name != "DQ"]
    assert stages[1] == {"DQ": "b,h,g,p,e", partial: "b,h,g,p"}
    (at,) = [n for n, outputs in enumerate(stages) if "DSLOPE" in outputs]
    assert stages[at] == {"DSLOPE": "h,g"}
    assert list(found.stages[at].inputs) == [partial]


def test_the_query_heads_of_a_key_head_are_summed_last() -> None:
    found = training(Attention((Causal(),)).cascade(grouped=True))
    *_, products, keys, values = [results(s) for s in found.stages]
    assert list(products.values()) == ["b,h,g,m,e", "b,h,g,m,f"]
    assert [keys, values] == [{"DK": "b,h,m,e"}, {"DV": "b,h,m,f"}]
    assert [list(s.inputs) for s in found.stages[-2:]] == [[n] for n in products]


def test_a_bias_is_summed_over_what_it_is_broadcast_over() -> None:
    found = training(Attention((Bias("hpm"),)).cascade())
    assert {"DBIAS": "h,p,m"} in [results(s) for s in found.stages]


def test_only_what_is_wanted_is_computed() -> None:
    found = training(Attention().cascade(), wrt=["V"])
    assert [results(s) for s in found.stages] == [{"DV": "b,h,m,f"}]


def test_a_layernorm_hands_over_two_numbers_a_row() -> None:
    found = training(Cascade.parse(LAYERNORM))
    assert results(found.forward) == {"Y": "t,c", "M": "t", "R": "t"}
    assert [results(s) for s in found.stages] == [{"DX": "t,c"}, {"DW": "c", "DB": "c"}]
    for stage in found.stages:
        assert {"M", "R"} <= set(stage.inputs) | {"DB"} or "DW" not in stage.outputs


def test_a_stage_reads_what_was_written_before_it() -> None:
    found = training(Attention((Slopes(), Bias("hm"), Causal()), sinks=True, lse=True).cascade(grouped=True))
    known = {*found.forward.inputs, *found.forward.outputs, *found.cotangents.values()}
    for stage in found.stages:
        assert set(stage.inputs) <= known
        known |= set(stage.outputs)
    assert set(found.gradients.values()) <= known
