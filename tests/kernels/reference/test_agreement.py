"""A stored cascade is compared with the definition before it runs."""

from __future__ import annotations

import pytest

from eintune.kernels.reference.agreement import agrees
from eintune.space.cascade.cascade import Cascade
from eintune.space.workloads.builtin import WORKLOADS, attention

DEFINITION = "Yp = Xp,m · Wm :: ∨m +(∪)\nZp = Yp / 4"


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_a_definition_agrees_with_its_own_text(name: str) -> None:
    cascade = WORKLOADS[name]()
    assert agrees(Cascade.parse(str(cascade)), cascade, {"scale": 0.3, "eps": 0.1})


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Yp = Xp,m / 4 · Wm :: ∨m +(∪)\nZp = Yp", True),
        ("Yp = Xp,m · Wm :: ∨m +(∪)\nZp = Yp / 4.0001", False),
        ("Yp = Xp,m · Wm :: ∨m +(∪)\nCp = Yp / 4", False),
        ("Yp = Xp,m · Vm :: ∨m +(∪)\nZp = Yp / 4", False),
        ("Yp = Xp,m :: ∨m +(∪)\nZp = Yp / 4", False),
        ("Zp = Xp,m · Wm / scale :: ∨m +(∪)", False),
    ],
)
def test_what_computes_something_else_does_not_agree(text: str, same: bool) -> None:
    definition = Cascade.parse(DEFINITION)
    assert agrees(Cascade.parse(text), definition, {}) is same


def test_filters_and_scalars_count() -> None:
    plain, top, lower = (attention(causal=c) for c in (None, "top_left", "lower_right"))
    for one, two in ((plain, top), (top, lower), (plain, lower)):
        assert not agrees(one, two, {"scale": 0.3})
    assert not agrees(plain, plain, {})
