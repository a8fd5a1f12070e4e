"""The values of a plan are a closed union: whatever is done by kind knows every kind."""

from __future__ import annotations

from typing import get_args

import pytest

from eintune.costmodel.counts.operations import ELEMENT_COST
from eintune.space.ir.approximations import APPROXIMATE_OPS
from eintune.space.ir.pointwise import POINTWISE
from eintune.space.plan.plan import format_value
from eintune.space.plan.values import PLAN_OPERATORS, Constant, Elementwise, Mask, Value, _Node, is_product

KINDS = get_args(Value)


def test_every_node_belongs_to_the_union() -> None:
    assert set(_Node.__subclasses__()) == set(KINDS)


def test_kinds_have_a_name_of_their_own_in_texts_and_costs() -> None:
    names = [kind.mnemonic for kind in KINDS if kind is not Elementwise]
    assert len(set(names)) == len(names) and all(names)
    operators = {*POINTWISE, *APPROXIMATE_OPS, *PLAN_OPERATORS}
    assert not operators & set(names)
    assert set(ELEMENT_COST) <= operators | set(names)


def test_a_node_tells_what_it_holds() -> None:
    assert Constant(number=2.0, dtype="fp32", name="two").own == (2.0,)
    assert Elementwise(operator="add", name="sum").own == ("add",)


def test_a_text_for_a_node_without_arguments() -> None:
    assert format_value(Constant(number=2.0, dtype="fp32", name="two")) == "two[]:fp32 = const 2.0"


def test_products_are_told_from_other_operators() -> None:
    two = Constant(number=2.0, dtype="fp32", name="two")
    assert is_product(Elementwise(operator="mul", args=(two, two)))
    assert not is_product(Elementwise(operator="add", args=(two, two)))


def test_a_field_that_a_node_needs_is_asked_for() -> None:
    with pytest.raises(TypeError, match="predicate"):
        Mask(fill=0.0)  # type: ignore[call-arg]
