"""What a tuned kernel is compared with follows from what it computes."""

from __future__ import annotations

import pytest

from eintune.search.peers.peers import ON_DEVICE
from eintune.search.peers.tuning import tuning_peers
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.builtin import WORKLOADS
from eintune.space.workloads.function_modifiers import MaskMod
from eintune.space.workloads.workload import Posed

SIZE = {"seq": 16, "heads": 2, "head_dim": 16}


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("attention", SIZE, list(ON_DEVICE["cuda"])),
        ("attention", {**SIZE, "causal": "lower_right"}, list(ON_DEVICE["cuda"])),
        ("attention", {**SIZE, "causal": "top_left", "window": 4}, ["flex", "compiled", "eager"]),
        ("attention", {**SIZE, "sinks": True}, ["flex", "compiled", "eager"]),
        ("layernorm", {}, ["compiled", "eager"]),
    ],
)
def test_peers_of_a_workload(name: str, given: dict[str, object], wanted: list[str]) -> None:
    assert [p.label for p in tuning_peers(WORKLOADS[name].posed(given, "bf16"), "cuda")] == wanted


def test_functions_have_no_peers() -> None:
    variant = Attention((MaskMod(lambda b, h, p, m: m <= p),))
    sizes = {"b": 1, "h": 1, "p": 4, "m": 4, "e": 4, "f": 4}
    assert tuning_peers(Posed(posed(variant, sizes, "fp32", {"scale": 1.0}), "", "", variant), "cpu") == []
