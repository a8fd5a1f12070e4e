"""Inputs that a graph writes with sizes alone, operators of several steps, and what an operator's operand lacks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import eintune
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade
from eintune.space.ir.einsum import CascadeError
from eintune.space.operators.assignments import read_operators, write_operators
from eintune.space.operators.cascades import from_cascade, to_cascade
from eintune.space.operators.egglog_programs import read_egg, read_egglog_json, write_egg
from eintune.space.operators.formats import as_cascade, read_computation, stated_sizes
from eintune.space.operators.fused import steps
from eintune.space.operators.graph import OperatorGraph
from eintune.space.operators.passes import analyse

OPERATORS = Path(__file__).resolve().parents[2] / "operators"
SEEDS = sorted(p.stem for p in OPERATORS.glob("*.egg"))
SIZES = {"e": 64, "p": 1024, "m": 1024, "f": 64}
TILES = {"m1": 4, "m0": 256}
PASSES = {
    "attention": 3,
    "attention_fused": 3,
    "attention_2pass": 2,
    "attention_2pass_fused": 2,
    "attention_2pass_deferred": 2,
    "attention_rewrites": 3,
}


def graph(name: str) -> OperatorGraph:
    found = eintune.read(OPERATORS / f"{name}.egg")
    assert isinstance(found, OperatorGraph)
    return found


def egg(*lines: str) -> OperatorGraph:
    return read_egg("\n".join(lines))


def serialised(name: str, *, lets: bool) -> str:
    """What egglog writes of a file of this notation: primitives are nodes of their own."""
    from egglog.bindings import EGraph

    program = (OPERATORS / f"{name}.egg").read_text().replace("(extract AV)", "")
    egraph = EGraph()
    egraph.run_program(*egraph.parse_program(program))
    data = egraph.serialize([], max_functions=None, max_calls_per_function=None, include_temporary_functions=False)
    found = json.loads(data.to_json())
    if not lets:
        found["class_data"] = {}
    return json.dumps(found)


# ---- seed 000's files


def test_every_file_has_its_documented_passes() -> None:
    assert {name: analyse(graph(name)).passes for name in SEEDS} == PASSES


def test_the_two_pass_analysis_of_the_seed() -> None:
    report = analyse(graph("attention_2pass_deferred"))
    assert str(report).splitlines()[0] == "Pass Analysis: 3 sync levels, 2 memory passes"
    first, second, after = report.stages
    assert {str(o.operator) for o in first.operations} >= {"T_split_m_m1m0", "M_mul_em1m0p", "R_max_m0", "R_max_m1"}
    assert (first.barriers, second.barriers) == ({"GM"}, {"GD", "AV_acc"})
    assert [str(o.operator) for o in after.operations] == ["M_div_fp"]
    assert (first.loads, second.loads) == (("K",), ("K", "V"))


@pytest.mark.parametrize("name", [n for n in SEEDS if "2pass" in n])
def test_a_split_tells_all_ranks_and_sizes(name: str) -> None:
    found = graph(name)
    inputs = {n: t.ranks for n, t in to_cascade(found).inputs.items()}
    assert inputs == {"Q": ("e", "p"), "K": ("e", "m"), "V": ("f", "m")}
    assert stated_sizes(found, {}) == SIZES | TILES
    assert stated_sizes(found, {"m": 2048})["m0"] == 512
    assert stated_sizes(found, {"m": 2048})["p"] == 1024


@pytest.mark.parametrize("name", [n for n in SEEDS if "2pass" not in n])
def test_what_the_operators_leave_open_is_asked_for(name: str) -> None:
    found = graph(name)
    assert found.unranked() == ["Q", "K"]
    with pytest.raises(CascadeError, match=r"say --ranks Q=e,m \(the operators leave Q e,m or e,p\)") as error:
        to_cascade(found)
    assert "\n" not in str(error.value)
    said = eintune.read(OPERATORS / f"{name}.egg", ranks={"Q": "e,p"})
    assert {n: t.ranks for n, t in as_cascade(said).inputs.items()} == {
        "Q": ("e", "p"),
        "K": ("e", "m"),
        "V": ("f", "m"),
    }
    assert stated_sizes(said, {}) == SIZES


@pytest.mark.parametrize("name", SEEDS)
def test_the_files_mean_attention(name: str) -> None:
    found = eintune.read(OPERATORS / f"{name}.egg", ranks={"Q": "e,p"})
    assert isinstance(found, OperatorGraph)
    means_attention(found)


def means_attention(found: OperatorGraph) -> None:
    rng = np.random.default_rng(3)
    q, k, v = rng.normal(size=(3, 5)), rng.normal(size=(3, 12)), rng.normal(size=(2, 12))
    w = np.exp(k.T @ q - (k.T @ q).max(0))
    got = run_cascade(as_cascade(found), {"Q": q, "K": k, "V": v}, {"m1": 4, "m0": 3})["AV"]
    np.testing.assert_allclose(got, v @ (w / w.sum(0)), rtol=1e-12)


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("lets", [True, False])
def test_serialised_files_are_the_same_graphs(name: str, lets: bool) -> None:
    if "rewrites" in name and not lets:
        pytest.skip("of what rules have added, only names tell the output")
    read, direct = read_egglog_json(serialised(name, lets=lets)), graph(name)
    assert (analyse(read).passes, read.shapes) == (PASSES[name], direct.shapes)
    of = [g.with_ranks({"Q": ("e", "p")}) for g in (read, direct)]
    assert list(to_cascade(of[0]).roots().values()) == list(to_cascade(of[1]).roots().values())


@pytest.mark.parametrize("cheap", ["m1m0", "m", ""])
def test_of_rules_that_mix_a_rank_and_its_parts_the_terms_that_fit_are_taken(cheap: str) -> None:
    """Whichever operators the costs prefer: those over m1 and m0 do not go together with a product over f, m, p."""
    data = json.loads(serialised("attention_rewrites", lets=True))
    for node in data["nodes"].values():
        over_parts = "m1" in node["op"] or "m0" in node["op"]
        node["cost"] = 1.0 if not cheap or over_parts == (cheap == "m1m0") else 100.0
    assert len({n["eclass"] for n in data["nodes"].values()}) < len(data["nodes"])
    read = read_egglog_json(json.dumps(data)).with_ranks({"Q": ("e", "p")})
    assert read.outputs == ("AV",)
    means_attention(read)


AFTER_UNSPLIT = (
    '(let A (Cube 4 16 32 "A"))',
    '(let V (CreateTensor 8 64 "V"))',
    "(let X (M_mul_fmp (T_unsplit_m1m0_m (M_exp_m1m0p A)) V))",
    "(let AV (R_add_m1 (R_add_m0 X)))",
)
"""As the seed's own extractions have it: a sum over m0 of what is whole again."""


def test_a_sum_over_parts_of_what_is_whole_again_is_named_first() -> None:
    program = "\n".join(
        (
            "(datatype T (CreateTensor i64 i64 String) (Cube i64 i64 i64 String) (M_exp_m1m0p T) (M_mul_fmp T T)",
            "(T_unsplit_m1m0_m T) (R_add_m0 T) (R_add_m1 T) (M_div_fp T T))",
            *AFTER_UNSPLIT,
            '(let Z (M_div_fp AV (CreateTensor 8 32 "D")))',
        )
    )
    with pytest.raises(CascadeError, match=r"R_add_m0 reduces m0, but its operand has .*\(m is whole there\)"):
        read_egg(program)
    from egglog.bindings import EGraph

    egraph = EGraph()
    egraph.run_program(*egraph.parse_program(program))
    data = egraph.serialize([], max_functions=None, max_calls_per_function=None, include_temporary_functions=False)
    with pytest.raises(
        CascadeError, match="no term of Z has operators that fit: R_add_m0 takes no operands over f,m,p"
    ):
        read_egglog_json(data.to_json())


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("ranks", [None, {"Q": "e,p"}])
def test_sizes_are_written_in_both_notations(name: str, ranks: dict[str, str] | None) -> None:
    found = eintune.read(OPERATORS / f"{name}.egg", ranks=ranks if name in ("attention", "attention_fused") else None)
    assert isinstance(found, OperatorGraph)
    for again in (read_operators(write_operators(found)), read_egg(write_egg(found))):
        assert again.shapes == {"Q": (64, 1024), "K": (64, 1024), "V": (64, 1024)}
        assert stated_sizes(again, {}) == stated_sizes(found, {})
        assert again.unranked() == found.unranked()
        assert [o.operator for o in again.operations] == [o.operator for o in found.operations]
    from egglog.bindings import EGraph

    EGraph().run_program(*EGraph().parse_program(write_egg(found)))


@pytest.mark.parametrize("axes", ["e=64,p", "64,p", "e=64,1024"])
def test_an_axis_without_a_size_among_others_is_refused(axes: str) -> None:
    with pytest.raises(CascadeError, match=r"line 1: .*each axis says its size or none does"):
        read_operators(f"Q_{{{axes}}}\nZ = M_exp_ep(Q)")


# ---- ranks by operators and sizes


Q, K, V = (f'(let {n} (CreateTensor 64 {m} "{n}"))' for n, m in (("Q", 512), ("K", 1024), ("V", 1024)))
THREE_PASSES = (
    "(let QK (R_add_e (M_mul_emp Q K)))",
    "(let SN (M_exp_mp (M_sub_mp QK (R_max_m QK))))",
    "(let AV (R_add_m (M_mul_fmp (M_div_mp SN (R_add_m SN)) V)))",
)


def test_different_sizes_tell_the_rest() -> None:
    found = egg(Q, K, V, *THREE_PASSES)
    assert {n: t.ranks for n, t in to_cascade(found).inputs.items()} == {
        "Q": ("e", "p"),
        "K": ("e", "m"),
        "V": ("f", "m"),
    }
    assert stated_sizes(found, {}) == {"e": 64, "p": 512, "m": 1024, "f": 64}


def test_what_is_said_goes_before_what_is_found() -> None:
    found = egg('(let A (T 3 4 "A"))', '(let B (T 3 "B"))', "(let Z (R_add_m (M_mul_mp A B)))")
    assert to_cascade(found) == Cascade.parse("Zp = Am,p * Bm")
    assert to_cascade(found.with_ranks({"B": ("m",)})) == to_cascade(found)
    with pytest.raises(CascadeError, match="rank m must have one size, but A says 4 and B says 3"):
        found.with_ranks({"A": ("p", "m")})


def test_a_sum_over_what_one_factor_lacks_is_no_contraction() -> None:
    found = egg('(let A (T 3 4 "A"))', '(let B (T "B" "p"))', "(let Z (R_add_m (M_mul_mp A B)))")
    assert to_cascade(found).inputs["A"].ranks == ("m", "p")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            (Q, K.replace("64", "32"), V, *THREE_PASSES),
            "rank e must have one size, but Q says 64 and K says 32",
        ),
        (
            (Q, K.replace("64", "32"), "(let B (T_split_m_m1m0 K 4))", "(let Z (R_add_e (M_mul_em1m0p Q B)))"),
            "rank e must have one size, but K says 32 and Q says 64",
        ),
        (('(let A (T 3 4 "A"))', "(let Z (R_add_m (M_exp_m A)))"), "no ranks of A fit the operators and the sizes"),
        (('(let A (T 3 "A"))', '(let B (T 4 "A"))'), "A has the sizes [3], but here [4]"),
        (('(let A (T 0 "A"))',), "sizes are whole numbers from 1 to"),
        (('(let A (T 2.5 "A"))',), "but got 2.5"),
        (('(let Z (M_exp_m (T "A" "m" 3 4)))',), "A has 2 sizes [3, 4], but the ranks ['m']"),
        (('(let Z (M_add_m (T "A" "m" 3) (T "B" "m" 4)))',), "rank m must have one size, but A says 3 and B says 4"),
    ],
)
def test_sizes_that_contradict_each_other(lines: tuple[str, ...], says: str) -> None:
    with pytest.raises(CascadeError) as error:
        egg(*lines)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


# ---- several steps in one name


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("M_mul_emp_R_add_e", ["M_mul_emp", "R_add_e"]),
        ("M_none_mp_R_max_m", ["R_max_m"]),
        ("M_subexp_m1m0p_R_none", ["M_sub_m1m0p", "M_exp_m1m0p"]),
        ("M_subexp2_mp_R_add_m", ["M_sub_mp", "M_exp2_mp", "R_add_m"]),
        ("M_exp2_mp", ["M_exp2_mp"]),
        ("M_div_mp_R_none", ["M_div_mp"]),
    ],
)
def test_the_steps_of_a_name(name: str, operators: list[str]) -> None:
    assert [str(o) for o in steps(name).operators] == operators


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Z = M_none_mp_R_none(A_{m,p})", "M_none_mp_R_none does nothing"),
        ("Z = M_mul_mp_R_add_e(A_{m,p}, B_{m})", "reduces e, but iterates ['m', 'p']"),
        ("Z = M_none_mp_R_sum_m(A_{m,p})", "there is no operation 'sum'"),
        ("Z = M_mulmul_mp(A_{m,p}, B_{m})", "there is no operation 'mulmul'"),
        ("Z = M_none_mp_R_max_m(A_{e,m,p})", "Z iterates ['m', 'p'], but its operand has ['e', 'm', 'p']"),
        ("Z = M_mul_mp_R_add(A_{m,p}, B_{m})", "line 1"),
    ],
)
def test_names_of_steps_that_do_not_fit(line: str, says: str) -> None:
    with pytest.raises(CascadeError) as error:
        read_operators(line)
    assert says in str(error.value)


def test_a_step_gives_way_to_a_name_of_the_text() -> None:
    found = read_operators("X = M_mul_mp_R_add_m(A_{m,p}, B_{m})\nX_temp = M_exp_p(X)\nY = M_add_p(X, X_temp)")
    assert [o.output for o in found.operations] == ["X_temp2", "X", "X_temp", "Y"]
    assert found.outputs == ("Y",)


# ---- what is not there


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "X = M_mul_fmp(A_{m,p}, V_{f,m})\nZ = R_add_m0(X)",
            "Z = R_add_m0 reduces m0, but its operand has ['f', 'm', 'p']",
        ),
        ("Z = F_scale_m0(A_{m,p}, V_{f,m})", "Z = F_scale_m0 folds m0, but its operand has"),
        ("Z = T_split_e_e1e0(A_{m,p})", "Z = T_split_e_e1e0 splits e, but its operand has ['m', 'p']"),
        ("Z = T_unsplit_m1m0_m(A_{m,p})", "Z = T_unsplit_m1m0_m unsplits m1 and m0, but its operand has ['m', 'p']"),
    ],
)
def test_an_operator_over_a_rank_that_its_operand_lacks(text: str, says: str) -> None:
    with pytest.raises(CascadeError) as error:
        read_computation(text)
    assert says in str(error.value)


def test_a_sum_over_nothing_is_no_operator_and_still_a_cascade() -> None:
    cascade = Cascade.parse("Zp = sum[m](Xp)")
    with pytest.raises(CascadeError, match="Z = R_add_m reduces m, but its operand has"):
        from_cascade(cascade)
    assert analyse(cascade).passes >= 1


def test_ranks_said_later_are_checked_as_well() -> None:
    found = read_egg('(let Z (R_add_m (Tensor "X")))')
    with pytest.raises(CascadeError, match="Z = R_add_m reduces m, but its operand has"):
        found.with_ranks({"X": ("p",)})
    assert read_egg(write_egg(found)) == found
