"""Quotients with a common factor e^C where C is -inf: 0 by definition, by every form, and on each emitter."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from eintune.kernels.generate.emitters import emit
from eintune.kernels.generate.generate import problem_of
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade
from eintune.space.derivation.derive import Derived, derive
from eintune.space.ir.pointwise import Array
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

EMITTERS = ["torch", pytest.param("triton", marks=pytest.mark.interpreter)]
SIZES = {"p": 16, "m": 24, "f": 16, "m1": 3, "m0": 8}
HIDDEN = 3
"""The row of which all of C is -inf."""
TEXTS = {
    "input": "Wp = e^(min(Cp, 0))\nNp,f = sum[m](Sp,m * Vm,f) * Wp\nZp,f = Np,f / (sum[m](abs(Sp,m)) * Wp)",
    "magnitude": "Wp = e^(-abs(Cp))\nNp,f = sum[m](Sp,m * Vm,f) * Wp\nZp,f = Np,f / (sum[m](1 + Sp,m * Sp,m) * Wp)",
    "turned": "Wp = e^(-max(-Cp, 0))\nNp,f = sum[m](Sp,m * Vm,f) * Wp\nZp,f = Np,f / (sum[m](1 + Sp,m * Sp,m) * Wp)",
    "sum": "Wp = e^(min(Cp, 0))\nZp,f = sum[m](Sp,m * Sp,m * Wp * Vm,f) / sum[m](Wp)",
    "reference": "Gp = max[m](Cp,m)\nWp,m = e^((Cp,m - Gp) * scale)\nDp = Wp,m\nZp,f = Wp,m / Dp * Vm,f",
    "parts": (
        "Bp,m1,m0 = split[m -> m1,m0](Cp,m)\nUm1,m0,f = split[m -> m1,m0](Vm,f)\nLp,m1 = max[m0](Bp,m1,m0)\n"
        "Dp,m1 = sum[m0](e^(Bp,m1,m0 - Lp,m1))\nOp,m1,f = sum[m0](e^(Bp,m1,m0 - Lp,m1) * Um1,m0,f) / Dp,m1\n"
        "Ep,m1 = Lp,m1 + log(Dp,m1)\nWp,m1 = e^(Ep,m1 - max[m1](Ep,m1))\n"
        "Zp,f = sum[m1](Op,m1,f * Wp,m1) / sum[m1](Wp,m1)"
    ),
}


@functools.cache
def derived(name: str) -> tuple[Cascade, tuple[Derived, ...]]:
    definition = Cascade.parse(f"{TEXTS[name]}\nresults: Z")
    found = derive(definition)
    assert found.complete and not found.failed
    return definition, found.cascades


def case(definition: Cascade) -> tuple[dict[str, int], dict[str, Array], dict[str, float]]:
    rng = np.random.default_rng(0)
    sizes = {r: SIZES[r] for r in definition.ranks()}
    data = {
        n: rng.normal(size=[SIZES[r] for r in x.ranks]).astype(np.float32).astype(np.float64)
        for n, x in definition.inputs.items()
    }
    data["C"][HIDDEN] = -np.inf
    return sizes, data, {"scale": 0.5} if "scale" in str(definition) else {}


def check(made: Array, exact: Array, tolerance: float) -> None:
    assert (exact[HIDDEN] == 0).all() and (np.delete(exact, HIDDEN, 0) != 0).all()
    assert (made[HIDDEN] == 0).all()
    np.testing.assert_allclose(made, exact, rtol=0, atol=tolerance * np.abs(exact).max())


@pytest.mark.parametrize("name", TEXTS)
def test_every_form_is_0_where_its_definition_is(name: str) -> None:
    definition, forms = derived(name)
    sizes, data, numbers = case(definition)
    exact = run_cascade(definition, data, sizes, numbers)["Z"]
    for form in forms:
        check(run_cascade(form.cascade, data, SIZES, numbers)["Z"], exact, 1e-12)


@pytest.mark.parametrize("name", ["reference", "parts"])
def test_weights_are_0_where_their_reference_is_minus_infinity_and_stay_one_pass(name: str) -> None:
    assert derived(name)[1][0].passes == 1


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("name", TEXTS)
def test_kernels_are_0_where_the_definition_is(name: str, emitter: str, execute) -> None:
    definition, forms = derived(name)
    sizes, data, numbers = case(definition)
    form = forms[0].cascade
    roles = {"p": Role("grid", 16), "m": Role("loop", 8), "f": Role(None, 16)}
    schedule = Schedule(emitter, tuple((r, role) for r, role in roles.items() if r in form.ranks()))
    kernel = emit(build_plan(form, problem_of(definition, sizes, numbers, "fp32"), schedule), schedule)
    tensors = {
        a.name: torch.full(a.shape, float("nan")) if a.output else torch.tensor(data[a.name]).float()
        for a in kernel.arguments
    }
    execute(kernel, list(tensors.values()))
    check(tensors["Z"].double().numpy(), run_cascade(definition, data, sizes, numbers)["Z"], 1e-5)
