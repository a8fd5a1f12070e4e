"""A few schedules of a space: some of each way to load and to divide warps."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest

from eintune.space.schedule.space import Space, space_of
from eintune.space.schedule.spread import spread
from eintune.space.workloads.builtin import attention_problem


def space(seq: int = 2048, **change: object) -> Space:
    given = {"batch": 1, "heads": 32, "kv_heads": 32, "kv_seq": seq, "head_dim": 128, "dtype": "bf16"}
    problem = attention_problem(seq=seq, **(given | change))  # type: ignore[arg-type]
    return space_of(problem.definition, problem, "triton")


@pytest.mark.parametrize("at_most", [6, 32])
def test_each_way_gets_its_share(at_most: int) -> None:
    every, found = space(), spread(space(), at_most, lambda s: True)
    assert len(found) <= at_most and all(every.schedule(p) == s for s, p in found.items())

    def way(s):
        return s.loads, s.is_specialised

    ways = {way(every.schedule(p)) for p in every.points()}
    assert {way(s) for s in found} == ways
    counts = [len([*group]) for _, group in groupby(sorted(map(way, found)))]
    assert max(counts) <= max(1, at_most // len(ways))


def test_what_a_machine_lacks_gets_none() -> None:
    found = spread(space(), 32, lambda s: s.loads == "pointer")
    assert found and all(s.loads == "pointer" for s in found)


def test_spaces_with_one_key_have_the_same_points() -> None:
    """Two forms of one definition may have; other sizes, targets and filters have another."""
    one = space()
    assert replace(one).key == one.key and hash(one.key) == hash(space().key)
    others = [
        space(1024),
        space(causal="top_left"),
        space(head_dim=64),
        replace(one, approximable=not one.approximable),
    ]
    assert len({o.key for o in [one, *others]}) == 5
