"""The schedules that a cascade may have, and the ones that nothing may."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.gathers import completed
from eintune.space.lowering.lower import build_program
from eintune.space.plan.roles import Role
from eintune.space.schedule.choices import Setting
from eintune.space.schedule.knobs import KNOBS, Tiles
from eintune.space.schedule.schedule import Schedule, check_schedule
from eintune.space.schedule.space import Space, default_schedule, schedules, space_of
from eintune.space.schedule.targets import TARGETS
from eintune.space.workloads.builtin import WORKLOADS, attention_problem


def attention(**change: Any) -> tuple[Cascade, Problem]:
    given: dict[str, Any] = {"batch": 1, "heads": 32, "kv_heads": 32, "seq": 2048, "kv_seq": 2048}
    problem = attention_problem(**(given | {"head_dim": 128, "dtype": "fp32"} | change))
    return problem.definition, problem


@pytest.mark.parametrize("causal", [None, "top_left"])
def test_the_usual_case_has_a_space_of_workable_size(causal: str | None) -> None:
    cascade, problem = attention(causal=causal)
    assert 50 <= len(schedules(cascade, problem, "triton")) <= 900
    assert 10 <= len(schedules(cascade, problem, "torch")) <= 60
    for emitter in TARGETS:
        assert all(role.num_splits == 1 for s in schedules(cascade, problem, emitter) for _, role in s.roles)


def every_combination(space: Space) -> list[dict[str, Setting]]:
    choices = space.choices()
    settings = itertools.product(*(c.values for c in choices))
    points = (dict(zip((c.name for c in choices), s, strict=True)) for s in settings)
    return [p for p in points if space.is_legal(p)]


@pytest.mark.parametrize("emitter", TARGETS)
@pytest.mark.parametrize(
    "change", [{}, {"causal": "top_left", "dtype": "bf16", "seq": 100, "kv_seq": 70}, {"kv_heads": 8, "seq": 1}]
)
def test_the_points_are_the_legal_combinations_in_order(change: dict[str, Any], emitter: str) -> None:
    space = space_of(*attention(**change), emitter)
    few = replace(space, target=replace(space.target, rows=space.target.rows[-2:], streams=space.target.streams[-2:]))
    assert list(few.points()) == every_combination(few)


def test_few_of_all_combinations_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A knob decides as soon as all that it reads is set."""
    space = space_of(*attention(causal="top_left", dtype="bf16"), "triton")
    combinations = math.prod(len(c.values) for c in space.choices())
    looked_at: list[Mapping[str, Setting]] = []
    decide = Tiles.is_legal
    monkeypatch.setattr(Tiles, "is_legal", lambda self, space, p: looked_at.append(p) or decide(self, space, p))
    assert list(space.points())
    assert 0 < len(looked_at) < combinations / 20


@pytest.mark.parametrize(("batch", "emitter", "offered"), [(1, "triton", 64), (16, "triton", 32), (1, "torch", 2)])
def test_a_short_grid_may_share_the_streamed_rank(batch: int, emitter: str, offered: int) -> None:
    cascade, problem = attention(batch=batch, kv_heads=8, seq=1, kv_seq=8192)
    every = schedules(cascade, problem, emitter)
    for s in every:
        check_schedule(s)
        assert Schedule.from_json(json.loads(json.dumps(s.to_json()))) == s
    found = {s.role("m").num_splits for s in every}
    assert found == {n for n in TARGETS[emitter].num_splits if n <= offered}
    assert all(-(-8192 // s.role("m").tile) >= 2 * s.role("m").num_splits for s in every if s.role("m").num_splits > 1)  # type: ignore[operator]


def test_roles_follow_from_what_the_graph_does_with_a_rank() -> None:
    cascade, problem = attention(kv_heads=8)
    for emitter in TARGETS:
        assert dict(space_of(cascade, problem, emitter).uses.kinds) == {
            "b": "batch",
            "h": "batch",
            "g": "grouped",
            "p": "row",
            "m": "streamed",
            "e": "contracted",
            "f": "resident",
        }
    roles = dict(default_schedule(cascade, problem, "triton").roles)
    assert roles["b"] == roles["h"] == roles["g"] == Role("grid", None)
    assert roles["p"].outer == "grid" and roles["m"].outer == "loop"
    assert roles["e"] == roles["f"] == Role(None, 128)


def test_one_query_tiles_the_queries_of_a_group_instead() -> None:
    cascade, problem = attention(seq=1, kv_heads=4)
    kinds = space_of(cascade, problem, "triton").uses.kinds
    assert kinds["g"] == "row" and kinds["p"] == "grouped"


@pytest.mark.parametrize("size", [1, 17, 777, 1000])
@pytest.mark.parametrize("head_dim", [24, 80, 256])
def test_every_size_has_schedules_that_can_be_planned(size: int, head_dim: int) -> None:
    cascade, problem = attention(heads=2, kv_heads=2, seq=size, kv_seq=size, head_dim=head_dim, causal="top_left")
    for emitter, target in TARGETS.items():
        found = schedules(cascade, problem, emitter)
        assert found
        for schedule in found[:: max(1, len(found) // 8)]:
            check_schedule(schedule)
            build_program(cascade, problem, schedule)
            if target.padded:
                assert all(r.tile is None or r.tile >= 16 for _, r in schedule.roles)
                whole = [r.tile for _, r in schedule.roles if r.tile is not None]
                assert all(t % target.side == 0 if target.side else t & (t - 1) == 0 for t in whole)


@pytest.mark.parametrize(
    ("change", "offered"),
    [
        ({}, True),
        ({"head_dim": 40, "dtype": "bf16"}, True),
        ({"head_dim": 20, "dtype": "bf16"}, False),  # rows of 40 bytes
        ({"head_dim": 20}, True),  # of 80
        ({"head_dim": 512}, False),  # blocks of 512 elements
        ({"dtype": "fp64"}, False),
    ],
)
def test_loads_by_descriptor_are_offered_where_tiles_qualify(change: dict[str, Any], offered: bool) -> None:
    cascade, problem = attention(**change)
    every = schedules(cascade, problem, "triton")
    described = [s for s in every if s.loads == "descriptor"]
    assert bool(described) == offered and len(described) < len(every)
    plain = {"loads": "pointer", "pipelined": "none", "warp_specialisation": "none", "rescaling": "eager"}
    assert all(s.stages > 1 and replace(s, **plain) in every for s in described)
    assert all(s.loads == "pointer" for s in schedules(cascade, problem, "torch"))


@pytest.mark.parametrize("emitter", TARGETS)
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_definition_has_schedules_that_can_be_planned(name: str, emitter: str) -> None:
    cascade = WORKLOADS[name]()
    sizes = dict.fromkeys(cascade.ranks(), 96) | {"m": 3000}
    sizes = completed((e.expr for e in cascade.einsums), sizes, rows=7)
    dtypes = dict.fromkeys((*cascade.inputs, *cascade.outputs), "fp32")
    problem = Problem(name, "", sizes, dtypes, {"scale": 0.1, "eps": 1e-5})
    found = schedules(cascade, problem, emitter)
    assert len(found) == len(set(found)) > 1
    for schedule in found[:: max(1, len(found) // 4)]:
        build_program(cascade, problem, schedule)


@pytest.mark.parametrize("emitter", TARGETS)
def test_knobs_keep_their_protocol(emitter: str) -> None:
    cascade, problem = attention(causal="top_left")
    space = space_of(cascade, problem, emitter)
    names = [c.name for knob in KNOBS for c in knob.choices(space)]
    assert len(names) == len(set(names))
    for choice in space.choices():
        assert choice.default in choice.values and len(set(choice.values)) == len(choice.values)
    start = space.default()
    assert space.is_legal(start)
    points = list(space.points())
    assert start in points
    beside = list(space.neighbours(start))
    assert beside
    for point in beside:
        assert point in points
        assert sum(point[n] != start[n] for n in names) == 1


def test_neighbours_reach_the_whole_space() -> None:
    cascade, problem = attention()
    space = space_of(cascade, problem, "triton")
    seen, todo = [], [space.default()]
    while todo:
        point = todo.pop()
        if point not in seen:
            seen.append(point)
            todo += space.neighbours(point)
    assert len(seen) == len(list(space.points()))


def test_programs_of_different_length_may_run_longest_first() -> None:
    def orders(causal: str | None) -> set[str]:
        return {s.order for s in schedules(*attention(causal=causal), "triton")}

    assert orders(None) == {"forward"}
    assert orders("top_left") == {"forward", "reverse"}


def test_a_rank_that_stays_split_is_always_a_loop() -> None:
    from plan_cases import SCORE, V, cascade, local
    from plan_checks import problem_of

    c = cascade({"O": (local(SCORE, V), "bhpf")})
    sizes = {"b": 1, "h": 2, "p": 200, "m": 200, "e": 64, "f": 64}
    for emitter in TARGETS:
        found = schedules(c, problem_of(c, sizes, "fp32", {}), emitter)
        assert found
        assert {dict(s.roles)["m"].outer for s in found} == {"loop"}
        build_program(c, problem_of(c, sizes, "fp32", {}), found[0])


@pytest.mark.parametrize("emitter", ["triton", "torch"])
def test_of_two_streamed_ranks_that_are_too_much_together_the_outer_goes_by_elements(emitter: str) -> None:
    cascade = Cascade.parse("""
    TAp,m = max[n](Sp,m,n)
    TBp,m,f = fold_scale[n](Sp,m,n, Vm,n,f)
    TDp,m = fold_scale[n](Sp,m,n, 1)
    Yp,f = fold_scale[m](TAp,m, TBp,m,f) / fold_scale[m](TAp,m, TDp,m)
    """)
    sizes = {"p": 256, "m": 500, "n": 700, "f": 64}
    problem = Problem("", str(cascade), sizes, dict.fromkeys("SVY", "fp32"))
    found = schedules(cascade, problem, emitter)
    assert found
    assert {dict(s.roles)["m"] for s in found if s.emitter == "triton"} <= {Role("loop", None)}
    plan = build_program(cascade, problem, default_schedule(cascade, problem, emitter)).kernels[0]
    assert "m" in {loop.rank for loop in plan.loops()} or emitter == "torch"


def test_an_unknown_emitter_is_named_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"`emitter` must be one of .*torch.*but got 'c'"):
        schedules(*attention(), "c")


GOOD = Schedule("triton", (("p", Role("grid", 64)), ("m", Role("loop", 64)), ("e", Role(None, 64))))


def test_a_schedule_survives_json() -> None:
    check_schedule(GOOD)
    assert Schedule.from_json(GOOD.to_json()) == GOOD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("emitter", "os.system"),
        ("warps", 3),
        ("warps", True),
        ("warps", 4.0),
        ("stages", 0),
        ("stages", 10**9),
        ("filters", "never"),
        ("filters", True),
        ("order", "random"),
        ("precision", "fp8"),
        ("loads", "by hand"),
        ("roles", (("p", Role("grid", 0)),)),
        ("roles", (("p", Role("grid", 2**40)),)),
        ("roles", (("p", Role("grid", True)),)),
        ("roles", (("p", Role("somewhere", 64)),)),
        ("roles", (("p", Role(None, None)),)),
        ("roles", (("__import__", Role("grid", 64)),)),
        ("roles", (("p", Role("grid", 64)), ("p", Role("grid", 32)))),
    ],
)
def test_untrusted_schedules_are_refused(field: str, value: object) -> None:
    bad = replace(GOOD, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must|one role|is a lower-case"):
        check_schedule(bad)
    with pytest.raises(ValueError):
        if field == "roles":
            Schedule.from_json({**GOOD.to_json(), "warps": "4"})
        Schedule.from_json({**GOOD.to_json(), field: value})


def test_a_schedule_that_another_process_made_is_the_same_key() -> None:
    """Its hash is kept, and is another where texts have other hashes."""
    made = Schedule("triton", (("m", Role("loop", 64)),), warps=8)
    code = "import pickle, sys; s = pickle.loads(sys.stdin.buffer.read()); hash(s); "
    code += "sys.stdout.buffer.write(pickle.dumps(s))"
    hash(made)
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], input=pickle.dumps(made), capture_output=True, env=env, check=True
        )
        there = pickle.loads(done.stdout)
        assert there == made and {made: 1}[there] == 1 and repr(there) == repr(made)


def test_a_knob_is_asked_once_for_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Counted(Tiles):
        def is_legal(self, facts: Any, point: Mapping[str, Setting]) -> bool:
            asked.append(1)
            return super().is_legal(facts, point)

    monkeypatch.setattr("eintune.space.schedule.legal_points.KNOBS", (Counted(), *KNOBS[1:]))
    cascade, problem = attention()
    space = space_of(cascade, problem, "triton")
    assert len(asked) * 5 < len(list(space.points()))
