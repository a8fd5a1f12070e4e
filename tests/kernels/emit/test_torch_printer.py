"""The torch emitter is the meaning of a plan: every form of every case, against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from plan_cases import Form, cascade, forms, one, three
from plan_checks import (
    SIZES,
    batched,
    data_for,
    meaning,
    problem_of,
    relative_error,
    run_kernel,
    schedule_of,
    worst_error,
)
from strategies import Drawn, computations

from eintune.kernels.generate.emitters import emit
from eintune.space.ir.expr import Access, Reduce, Tensor
from eintune.space.lowering.lower import IllegalPlan, build_plan

FORMS = forms()


BY_TURNS = [
    pytest.param(form, size, marks=[pytest.mark.soak] if j and j != 1 + i % 3 else [], id=f"{form.name}-{size}")
    for i, form in enumerate(FORMS)
    for j, size in enumerate(("odd", "even", "tall", "one"))
]
"""Each form in lengths that no tile divides, and in one other kind by turns; in all in long runs."""


@pytest.mark.parametrize(("form", "size"), BY_TURNS)
def test_agrees_with_the_definition(form: Form, size: str) -> None:
    sizes = SIZES[size]
    assert worst_error(form, sizes, schedule_of(form, sizes, "torch")) < 1e-12


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_whole_batch_axes_and_masks_everywhere(form: Form) -> None:
    sizes = SIZES["odd"]
    schedule = batched(schedule_of(form, sizes, "torch", filters="every"), sizes, form.scalar)
    assert worst_error(form, sizes, schedule) < 1e-12


@pytest.mark.parametrize("name", ["triangle one", "triangle local", "norm two passes", "gated", "loss one"])
def test_single_precision(name: str) -> None:
    (form,) = (f for f in FORMS if f.name == name)
    sizes = SIZES["odd"]
    assert worst_error(form, sizes, schedule_of(form, sizes, "torch"), "fp32") < 2e-6


def test_half_precision_multiplies_narrow_and_sums_wide() -> None:
    (form,) = (f for f in FORMS if f.name == "triangle one")
    sizes = SIZES["odd"]
    assert worst_error(form, sizes, schedule_of(form, sizes, "torch"), "bf16") < 2e-2


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(computations())
def test_drawn_computations_agree_with_their_meaning(drawn: Drawn) -> None:
    schedule = replace(drawn.schedule, emitter="torch")
    problem = problem_of(drawn.cascade, drawn.sizes, "fp64", {})
    try:
        plan = build_plan(drawn.cascade, problem, schedule)
    except IllegalPlan as refusal:
        assert "cannot stand in another one" in str(refusal)
        return
    data = data_for(drawn.cascade, drawn.sizes)
    made = run_kernel(emit(plan, schedule), data)
    for name, exact in meaning(drawn.cascade, drawn.sizes, data, {}).items():
        assert relative_error(made[name], exact) < 1e-10


def test_a_tensor_may_be_read_under_two_names_of_its_axes() -> None:
    x = Tensor("X", ("p", "e"))
    score = Reduce("add", "e", Access(x, ("p", "e")) * Access(x, ("m", "e"))) * 0.3
    values = Access(x, ("m", "f"))
    definition = cascade({"O": (three(score, values), "pf")})
    sizes = {"p": 40, "m": 40, "e": 24, "f": 24}
    form = Form("self", definition, cascade({"O": (one(score, values), "pf")}))
    assert worst_error(form, sizes, schedule_of(form, sizes, "torch")) < 1e-12


def source_of(name: str, size: str = "even", **change: int) -> str:
    (form,) = (f for f in FORMS if f.name == name)
    sizes = SIZES[size] | change
    schedule = schedule_of(form, sizes, "torch")
    problem = problem_of(form.definition, sizes, "fp32", {})
    return emit(build_plan(form.computed, problem, schedule), schedule).source


def test_temporaries_are_overwritten_and_inputs_are_not() -> None:
    source = source_of("plain one")
    assert ".mul_(" in source and "addcmul(" in source and "out=product)" in source
    assert ".exp2_()" in source and ".addmm_(" in source
    assert not any(line.strip().startswith(("q = q.", "k = k.", "v = v.")) for line in source.splitlines())


def test_slices_need_no_masks() -> None:
    assert "where" not in source_of("plain one", "odd").split("def kernel")[1]


def test_a_filter_is_printed_in_its_own_segment_only() -> None:
    body = source_of("triangle one", p=128).split("def kernel")[1]
    assert body.count("for m_first") == 2
    assert body.count("masked_fill_(~") == 1
