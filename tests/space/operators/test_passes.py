"""Pass analysis, from the graph alone; the reports are golden files."""

from __future__ import annotations

from pathlib import Path

import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.timing import passes
from eintune.space.ir.einsum import CascadeError
from eintune.space.lowering.lower import build_plan
from eintune.space.operators.assignments import read_operators
from eintune.space.operators.cascades import from_cascade, to_cascade
from eintune.space.operators.passes import PassReport, analyse
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule
from eintune.space.workloads.builtin import WORKLOADS, attention

TESTS = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
FILES = {"attention_3pass": 3, "attention_2pass": 2, "attention_2pass_deferred": 2, "attention_1pass": 1}


MERGED = """
BSm1,m0 = split[m -> m1,m0](Sm)
BVm1,m0 = split[m -> m1,m0](Vm)
LMm1 = BSm1,m0 :: \\/m0 max
NSm1,m0 = e^(BSm1,m0 - LMm1)
LDm1 = NSm1,m0
LNm1 = NSm1,m0 * BVm1,m0
GM = LMm1 :: \\/m1 max
GD = LDm1 * e^(LMm1 - GM)
GN = LNm1 * e^(LMm1 - GM)
Y = GN / GD
"""


def operator_text(name: str) -> str:
    return (TESTS / "operators" / f"{name}.txt").read_text()


def labels(report: PassReport, place: str, number: int = 0) -> list[str]:
    return [
        str(o.operator) for s in report.stages if s.place == place and number in (0, s.number) for o in s.operations
    ]


@pytest.mark.parametrize(("name", "count"), FILES.items())
def test_reports_are_as_they_were_read(name: str, count: int) -> None:
    report = analyse(read_operators(operator_text(name)))
    assert str(report) + "\n" == (GOLDEN / f"passes_{name}.txt").read_text()
    assert report.passes == count


@pytest.mark.parametrize(("name", "count"), FILES.items())
def test_a_cascade_and_its_operators_have_the_same_stages(name: str, count: int) -> None:
    cascade = to_cascade(read_operators(operator_text(name)))
    assert str(analyse(cascade)) + "\n" == (GOLDEN / f"passes_{name}.txt").read_text()
    assert passes(cascade.roots().values()) == passes(cascade.roots().values(), "m") == count


def test_the_deferred_graph_prints_what_the_seed_prints() -> None:
    text = str(analyse(read_operators(operator_text("attention_2pass_deferred"))))
    assert text.startswith("Pass Analysis: 3 sync levels, 2 memory passes\n\nMEMORY PASS 1 (sync level 0):\n")
    assert "\n\nMEMORY PASS 2 (sync level 1):\n" in text
    assert text.endswith("\n\nPOST-LOOP (sync level 2):\n  M_div_fp [POST_LOOP]")
    assert text.count("[GLOBAL_RED]") == 3


def test_a_division_before_the_last_product_leaves_nothing_after_the_loop() -> None:
    report = analyse(read_operators(operator_text("attention_2pass")))
    assert (report.sync_levels, report.passes) == (3, 2)
    assert labels(report, "after") == []
    assert labels(report, "between") == ["M_sub_m1p", "M_exp_m1p", "M_mul_m1p", "R_add_m1"]
    assert "M_mul_m1m0p" in labels(report, "pass", 2)


def test_the_iterative_cascade_is_one_pass() -> None:
    report = analyse(IterativeCascade.parse((TESTS / "cascades" / "attention_1pass_iterative.edge").read_text()))
    assert str(report) + "\n" == (GOLDEN / "passes_attention_1pass_iterative.txt").read_text()
    assert (report.passes, report.sync_levels) == (1, 2)


def test_an_iteration_after_a_reduction_is_another_pass() -> None:
    """The normaliser is known only after the first pass; the running sum reads it in the second."""
    text = """
    Gp = Xp,m :: ∨m max(∪)
    Sp,0 = 0
    Yp,m = e^(Xp,m - Gp)
    Sp,m+1 = Sp,m + Yp,m
    Zp = Sp,|m|
    until m >= |m|
    """
    report = analyse(IterativeCascade.parse(text))
    assert report.passes == 2
    assert labels(report, "pass", 2) == ["M_sub_mp", "M_exp_mp", "M_add_mp", "R_last_m"]


def test_a_value_per_element_is_made_in_the_first_pass_that_reads_it() -> None:
    """What one pass makes for another would live as a whole fiber; V is loaded once, where it is used."""
    report = analyse(
        Cascade.parse(
            "BVf,m1,m0 = split[m -> m1,m0](Vf,m)\nLMm1 = split[m -> m1,m0](Xm) :: \\/m0 max\nGM = LMm1 :: \\/m1 max\n"
            "SNm1,m0 = e^(split[m -> m1,m0](Xm) - LMm1)\nCNm1,m0 = SNm1,m0 * e^(LMm1 - GM)\nZf = CNm1,m0 * BVf,m1,m0"
        )
    )
    first, second = (s for s in report.stages if s.place == "pass")
    assert labels(report, "pass", 1) == ["T_split_m_m1m0", "R_max_m0", "R_max_m1"]
    assert (first.loads, second.loads) == (("X",), ("V", "X"))
    assert [str(o.operator) for o in second.recomputed] == ["T_split_m_m1m0"]


def test_a_barrier_with_a_value_per_element_stays_in_its_pass() -> None:
    """Reduced over the tiles of one use of the rank, while the whole rank indexes another."""
    report = analyse(
        Cascade.parse("Sm = sum[m1](max[m0](split[m -> m1,m0](Xm))) * Ym\nTm = sum[m1](Sm * Bm1)\nZ = e^(Sm - Tm)")
    )
    assert report.stream == "m"
    assert [s.number for s in report.stages if s.place == "pass"] == list(range(1, report.passes + 1))


def test_text_without_shapes_is_analysed_all_the_same() -> None:
    bare = "\n".join(line for line in operator_text("attention_2pass").split("\n") if "= " in line or "; " in line)
    report = analyse(read_operators(bare))
    full = analyse(read_operators(operator_text("attention_2pass")))
    assert [s.operations for s in report.stages] != []
    assert [labels(report, s.place, s.number) for s in report.stages] == [
        labels(full, s.place, s.number) for s in full.stages
    ]
    assert {s.loads for s in report.stages if s.place == "pass"} == {None}


def test_each_pass_loads_and_computes_again_what_it_needs() -> None:
    report = analyse(read_operators(operator_text("attention_2pass_deferred")))
    first, second = (s for s in report.stages if s.place == "pass")
    assert (first.loads, second.loads) == (("K",), ("K", "V"))
    again = [str(o.operator) for o in second.recomputed]
    assert again == ["T_split_m_m1m0", "M_mul_em1m0p", "R_add_e", "M_sub_m1m0p", "M_exp_m1m0p"]
    assert first.recomputed == ()


@pytest.mark.parametrize(
    ("text", "count", "stream"),
    [
        ("Zm,n = Ak,m * Bk,n", 1, "k"),
        ("Ym = Xm * 2", 1, "m"),
        ("VARp = fold_translate[m](Xp,m, 1) / |m|", 1, "m"),
        # the mean first, as the weights move with nothing
        ("Zp = fold_translate[m](Xp,m, Vp,m)", 2, "m"),
        ("Zp = fold_translate[m](Xp,m, Bp)", 1, "m"),
        ("Wm = sigmoid(Am)\nZp,f = fold_comoment[m](Xp,m, Ym,f, Wm)", 1, "m"),
        ("Zp,f = fold_comoment[m](Xp,m, Ym,f, Am)", 2, "m"),  # weights that may be negative
        ("Zp,f = fold_softcomoment[m](Sp,m, Xp,m, Ym,f, 1)", 1, "m"),
        ("Zp,f = fold_softcomoment[m](Sp,m, Xp,m, Ym,f, Am)", 3, "m"),
        ("LMm1,p = split[m -> m1,m0](Xm,p) :: \\/m0 max\nLp = LMm1,p :: \\/m1 max", 1, "m"),
        ("Lp = max[m1](max[m0](split[m -> m1,m0](Xm,p)))\nYm,p = Xm,p - Lp", 2, "m"),
        # nested folds: local maxima and their running maximum, one pass
        (
            "Sm1,m0,p = split[m -> m1,m0](Xm,p)\nLMm1,p = Sm1,m0,p :: \\/m0 max\n"
            "LNm1,p = e^(Sm1,m0,p - LMm1,p)\nZp = fold_scale[m1](LMm1,p, LNm1,p)",
            1,
            "m",
        ),
        # reductions over both parts in the other order
        ("Zp = sum[m0](sum[m1](split[m -> m1,m0](Xm,p)))", 1, "m"),
        # what goes over one value a tile alone is no pass, what goes over a tile's elements again is one
        (MERGED, 1, "m"),
        (MERGED + "Wm1,m0 = NSm1,m0 * e^(LMm1 - GM)\nZ = sum[m1](sum[m0](Wm1,m0 * BVm1,m0)) / GD\nresults: Z", 2, "m"),
        ("Zm = Xm", 1, "m"),
        # twice split
        (
            "Sm1,m2,m3,p = split[m0 -> m2,m3](split[m -> m1,m0](Xm,p))\n"
            "GMp = max[m1](max[m2](max[m3](Sm1,m2,m3,p)))\nZp = sum[m](e^(Xm,p - GMp))",
            2,
            "m",
        ),
    ],
)
def test_counts(text: str, count: int, stream: str) -> None:
    cascade = Cascade.parse(text)
    report = analyse(cascade)
    assert (report.passes, report.stream) == (count, stream)
    assert passes(cascade.roots().values()) == count


@pytest.mark.parametrize(
    "text",
    [
        "Zp = fold_translate[m](Xp,m, 1)",
        "Zp = fold_translate[m](Xp,m, Vp,m)",
        "Zp = fold_comoment[m](Xp,m, Yp,m, Vp,m * Vp,m)",
        "Zp = fold_comoment[m](Xp,m, Yp,m, Vp,m)",
        "Zp = fold_softcomoment[m](Sp,m, Xp,m, Yp,m, 1)",
        "Zp = fold_softcomoment[m](Sp,m, Xp,m, Yp,m, Vp,m)",
    ],
)
def test_a_plan_has_as_many_loops_as_there_are_passes(text: str) -> None:
    cascade = Cascade.parse(text)
    names = dict.fromkeys((*cascade.inputs, *cascade.outputs), "fp32")
    roles = (("p", Role("grid", 16)), ("m", Role("loop", 16)))
    plan = build_plan(cascade, Problem("", str(cascade), {"p": 32, "m": 64}, names), Schedule("triton", roles))
    counts = {analyse(cascade).passes, analyse(from_cascade(cascade)).passes, len(list(plan.loops()))}
    assert counts == {passes(list(cascade.roots().values()))}


@pytest.mark.parametrize(
    ("workload", "count"),
    [
        ("softmax", 3),
        ("logsumexp", 2),
        ("variance", 2),
        ("layernorm", 3),
        ("rmsnorm", 2),
        ("gemm", 1),
        ("attention", 3),
    ],
)
def test_workloads_as_they_are_defined(workload: str, count: int) -> None:
    assert analyse(WORKLOADS[workload]()).passes == count


def test_filters_and_parameters_are_in_the_first_pass() -> None:
    report = analyse(attention(causal="lower_right"))
    assert labels(report, "pass", 1) == ["M_mul_behmp", "R_add_e", "M_mul_bhmp", "M_where_bhmp", "R_max_m"]


def test_what_no_streamed_rank_reaches_stands_before_the_loops() -> None:
    report = analyse(Cascade.parse("QSe,p = Qe,p * scale\nSm,p = QSe,p * Ke,m\nGMp = Sm,p :: \\/m max"), stream="m")
    assert labels(report, "before") == ["M_mul_ep"]
    assert str(report).split("\n\n")[1] == "PRE-LOOP (sync level 0):\n  M_mul_ep"


def test_the_streamed_rank_can_be_said() -> None:
    cascade = attention()
    assert analyse(cascade, "e").passes == 1
    assert analyse(cascade, "m").passes == analyse(cascade).passes == 3
    with pytest.raises(CascadeError, match=r"`stream` must be a rank of the computation \(\['b', 'e', .*but got 'z'"):
        analyse(cascade, "z")


def test_renaming_changes_nothing() -> None:
    text = str(to_cascade(read_operators(operator_text("attention_2pass"))))
    renamed = Cascade.parse(text.replace("m1", "k7").replace("m0", "a").replace("K", "W"))
    original, other = analyse(Cascade.parse(text)), analyse(renamed)
    assert [len(s.operations) for s in original.stages] == [len(s.operations) for s in other.stages]
    assert (other.passes, other.sync_levels) == (2, 3)


def test_copies_are_no_operations() -> None:
    report = analyse(Cascade.parse("Ym = e^(Xm)\nZm = Ym\nWm = Xm\nresults: Z, W, Y"))
    assert [s.operations[0].output for s in report.stages] == ["Z"]


def test_an_empty_computation_has_no_pass() -> None:
    report = analyse(from_cascade(Cascade.parse("Z = 1 + 2")))
    assert (report.passes, report.sync_levels) == (0, 1)
