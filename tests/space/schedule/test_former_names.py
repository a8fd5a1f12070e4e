"""Records of former names of a schedule's fields and settings."""

from __future__ import annotations

from typing import Any

import pytest

from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

FORMER: dict[str, Any] = {
    "emitter": "triton",
    "roles": {"p": ["grid", 128], "m": ["loop", 64], "e": [None, 64]},
    "warps": 8,
    "stages": 2,
    "filters": "branch",
    "order": "reverse",
    "precision": "ieee",
    "loads": "descriptor",
    "functions": "exact",
    "late": "nothing",
    "bounds": "kernel",
    "workers": "specialised",
    "reference": "stale",
}


def test_former_names_are_read() -> None:
    schedule = Schedule.from_json(FORMER)
    assert (schedule.warp_specialisation, schedule.rescaling, schedule.pipelined) == (
        "producer_consumer",
        "lazy",
        "none",
    )
    assert schedule.role("p") == Role("grid", 128)
    plain = Schedule.from_json(FORMER | {"late": "product", "workers": "alike", "reference": "running"})
    assert (plain.warp_specialisation, plain.rescaling, plain.pipelined) == ("none", "eager", "product")


def test_what_is_written_has_the_present_names_alone() -> None:
    written = Schedule.from_json(FORMER).to_json()
    assert written["warp_specialisation"] == "producer_consumer"
    assert not {"late", "workers", "reference"} & set(written)
    assert Schedule.from_json(written) == Schedule.from_json(FORMER)


@pytest.mark.parametrize(("name", "value"), [("late", "sometimes"), ("workers", 3), ("reference", None)])
def test_a_value_that_no_name_had_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        Schedule.from_json(FORMER | {name: value})


def test_both_names_of_one_field_are_refused() -> None:
    with pytest.raises(ValueError, match="`pipelined`"):
        Schedule.from_json(FORMER | {"pipelined": "none"})
