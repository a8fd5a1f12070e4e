"""Chains of any length on every emitter, against float64: many operators, several products in one kernel."""

from __future__ import annotations

import functools

import pytest
from kernel_errors import off

from eintune.space.cascade.cascade import Cascade
from eintune.space.derivation.derive import derive
from eintune.space.workloads.builtin import WORKLOADS
from eintune.space.workloads.chains import CHAINS

EMITTERS = [("torch", "fp64"), pytest.param(("triton", "fp32"), marks=pytest.mark.interpreter)]
TOLERANCE = {"fp64": 1e-11, "fp32": 2e-5}


@functools.cache
def forms(definition: Cascade) -> tuple[Cascade, ...]:
    found = derive(definition, keep=3)
    assert found.complete
    return tuple(d.cascade for d in found.cascades)


@pytest.mark.parametrize("on", EMITTERS, ids=lambda on: on[0])
@pytest.mark.parametrize("operators", [6, 12, 24, pytest.param(48, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", CHAINS)
def test_chains(kind: str, operators: int, on, execute) -> None:
    definition = CHAINS[kind](operators)
    loop = {"pointwise": "e", "factors": "m"}.get(kind, "r1")
    sizes = {r: 20 if kind == "pointwise" else 17 + i % 3 for i, r in enumerate(definition.ranks())}
    for form in forms(definition):
        assert off(execute, definition, form, on, loop, sizes) < TOLERANCE[on[1]], str(form)


@pytest.mark.parametrize("on", EMITTERS, ids=lambda on: on[0])
@pytest.mark.parametrize("loop", ["e", "m", "n"])
def test_twenty_operators_with_three_products_in_one_kernel(loop: str, on, execute) -> None:
    definition = WORKLOADS["long_chain"]()
    (form,) = forms(definition)
    sizes = {"p": 37, "e": 40, "m": 50, "n": 33, "f": 24}
    assert off(execute, definition, form, on, loop, sizes) < TOLERANCE[on[1]]


@pytest.mark.parametrize("on", EMITTERS, ids=lambda on: on[0])
@pytest.mark.parametrize("name", ["six_operators", "same_operand", "linear_cross_entropy", "rmsnorm_matmul"])
def test_other_chains_as_they_are_derived(name: str, on, execute) -> None:
    definition = WORKLOADS[name]()
    sizes = {"p": 37, "m": 21, "e": 21, "f": 24}
    sizes = {r: n for r, n in sizes.items() if r in definition.ranks()}
    for form in forms(definition):
        assert off(execute, definition, form, on, "m", sizes) < TOLERANCE[on[1]], str(form)


def test_an_exponential_without_a_bound_is_kept_and_reported() -> None:
    d = derive(WORKLOADS["six_operators"]())
    assert d.unstable == ("M_exp stays, as no safe form exists: the exponent is not bounded above",)
    assert [c.passes for c in d.cascades] == [1]


def test_the_loss_over_a_vocabulary_goes_over_it_once() -> None:
    *best, _, _ = derive(WORKLOADS["linear_cross_entropy"]()).cascades
    assert [d.passes for d in best] == [1, 1] and all("fold.scale" in str(d.signature) for d in best)
    assert ["E[T[p],e else 0]" in str(d.cascade) for d in best] == [False, True]


def test_a_norm_before_a_product_divides_after_it() -> None:
    best = derive(WORKLOADS["rmsnorm_matmul"]()).cascades[0]
    assert best.passes == 1 and "division" in best.description and "after" in best.description
