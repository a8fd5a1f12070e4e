"""Triton kernels of every tabled and of drawn computations agree with the float64 meaning."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, reject, settings
from kernel_errors import worst
from plan_cases import Form, forms
from plan_checks import schedule_of
from strategies import Drawn, computations

from eintune.space.lowering.lower import IllegalPlan

pytestmark = pytest.mark.interpreter

FORMS = forms()
SIZES = {
    "odd": {"b": 1, "h": 2, "g": 2, "p": 19, "m": 37, "e": 20, "f": 24, "j": 21},
    "one": dict.fromkeys("bhgpmefj", 1),
}


WAYS = [("odd", "segments"), ("odd", "branch"), ("one", "segments")]
"""Every form in two of these, by turns; in the third in long runs."""
IN_TURN = [
    pytest.param(form, *way, marks=[pytest.mark.soak] if (i + j) % 3 == 0 else [], id=f"{form.name}-{'-'.join(way)}")
    for i, form in enumerate(FORMS)
    for j, way in enumerate(WAYS)
]


@pytest.mark.parametrize(("form", "size", "filters"), IN_TURN)
def test_tabled_computations(form: Form, size: str, filters: str, execute) -> None:
    sizes = SIZES[size]
    schedule = schedule_of(form, sizes, "triton", filters=filters)
    assert worst(execute, form.definition, form.computed, sizes, form.params, schedule) < 3e-5


def agrees(execute, drawn: Drawn) -> None:
    try:
        error = worst(execute, drawn.cascade, drawn.cascade, drawn.sizes, {}, drawn.schedule)
    except IllegalPlan:
        reject()
    assert error < 1e-4


@given(computations())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_drawn_computations(execute, drawn: Drawn) -> None:
    agrees(execute, drawn)


@pytest.mark.soak
@given(computations())
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_drawn_computations(execute, drawn: Drawn) -> None:
    agrees(execute, drawn)
