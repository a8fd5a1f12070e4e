"""The torch emitter is the meaning of a plan: every form of every case, against float64."""

from __future__ import annotations

import pytest
from plan_cases import Form, forms
from plan_checks import SIZES, schedule_of, worst_error

FORMS = forms()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_agrees_with_the_definition(form: Form, size: str) -> None:
    sizes = SIZES[size]
    assert worst_error(form, sizes, schedule_of(form, sizes, "torch")) < 1e-12
