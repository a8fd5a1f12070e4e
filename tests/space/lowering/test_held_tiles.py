"""What a pass keeps of each tile: fewer loops, the same numbers, and no other plan changed."""

from __future__ import annotations

import pytest
from plan_checks import data_for, meaning, problem_of, relative_error
from plan_interpreter import run_plan

from eintune.space.cascade.cascade import Cascade
from eintune.space.lowering import held_tiles
from eintune.space.lowering.lower import build_plan
from eintune.space.operators.assignments import read_operators
from eintune.space.operators.cascades import to_cascade
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

SCORES = """
Q_{e,p}
K_{e,m}
V_{f,m}
QK_temp = M_mul_emp(Q, K)
QK = R_add_e(QK_temp)
S = M_where_mp(QK, FILTER, -inf)
"""
DEFINITION = """
G = R_max_m(S)
N = M_subexp_mp(S, G)
D = R_add_m(N)
A = M_div_mp(N, D)
AV = M_mul_fmp_R_add_m(A, V)
"""
STATISTICS = """
BS = T_split_m_m1m0(S)
LM = R_max_m0(BS)
GM = R_max_m1(LM)
SLN = M_subexp_m1m0p(BS, LM)
SLD = R_add_m0(SLN)
PRM = M_subexp_m1p(LM, GM)
CN = M_mul_m1m0p(SLN, PRM)
GD = M_mul_m1p_R_add_m1(SLD, PRM)
"""
DIVIDED = """
AB = M_div_m1m0p(CN, GD)
A = T_unsplit_m1m0_m(AB)
AV = M_mul_fmp_R_add_m(A, V)
"""
DEFERRED = """
C = T_unsplit_m1m0_m(CN)
N = M_mul_fmp_R_add_m(C, V)
AV = M_div_fp(N, GD)
"""
SIZES = {"e": 24, "p": 21, "m": 150, "f": 10}
ROLES = {"e": Role(None, 32), "f": Role(None, 16), "p": Role("grid", 16), "m": Role("loop", 32)}


def cascade(*parts: str, keys: str) -> Cascade:
    return to_cascade(read_operators("".join((SCORES, *parts)).replace("FILTER", keys)))


def plan_of(*parts: str, keys: str = "m <= p + 140", sizes: dict[str, int] = SIZES) -> LoopPlan:
    computed = cascade(*parts, keys=keys)
    return build_plan(computed, problem_of(computed, sizes, "fp64", {}), Schedule("triton", tuple(ROLES.items())))


def loops(plan: LoopPlan) -> int:
    return len(list(plan.loops()))


@pytest.mark.parametrize("keys", ["m <= p + 140", "m <= p", "m <= 2*p", "m >= p + 40"])
@pytest.mark.parametrize("m", [150, 128, 32, 7])
def test_a_tiles_statistics_are_held_and_right(keys: str, m: int) -> None:
    """Rows, and tiles of rows, without any key among them."""
    sizes = {**SIZES, "m": m}
    plan, definition = plan_of(STATISTICS, DIVIDED, keys=keys, sizes=sizes), cascade(DEFINITION, keys=keys)
    assert loops(plan) == 2
    data = data_for(definition, sizes)
    exact = meaning(definition, sizes, data, {})["AV"]
    assert relative_error(run_plan(plan, data)["AV"], exact) < 1e-12


def test_what_is_held_has_an_axis_of_the_loops_tiles() -> None:
    plan = plan_of(STATISTICS, DIVIDED)
    (axis,) = set(plan.roles) - set(ROLES)
    assert (plan.roles[axis], plan.sizes[axis]) == (Role(None, 8), 5)
    first, second = plan.loops()
    assert sorted(axis in c.value.axes for c in first.carries) == [False, True, True]
    assert [axis in c.value.axes for c in second.carries] == [False]


def test_where_no_pass_is_saved_nothing_is_held() -> None:
    plan = plan_of(STATISTICS, DEFERRED)
    assert (loops(plan), set(plan.roles)) == (2, set(ROLES))


def test_beyond_some_tiles_they_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_tiles, "MOST_TILES", 4)
    again = plan_of(STATISTICS, DIVIDED, keys="m <= p + 139")  # plans are kept: another one than above
    assert (loops(again), set(again.roles)) == (3, set(ROLES))
    assert loops(plan_of(STATISTICS, DIVIDED, keys="m <= p + 139", sizes={**SIZES, "m": 128})) == 2


def test_a_sum_that_needs_elements_keeps_its_pass() -> None:
    needs = STATISTICS.replace("SLD = R_add_m0(SLN)", "X = M_subexp_m1m0p(BS, GM)\nSLD = R_add_m0(X)")
    assert loops(plan_of(needs, DIVIDED)) == 3
