"""A plan means what its cascade means: padded tiles, masks, skipped tiles and known filters included."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from plan_cases import Form, forms
from plan_checks import SIZES, data_for, meaning, problem_of, relative_error, schedule_of
from plan_interpreter import run_plan
from strategies import Drawn, computations

from eintune.space.cascade.cascade import Cascade
from eintune.space.lowering.lower import IllegalPlan, build_plan
from eintune.space.schedule.schedule import FILTERS, Schedule


def worst(definition: Cascade, computed: Cascade, sizes: dict[str, int], schedule: Schedule) -> float:
    """The largest relative error of the plan, run as it is defined."""
    problem = problem_of(definition, sizes, "fp64", {})
    plan = build_plan(computed, problem, schedule)
    data = data_for(definition, problem.sizes)
    made = run_plan(plan, data)
    return max(relative_error(made[n], exact) for n, exact in meaning(definition, sizes, data, {}).items())


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("form", forms(), ids=lambda f: f.name)
def test_tabled_computations(form: Form, filters: str) -> None:
    sizes = SIZES["odd"] | {"b": 1, "h": 2}
    assert worst(form.definition, form.computed, sizes, schedule_of(form, sizes, "triton", filters=filters)) < 1e-12


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(computations())
def test_drawn_computations(drawn: Drawn) -> None:
    try:
        error = worst(drawn.cascade, drawn.cascade, drawn.sizes, drawn.schedule)
    except IllegalPlan as refusal:
        assert "cannot stand in another one" in str(refusal)
        return
    assert error < 1e-10
