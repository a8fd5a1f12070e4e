"""Loops start and stop where integers that they compare say so; what they compute is the definition's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import K, Q, V, f, keep, one, t, three
from plan_cases import add as total
from plan_cases import form as form_of
from plan_checks import meaning, problem_of, relative_error, schedule_of
from plan_interpreter import Program, programs, run_plan

from eintune.space.ir.expr import NEG_INF, Expr, Iota
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.bounds import bound_value
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.values import Value

SIZES = {"b": 2, "h": 1, "p": 40, "m": 150, "e": 4, "f": 4}
SCORE = total("e", Q * K) * 0.3
DOCUMENTS = f("eq", t("DP", "bp", "int"), t("DM", "bm", "int"))
LENGTH = t("L", "b", "int")
CONDITIONS: dict[str, Expr] = {
    "documents": DOCUMENTS,
    "documents, turned": f("eq", t("DM", "bm", "int"), t("DP", "bp", "int")),
    "shorter": f("lt", Iota("m"), LENGTH),
    "at most": f("le", Iota("m"), LENGTH),
    "beyond": f("gt", Iota("m"), LENGTH),
    "at least": f("ge", Iota("m"), LENGTH),
    "length on the left": f("gt", LENGTH, Iota("m")),
    "a bound for each row": f("lt", Iota("m"), t("R", "p", "int")),
    "both": f("and", DOCUMENTS, f("lt", Iota("m"), LENGTH)),
}


def selected(condition: Expr) -> Expr:
    return f("select", condition, SCORE, NEG_INF)


def planned(score: Expr) -> tuple[LoopPlan, object]:
    form = form_of("case", {"O": (three(score, V), "bhpf")}, {"O": (one(score, V), "bhpf")})
    return build_plan(
        form.computed, problem_of(form.definition, SIZES, "fp64", {}), schedule_of(form, SIZES, "triton")
    ), form


def data(seed: int, documents: int, least: int, most: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    made = {n: random.normal(size=s) for n, s in {"Q": (2, 1, 40, 4), "K": (2, 1, 150, 4), "V": (2, 1, 150, 4)}.items()}
    return made | {
        "DP": random.integers(0, documents, (2, 40)),
        "DM": np.sort(random.integers(0, documents, (2, 150))) if seed % 2 else random.integers(0, documents, (2, 150)),
        "L": random.integers(least, most, 2),
        "R": random.integers(least, most, 40),
    }


@pytest.mark.parametrize("name", CONDITIONS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), documents=st.integers(1, 40), least=st.integers(-200, 149))
def test_what_is_left_out_does_not_count(name: str, seed: int, documents: int, least: int) -> None:
    """Documents in any order, lengths of 0, below it and beyond the end; rows with nothing to attend to give 0."""
    plan, form = planned(selected(CONDITIONS[name]))
    given_ = data(seed, documents, least, 200)
    exact = meaning(form.definition, SIZES, given_, {})["O"]  # type: ignore[attr-defined]
    assert relative_error(run_plan(plan, given_)["O"], exact) < 1e-12


def visited(plan: LoopPlan, given_: dict[str, np.ndarray]) -> int:
    """Iterations of the last loop, over all programs."""
    count = 0
    for first in programs(plan):
        program = Program(plan, given_, {"O": np.zeros((2, 1, 40, 4))}, dict(first))
        program.block(plan.root)
        loop = list(plan.loops())[-1]
        ends = program.last()
        for segment in loop.segments:
            low, high = (bound_value(x, first, ends, program.number) for x in (segment.lo, segment.hi))
            count += len(range(low, high, loop.tile))
    return count


def test_tiles_of_other_documents_are_not_visited() -> None:
    given_ = data(1, 3, 0, 1)
    given_["DP"] = np.repeat([[0, 1, 2, 3, 4]], 8, axis=1).repeat(2, axis=0)
    given_["DM"] = np.repeat([[0, 1, 2, 3, 4]], 30, axis=1).repeat(2, axis=0)
    bounded = visited(planned(selected(DOCUMENTS))[0], given_)
    every = visited(planned(SCORE)[0], given_)
    assert every == 2 * 3 * 5
    # documents of 30 keys in tiles of 32, two a tile of queries; but one in the last, which is not full
    assert bounded == 2 * (2 + 3 + 2)


def cleared(plan: LoopPlan, given_: dict[str, np.ndarray]) -> int:
    """Iterations of the last loop in segments that know something of values, over all programs."""
    count = 0
    for first in programs(plan):
        program = Program(plan, given_, {"O": np.zeros((2, 1, 40, 4))}, dict(first))
        program.block(plan.root)
        loop, ends = list(plan.loops())[-1], program.last()
        for segment in loop.segments:
            if any(isinstance(known, Value) for known in segment.known):
                low, high = (bound_value(x, first, ends, program.number) for x in (segment.lo, segment.hi))
                count += len(range(low, high, loop.tile))
    return count


@pytest.mark.parametrize(
    ("queries", "keys", "tiles"),
    [
        ([7] * 40, [7] * 150, 4 + 4 + 4),  # all but the last tile, which is not full; the last of queries is not either
        ([7] * 40, [7] * 100 + [8] * 50, 3 + 3 + 3),
        ([7] * 40, [3] * 30 + [7] * 100 + [-5] * 20, 3 + 3 + 3),
        ([7] * 40, [7] * 70 + [8] * 10 + [7] * 70, 0),  # none where those that agree are not side by side
        ([7] * 16 + [8] * 24, [7] * 64 + [8] * 86, 2 + 2 + 2),
        ([7] * 15 + [8] * 25, [7] * 64 + [8] * 86, 0 + 2 + 2),  # two documents in one tile of queries
        ([9] * 40, [7] * 150, 0),
        ([0] * 40, [0] * 150, 4 + 4 + 4),
    ],
)
def test_tiles_of_one_document_are_known(queries: list[int], keys: list[int], tiles: int) -> None:
    plan, _ = planned(selected(DOCUMENTS))
    given_ = data(1, 3, 0, 1) | {"DP": np.array([queries] * 2), "DM": np.array([keys] * 2)}
    assert cleared(plan, given_) == 2 * tiles


def test_a_selection_is_left_out_only_where_all_its_conditions_are_known() -> None:
    other, mask = f("eq", t("SP", "bp", "int"), t("SM", "bm", "int")), t("B", "pm", "bool")

    def known(condition: Expr) -> int:
        plan, _ = planned(selected(condition))
        return max(sum(isinstance(k, Value) for k in s.known) for loop in plan.loops() for s in loop.segments)

    assert known(f("and", DOCUMENTS, other)) == 2
    assert known(f("and", DOCUMENTS, mask)) == 0
    assert known(f("or", DOCUMENTS, other)) == 0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), documents=st.integers(1, 3), others=st.integers(1, 3))
def test_several_conditions_at_once(seed: int, documents: int, others: int) -> None:
    both = f("and", DOCUMENTS, f("eq", t("SP", "bp", "int"), t("SM", "bm", "int")))
    random = np.random.default_rng(seed)
    given_ = data(1, documents, 0, 1)
    given_ |= {n: np.sort(random.integers(0, others, (2, k))) for n, k in (("SP", 40), ("SM", 150))}
    for score in (selected(both), f("select", both, keep(SCORE, m=-1, p=1), NEG_INF), keep(selected(both), m=-1, p=1)):
        plan, form = planned(score)
        exact = meaning(form.definition, SIZES, given_, {})["O"]  # type: ignore[attr-defined]
        assert relative_error(run_plan(plan, given_)["O"], exact) < 1e-12


def test_a_number_that_is_not_the_identity_is_visited() -> None:
    """Where the condition fails the score is 0, not -inf: every key counts."""
    plan, _ = planned(f("select", DOCUMENTS, SCORE, 0.0))
    assert "m_all" not in plan.roles


def test_filters_on_ranks_bound_the_same_loop() -> None:
    plan, form = planned(keep(selected(DOCUMENTS), m=-1, p=1))
    assert "m_all" in plan.roles
    given_ = data(3, 4, 0, 1)
    exact = meaning(form.definition, SIZES, given_, {})["O"]  # type: ignore[attr-defined]
    assert relative_error(run_plan(plan, given_)["O"], exact) < 1e-12
