"""Modifiers of attention's scores, alone and combined, against the same in plain PyTorch operators."""

from __future__ import annotations

import numpy as np
import pytest
from attention_variants import ALONE, combinations, plainly, variant_data
from hypothesis import given, settings

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade
from eintune.space.derivation.derive import derive
from eintune.space.workloads.attention import Attention
from eintune.space.workloads.modifiers import Causal, Window

SIZES = {"b": 2, "h": 2, "p": 5, "m": 7, "e": 4, "f": 6}


def compare(variant: Attention, sizes: dict[str, int]) -> None:
    cascade = variant.cascade(grouped="g" in sizes)
    assert Cascade.parse(str(cascade)) == cascade
    data = variant_data(variant, sizes)
    numbers = {"scale": 0.3} | {n: x for m in variant.modifiers for n, x in m.params.items()}
    bound = sizes | {r: n for m in variant.modifiers for r, n in m.bound(sizes).items()}
    made = run_cascade(cascade, data, bound, numbers)
    wanted = plainly(variant, sizes, data, 0.3)
    assert made.keys() == wanted.keys()
    for name, want in wanted.items():
        np.testing.assert_allclose(made[name], want, rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("sizes", [SIZES, {**SIZES, "g": 3}, {**SIZES, "p": 8, "m": 3}], ids=["", "grouped", "tall"])
@pytest.mark.parametrize("name", ALONE)
def test_a_modifier_is_what_it_says(name: str, sizes: dict[str, int]) -> None:
    compare(ALONE[name], sizes)


@settings(max_examples=40, deadline=None)
@given(combinations())
def test_modifiers_combine(variant: Attention) -> None:
    compare(variant, {**SIZES, "g": 2})


@pytest.mark.parametrize("name", [n for n in ALONE if n != "sigmoid"])
def test_each_has_a_form_of_one_pass(name: str) -> None:
    found = derive(ALONE[name].cascade())
    assert found.cascades[0].passes == 1 and not found.unstable


def test_one_derivation_serves_every_window() -> None:
    assert Attention((Causal(), Window(3))).cascade() == Attention((Causal(), Window(1024))).cascade()


def test_a_kind_stands_once() -> None:
    with pytest.raises(ValueError, match="a modifier stands once in an attention, but got Window 2 times"):
        Attention((Window(3), Causal(), Window(4)))
