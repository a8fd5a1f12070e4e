"""EDGE notation: the seeds' text is read, every cascade is written and read back, errors say what is wrong."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade
from eintune.space.ir.einsum import CascadeError, Einsum
from eintune.space.ir.expr import Access, Const, Expr, Fold, Map, Param, Predicate, Reduce, Tensor, Term, Where
from eintune.space.notation.grammar import fitting_merges
from eintune.space.notation.lexer import MAX_CHARACTERS, MAX_NESTING
from eintune.space.workloads.builtin import WORKLOADS, attention

CASCADES = Path(__file__).resolve().parents[2] / "cascades"
RNG = np.random.default_rng(1)


def _sibling(name: str):  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "helpers" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


strategies = _sibling("cascade_strategies")


def parse(text: str) -> Cascade:
    return Cascade.parse(text)


def right_side(text: str) -> Expr:
    return parse(text).einsums[0].expr


def read(tensor: str, *ranks: str) -> Expr:
    return Access(Tensor(tensor, ranks), ranks)


# ---- both ways


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(strategies.cascades())
def test_a_cascade_reads_back_as_itself(cascade: Cascade) -> None:
    assert Cascade.parse(str(cascade)) == cascade
    assert Cascade.parse(cascade.text(unicode=True)) == cascade
    assert str(cascade).isascii()


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_workloads_read_back(name: str) -> None:
    cascade = WORKLOADS[name]()
    assert Cascade.parse(str(cascade)) == cascade


def test_the_text_of_a_filtered_grouped_definition() -> None:
    assert str(attention(causal="lower_right", grouped=True)) == "\n".join(
        [
            "QKb,h,g,m,p = Qb,h,g,p,e * Kb,h,m,e",
            "Sb,h,g,m,p = where(m <= p + |m| - |p|, QKb,h,g,m,p * scale, -inf)",
            "GMb,h,g,p = Sb,h,g,m,p :: \\/m max",
            "SNb,h,g,m,p = e^(Sb,h,g,m,p - GMb,h,g,p)",
            "SDb,h,g,p = SNb,h,g,m,p",
            "Ab,h,g,m,p = SNb,h,g,m,p / SDb,h,g,p",
            "AVb,h,g,p,f = Ab,h,g,m,p * Vb,h,m,f",
            "results: AV",
        ]
    )


@pytest.mark.parametrize("value", [0.1, -0.0, 1e300, 5e-324, math.inf, -math.inf, math.nan, 1e16, 3, np.float32(0.1)])
def test_numbers_are_exact(value: float) -> None:
    x = Map("add", (Map("neg", (Const(value),)), Const(value)))
    cascade = Cascade((Einsum(Tensor("Z", ("m",)), Where(Predicate((Term("m", 1),)), x, value)),))
    assert Cascade.parse(str(cascade)) == cascade


# ---- the files, against NumPy


def softmax_answer(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    s = k.T @ q
    w = np.exp(s - s.max(0))
    return v @ (w / w.sum(0))


@pytest.mark.parametrize("name", ["attention_3pass", "attention_2pass"])
def test_the_attention_files_mean_attention(name: str) -> None:
    q, k, v = RNG.normal(size=(3, 5)), RNG.normal(size=(3, 12)), RNG.normal(size=(2, 12))
    cascade = parse((CASCADES / f"{name}.edge").read_text())
    sizes = {"m1": 4, "m0": 3, "m": 12}
    got = run_cascade(cascade, {"Q": q, "K": k, "V": v}, sizes)["AV"]
    np.testing.assert_allclose(got, softmax_answer(q, k, v), rtol=1e-12)
    assert parse(str(cascade)) == cascade


def test_the_gemm_file_means_a_matrix_product() -> None:
    a, b = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 5))
    cascade = parse((CASCADES / "gemm.edge").read_text())
    np.testing.assert_allclose(run_cascade(cascade, {"A": a, "B": b})["Z"], a.T @ b)
    assert cascade == parse("Zm,n = Ak,m × Bk,n") == parse("Zm,n = Ak,m * Bk,n :: /\\k *(&) \\/k +(|)")


# ---- what the constructs mean


def test_ranks_absent_on_the_left_are_summed_over_the_whole_right_side() -> None:
    a, b = read("A", "k", "m"), read("B", "m")
    assert right_side("Z = Ak,m * Bm + 1") is Reduce("add", "k", Reduce("add", "m", a * b + 1))
    assert right_side("Z = Ak,m * Bm :: \\/k max") is Reduce("max", "k", Reduce("add", "m", a * b))
    assert right_side("Zm = sum[k](Ak,m) * Bm") is Reduce("add", "k", a) * b


def test_the_map_action_says_what_the_dot_computes() -> None:
    a, b = read("A", "k"), read("B", "k")
    assert right_side("Zk = Ak · Bk :: ∧k max(∪)") is Map("max", (a, b))
    assert right_side("Zk = Ak · Bk :: ∧k -(∪)") is a - b
    assert right_side("Zk = Ak · Bk") is a * b


def test_actions_apply_from_left_to_right() -> None:
    a = read("A", "k", "m")
    assert right_side("Z = Ak,m :: ∨k +(∪) ∨m max(∪)") is Reduce("max", "m", Reduce("add", "k", a))


@pytest.mark.parametrize(
    ("text", "predicate"),
    [
        ("m <= p", Predicate((Term("m", -1), Term("p", 1)))),
        ("p >= m", Predicate((Term("m", -1), Term("p", 1)))),
        ("m < p", Predicate((Term("m", -1), Term("p", 1)), const=-1)),
        ("m <= p + |m| - |p|", Predicate((Term("m", -1), Term("p", 1)), (("m", 1), ("p", -1)))),
        (
            "m1*|m0| + m0 <= 2*p - 3",
            Predicate((Term("m1", -1, "m0"), Term("m0", -1), Term("p", 2)), const=-3),
        ),
        ("0 <= p", Predicate((Term("p", 1),))),
    ],
)
def test_filters_are_affine(text: str, predicate: Predicate) -> None:
    x = right_side(f"Zm,p,m1,m0 = where({text}, Sm,p, -inf)")
    assert isinstance(x, Where)
    assert x.predicate == predicate


def test_a_filter_on_a_tensor_restricts_the_iteration_space() -> None:
    keep = Predicate((Term("k", -1), Term("i", 1)))
    a, b = read("A", "k"), read("B", "k")
    assert right_side("Zi = Ak:k<=i") is Reduce("add", "k", Where(keep, a, 0.0))
    assert right_side("Zi = Ak:k≤i :: ∨k max(∪)") is Reduce("max", "k", Where(keep, a, -math.inf))
    assert right_side("Zi = Ak:k<=i × Bk - 1") is Reduce("add", "k", Where(keep, a * b - 1, 0.0))
    assert right_side("Zi,k = max(Ak:k<=i, Bk)") is Where(keep, Map("max", (a, b)), 0.0)
    assert right_side("Zi = Ak:k<=i + 2 + Bk") is Reduce("add", "k", Where(Predicate(keep.terms, const=2), a + b, 0.0))


def test_a_filters_rank_times_a_number_on_either_side_of_it() -> None:
    a = read("A", "k")
    twice = Predicate((Term("k", -2), Term("i", 3)), const=-1)
    for text in ("2*k <= 3*i - 1", "k*2 <= i*3 - 1", "k×2 <= 3*i - 1"):
        assert right_side(f"Zi = sum[k](where({text}, Ak, 0))") is Reduce("add", "k", Where(twice, a, 0.0))
    assert right_side("Zi = Ak:k*2<=i") is Reduce("add", "k", Where(Predicate((Term("k", -2), Term("i", 1))), a, 0.0))
    # after a filter on a tensor the expression goes on
    assert right_side("Zi = Ak:k<=i * 2") is right_side("Zi = (Ak:k<=i) * 2")
    with pytest.raises(CascadeError, match="whole numbers"):
        parse("Zi,k = where(k*2.5 <= i, Ak, 0)")


def test_names_that_are_not_capitals_stand_before_brackets() -> None:
    cascade = parse("input Bias[m,p] : bool\nOut[p,m] = select(Bias[p,m], sigmoid(Xm), param(S))\nresults: Out[]")
    assert cascade.outputs["Out"].ranks == ("p", "m")
    assert cascade.inputs["Bias"] == Tensor("Bias", ("m", "p"), "bool")
    assert Param("S") in cascade.einsums[0].expr.args  # type: ignore[union-attr]
    assert parse(str(cascade)) == cascade


def test_merges_fit_where_a_skipped_point_is_zero() -> None:
    assert fitting_merges("mul") == ("∩", "∪", "←", "1")
    assert fitting_merges("add") == ("∪", "1")
    assert fitting_merges("div") == ("∩", "∪", "←", "1")  # what they cull is 0 (`nonzero`)
    assert fitting_merges("sub-then-exp") == ("1",)
    assert fitting_merges("eq") == ("1",)


# ---- errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Zm = Am +", r"line 1, column 10: expected a tensor, a number, a function or '\('"),
        ("\n\nZm = Am Bm", r"line 3, column 9: expected an operator or the end of the line, but got 'B'"),
        ("Zm = (Am", r"line 1, column 9: a bracket needs '\)' here"),
        ("Zmn = Am", r"after Z stand ranks \(\[a-z\]\[0-9\]\*\) with commas between them, but got 'mn'"),
        ("Zm = Am,m", r"Am,m: a rank indexes one axis only"),
        ("Zm = Am,k + Am", r"A has 2 ranks \['m', 'k'\], but is read with \['m'\]"),
        ("Zm = Am\nZm = Bm", r"line 2, column 1: Z is defined once, but line 1 defines it already"),
        ("Ym = Zm\nZm = Bm", r"line 2, column 1: Z is read on line 1, before it is defined here"),
        ("Zm = Zm", r"Z is read on line 1, before it is defined here"),
        ("Zm = m", r"rank m is no value: write index\(m\) for its index, \|m\| for its size"),
        ("Zm = foo(Am)", r"there is no function 'foo'; there are \["),
        ("Zm = max(Am)", r"max takes 2 operands, but got 1"),
        ("Zm = Am < Bm < Cm", r"comparisons do not chain"),
        ("Zm = --Am", r"write -\(-x\)"),
        ("Zm = Am @ Bm", r"line 1, column 9: '@' is no part of the notation"),
        ("Zm = Am /* open", r"line 1: the comment `/\*` is never closed"),
        ("Zm = where(Mm, Am, 0)", r"for a condition on tensors write select"),
        ("Zm = where(m == p, Am, 0)", r"compares index values by <=, >=, < or >"),
        ("Zm = where(m <= 1.5, Am, 0)", r"whole numbers of at most 18 digits, but got '1.5'"),
        ("Zm = split[m -> m1,m1](Am)", r"a view names three different ranks"),
        ("Zk = Ak · Bk :: ∧k +(∩)", r"a map action by \+ cannot merge by ∩, .* those that fit are \['∪', '1'\]"),
        ("Z = Ak :: ∨k +(∩)", r"a reduce action by \+ cannot merge by ∩"),
        ("Z = Ak :: ∨k -", r"a reduce action computes by one of"),
        ("Z = Ak :: ∨k +(x)", r"a merge operator is one of \['∩', '∪', '←', '1'\]"),
        ("Zk = Ak + Bk :: ∧k ×(∩)", r"a map action by mul needs `·` or that operator"),
        ("Zk = Ak · Bk :: ∧k ×(∩) ∧k +(∪)", r"map actions share one operator, but got mul and add"),
        ("Zk = Ak · Bk :: ∧j ×(∩)", r"\['j'\] are not"),
        ("Zk = Ak ::", r"after `::` stands a map action"),
        ("Zk = Ak :: k", r"an action starts with ∧ \(/\\\) or ∨ \(\\/\), or is an operator, .*, but got 'k'"),
        ("input Km\nZm = Am", r"line 1: input K is declared, but no einsum reads it"),
        ("input Km : half\nZm = Km", r"kind is one of \['float', 'int', 'bool'\], but got 'half'"),
        ("Zm = Am\nresults: Y", r"line 2, column 10: `results:` lists outputs of the einsums above, but got 'Y'"),
        ("Zm = Am\nresults: Z\nresults: Z", r"`results` stands once"),
        ("sum[m] = Am", r"sum is a word of the notation, so it names no tensor"),
        ("Z = Ak,m:m<=3 :: ∨k max(∪)", r"needs reductions of one kind, but got \['add', 'max'\]; write where"),
        ("Zi = sum[k](Ak:k<=i)", r"over ranks of the whole right side, but \['k'\] are reduced in it"),
        ("Zm = Am\nuntil m >= 3", "line 2: a stopping condition makes this an iteration"),
        ("Zm = 1e999", "a number is at most 1.8e308"),
        ("Zm", r"an einsum needs '=' here, but got 'end of line'"),
    ],
)
def test_errors_name_the_line_the_construct_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Zm = Am\n" * (MAX_CHARACTERS // 8 + 1), "at most 100000 characters"),
        ("Zm = " + "(" * 5000 + "Am" + ")" * 5000, f"brackets nest at most {MAX_NESTING} deep"),
        ("Zm = " + "e^(" * 5000, f"brackets nest at most {MAX_NESTING} deep"),
        ("Zm = " + "e^" * 5000 + "Am", "an operand is a tensor"),
        ("Z = 1\n" * 1001, "at most 1000 lines"),
        ("\n".join(f"Z{'A' * i} = Am{i}" for i in range(200)), "at most 128 ranks"),
        ("Zm = where(m <= " + "9" * 5000 + ", Am, 0)", "at most 18 digits"),
    ],
)
def test_absurd_text_is_refused_quickly(text: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        parse(text)


def test_long_flat_text_is_read() -> None:
    cascade = parse("Zm = " + " + ".join(["Am"] * 2400))
    assert parse(str(cascade)) == cascade


@pytest.mark.parametrize(
    ("einsum", "message"),
    [
        (Einsum(Tensor("Z", ("M",)), Const(1)), "a rank is one lower-case letter"),
        (Einsum(Tensor("a b", ()), Const(1)), "a name has letters"),
        (Einsum(Tensor("Z", ()), Param("a-b")), "a name has letters"),
        (Einsum(Tensor("Z", ("m",)), read("A", "m") + Access(Tensor("A", ("m",), "int"), ("m",))), "two tensors"),
    ],
)
def test_what_the_notation_cannot_say_is_refused(einsum: Einsum, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        str(Cascade((einsum,)))


def test_an_expression_shared_exponentially_is_refused() -> None:
    x: Expr = read("A", "m")
    for _ in range(60):
        x = x + x
    with pytest.raises(CascadeError, match="shared ones counted at each use"):
        str(Cascade((Einsum(Tensor("Z", ("m",)), x),)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_text_is_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    text = (CASCADES / "attention_2pass.edge").read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 3))
        text = text[:at] + data.draw(st.text("ABme0,=+-*/^()[]|&:<>·∧∨∪ \n{}", max_size=3)) + text[at + cut :]
    try:
        cascade = parse(text)
    except CascadeError:
        return
    assert parse(str(cascade)) == cascade


def test_a_fold_of_two_scores_declares_what_it_reads_first() -> None:
    a = Tensor("A", ("b",))
    for first, last in ((("m1",), ("b",)), (("b",), ("m1",))):
        fold = Fold("comoment", "b", Const(0.0), Access(a, last), (Access(a, first),))
        cascade = Cascade((Einsum(Tensor("Z", ("m1",)), fold),))
        assert Cascade.parse(str(cascade)) == cascade
