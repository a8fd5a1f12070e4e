"""Operator notation: assignments, egglog programs and serialised e-graphs, to a cascade and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Gather, topological
from eintune.space.operators.assignments import read_operators, write_operators
from eintune.space.operators.cascades import from_cascade, to_cascade
from eintune.space.operators.egglog_programs import read_egg, read_egglog_json, write_egg
from eintune.space.operators.graph import OperatorGraph
from eintune.space.operators.operators import Operator
from eintune.space.workloads.builtin import WORKLOADS, attention

OPERATORS = Path(__file__).resolve().parents[2] / "operators"
FILES = sorted(p.stem for p in OPERATORS.glob("*.txt"))
RNG = np.random.default_rng(2)
MATRIX_PRODUCT = """
; seed 000's example, with ranks as subscripts
temp_{e,m,p} = M_mul_emp(Q_{e,p}, K_{e,m})    ; Map: element-wise multiply
QK_{m,p} = R_add_e(temp)                      ; Reduce: sum over e
"""


def graph(name: str) -> OperatorGraph:
    return read_operators((OPERATORS / f"{name}.txt").read_text())


def same_roots(a: Cascade, b: Cascade) -> bool:
    return a.roots() == b.roots() and a.outputs == b.outputs


# ---- names


@pytest.mark.parametrize(
    ("name", "kind", "op", "ranks"),
    [
        ("M_mul_em1m0p", "M", "mul", ("e", "m1", "m0", "p")),
        ("M_exp2_mp", "M", "exp2", ("m", "p")),
        ("M_log", "M", "log", ()),
        ("R_max_m12", "R", "max", ("m12",)),
        ("T_split_m_m1m0", "T", "split", ("m", "m1", "m0")),
        ("T_unsplit_m1m0_m", "T", "unsplit", ("m1", "m0", "m")),
        ("F_scale_m", "F", "scale", ("m",)),
    ],
)
def test_operators_names(name: str, kind: str, op: str, ranks: tuple[str, ...]) -> None:
    assert Operator.parse(name) == Operator(kind, op, ranks)
    assert str(Operator(kind, op, ranks)) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("X_mul_m", "X_mul_m is no operator; the forms are M_<op>_<ranks>"),
        ("M_matmul_mp", "there is no operation 'matmul'; M_ has"),
        ("R_add_mp", "R_add_mp: the ranks do not fit"),
        ("R_add", "R_add: the ranks do not fit"),
        ("T_split_m1m0_m", "the ranks do not fit"),
        ("T_fold_m_m1m0", "there is no operation 'fold'"),
        ("M_mul_mm", "M_mul_mm: a rank stands twice"),
        ("M_mul_m_p", "the ranks do not fit"),
    ],
)
def test_names_that_are_no_operators(name: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        Operator.parse(name)


# ---- assignments


def test_a_product_and_its_sum_are_one_einsum() -> None:
    assert to_cascade(read_operators(MATRIX_PRODUCT)) == Cascade.parse("QKm,p = Qe,p * Ke,m")


@pytest.mark.parametrize("name", FILES)
def test_the_files_mean_attention(name: str) -> None:
    q, k, v = RNG.normal(size=(3, 5)), RNG.normal(size=(3, 12)), RNG.normal(size=(2, 12))
    g = graph(name)
    s = k.T @ q
    w = np.exp(s - s.max(0))
    sizes = {**g.sizes, "m0": 3} if g.sizes else {}
    got = run_cascade(to_cascade(g), {"Q": q, "K": k, "V": v}, sizes)["AV"]
    np.testing.assert_allclose(got, v @ (w / w.sum(0)), rtol=1e-12)


def test_a_splits_constant_is_the_number_of_tiles() -> None:
    assert graph("attention_2pass").sizes == {"m1": 4}


@pytest.mark.parametrize("name", FILES)
def test_files_are_written_back(name: str) -> None:
    g = graph(name)
    assert read_operators(write_operators(g)) == g
    again = from_cascade(to_cascade(g))
    assert same_roots(to_cascade(again), to_cascade(g))


def gathers(name: str) -> bool:
    return any(isinstance(x, Gather) for x in topological(WORKLOADS[name]().roots().values()))


@pytest.mark.parametrize("name", sorted(filter(gathers, WORKLOADS)))
def test_what_egglog_notation_cannot_say_is_refused(name: str) -> None:
    with pytest.raises(CascadeError, match=r"cannot say|is a copy, for which there is no operator"):
        write_egg(from_cascade(WORKLOADS[name]()))


@pytest.mark.parametrize("name", sorted(n for n in WORKLOADS if not gathers(n)))
def test_every_workload_is_written_and_read(name: str) -> None:
    cascade = WORKLOADS[name]()
    text = write_operators(from_cascade(cascade))
    assert same_roots(to_cascade(read_operators(text)), cascade)
    if any(isinstance(x, Gather) for e in cascade.einsums for x in topological([e.expr])):
        with pytest.raises(CascadeError, match="is addressed by more than ranks, which egglog notation cannot say"):
            write_egg(read_operators(text))
        return
    if any(x.index != x.tensor.ranks for e in cascade.einsums for x in topological([e.expr]) if isinstance(x, Access)):
        with pytest.raises(CascadeError, match="read with renamed ranks"):
            write_egg(read_operators(text))
        return
    assert to_cascade(read_egg(write_egg(read_operators(text)))).roots() == cascade.roots()


def test_filters_parameters_and_folds_are_written() -> None:
    text = """
    S = M_where_mp(QK_{m,p}, m <= p + |m| - |p|, -inf)
    X = M_mul_mp(S, $scale)
    Y = M_add_mp(X, index(m))
    Z = F_translate_m(Y, B_{m} )
    W = M_div_p(Z, |m|)
    """
    g = read_operators(text)
    cascade = Cascade.parse(
        "Wp = fold_translate[m](where(m <= p + |m| - |p|, QKm,p, -inf) * scale + index(m), Bm) / |m|"
    )
    assert to_cascade(g).roots() == cascade.roots()
    assert read_operators(write_operators(g)) == g
    assert read_egg(write_egg(g)) == g


def test_kinds_and_renamed_operands() -> None:
    g = read_operators("D_{p} : int\nE = M_eq_mp(D_{p}, D_{m})\nresults: E")
    assert to_cascade(g).einsums[0].expr == Cascade.parse("input Dp : int\nEm,p = Dp == Dm").einsums[0].expr
    assert read_operators(write_operators(g)) == g


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A = B", "line 1: expected `name = OPERATOR"),
        ("\nA = M_foo_m(X)", "line 2: M_foo_m: there is no operation 'foo'"),
        ("A = M_exp_m(X_{m})\nA = M_exp_m(X)", "line 2: A is defined once"),
        ("A = M_exp_m(X_{m,m})", "ranks are .* different from each other"),
        ("A = M_exp_m(X_{m})\nB = M_exp_m(X_{m,p})", r"X has ranks \['m'\], but is read with \['m', 'p'\]"),
        ("X_{m} : half", "kind is one of"),
        ("A = M_exp_m(X_{m})\nresults: B", "result B: no operation defines it"),
        ("A = T_split_m_m1m0(X_{m}, 0)", "the number of tiles is a positive whole number"),
        ("A = T_split_m_m1m0(X_{m}, 4)\nB = T_split_m_m1m0(Y_{m}, 5)", "rank m1 must have one size, but got 4 and 5"),
        ("A = M_where_mp(X_{m,p}, m == p, 0)", "expected|compares|line 1"),
        ("A = M_exp_m(X@)", "a name has letters, digits and _"),
        ("A = M_exp_m(B)\nB = M_exp_m(A)", "reads B, which is defined later"),
        ("A = M_mul_m(X)", "A = M_mul_m takes 2 operands and 0 filters, but got 1 and 0"),
    ],
)
def test_errors_of_assignments(text: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        read_operators(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A = M_exp_m(X)", r"the ranks of X are not written; write X_\{e,m\} on a line of its own"),
        ("A = M_exp_mp(X_{m})", r"A = M_exp_mp iterates \['m', 'p'\], but its operands have \['m'\]"),
        ("A = M_mul_m(X_{m})", "takes 2 operands and 0 filters, but got 1 and 0"),
        ("A = R_add_m(X_{m}, Y_{m})", "takes 1 operands and 0 filters, but got 2 and 0"),
        ("A = M_where_m(X_{m}, m <= 3, Y_{m})", "fills with a number"),
        ("A_{p} = M_exp_m(X_{m})", "every rank on the right must be reduced or stand on the left"),
    ],
)
def test_operations_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        to_cascade(read_operators(text))


def test_a_copy_has_no_operator() -> None:
    with pytest.raises(CascadeError, match="result Z is a copy"):
        from_cascade(Cascade.parse("Zm = Am"))


# ---- egglog


@pytest.mark.parametrize("name", FILES)
def test_egglog_runs_what_is_written_and_its_e_graph_is_read(name: str) -> None:
    from egglog.bindings import EGraph

    program = write_egg(graph(name))
    assert read_egg(program) == graph(name)
    egraph = EGraph()
    egraph.run_program(*egraph.parse_program(program))
    data = egraph.serialize([], max_functions=None, max_calls_per_function=None, include_temporary_functions=True)
    read = read_egglog_json(data.to_json())
    assert read.sizes == graph(name).sizes
    assert same_roots(to_cascade(read), to_cascade(graph(name)))


def test_programs_may_nest_and_may_hold_rules() -> None:
    program = """
    (datatype Op (Tensor String String) (M_mul_emp Op Op) (R_add_e Op)) ; the notation
    (rewrite (R_add_e (M_mul_emp a b)) (R_add_e (M_mul_emp b a)))
    (let K (CreateTensor "K" "e" "m"))
    (let QK (R_add_e (M_mul_emp (Tensor "Q" "e,p") K)))
    (run 3) (check (= QK QK))
    """
    assert to_cascade(read_egg(program)) == Cascade.parse("QKm,p = Qe,p * Ke,m")


def test_inputs_without_ranks_are_read_but_make_no_cascade() -> None:
    g = read_egg('(let A (M_exp_mp (Tensor "X")))')
    assert g.unranked() == ["X"]
    assert read_egg(write_egg(g)) == g
    with pytest.raises(CascadeError, match="the ranks of X are not written"):
        to_cascade(g)


@pytest.mark.parametrize(
    "program",
    [
        "(let A (Input)) (let B (Input)) (let Z (M_add_m A B))",
        "(declare A Tensor) (declare B Tensor) (let Z (M_add_m A B))",
        "(let Z (M_add_m (A) (B)))",
        '(let A (Make "A")) (let Z (M_add_m A (Make "B")))',
    ],
)
def test_inputs_in_any_constructor(program: str) -> None:
    g = read_egg(program)
    assert g.unranked() == ["A", "B"]
    assert to_cascade(g.with_ranks({"A": ("m",), "B": ()})) == Cascade.parse("Zm = Am + B")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("(let A (M_exp_m B))", "command 1: B is not bound above"),
        ('(let A (M_exp_m (Tensor "X" "m"))', "1 brackets are never closed"),
        ("(let A 1))", r"`\)` closes nothing"),
        ('(let A "m', "is no part of a program"),
        ("(lett A 1)", "command 1: expected"),
        ("(let A (Foo 3))", "is no operator and no leaf"),
        ("(" * 200, "brackets nest at most 100 deep"),
    ],
)
def test_errors_of_programs(program: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        read_egg(program)


def node(op: str, eclass: str, children: tuple[str, ...] = (), cost: float = 1.0) -> dict[str, object]:
    return {"op": op, "eclass": eclass, "children": list(children), "cost": cost}


def test_the_cheapest_node_of_each_class_is_taken_and_cycles_are_left_out() -> None:
    nodes = {
        "s": node('"X"', "s"),
        "r": node('"m"', "r"),
        "x": node("Tensor", "x", ("s", "r")),
        "a": node("M_exp_m", "a", ("x",), cost=5),
        "b": node("M_neg_m", "a", ("x",), cost=1),
        "c": node("M_neg_m", "a", ("c",), cost=0),
        "z": node("R_add_m", "z", ("a",)),
    }
    g = read_egglog_json(json.dumps({"nodes": nodes, "class_data": {"z": {"let": "$Z"}}}))
    assert to_cascade(g).roots() == Cascade.parse("Z = sum[m](-Xm)").roots()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not a serialised e-graph"),
        ("[]", "not a serialised e-graph"),
        ('{"nodes": {"a": {"op": "M_exp_m"}}}', "not a serialised e-graph"),
        (
            '{"nodes": {"a": {"op": "M_exp_m", "eclass": "0", "children": ["b"]}}}',
            "its child 'b' is not in the e-graph",
        ),
        ('{"nodes": {"a": {"op": "M_exp_m", "eclass": "0", "children": ["a"]}}}', "0 has no finite term"),
        ("[" * 100_000, "not a serialised e-graph"),
    ],
)
def test_errors_of_serialised_e_graphs(text: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        read_egglog_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "X = M_exp_m(A_{m,p})",
        "X = M_exp_mp(A_{m})",
        "S = R_add_m(A_{m,p})\nX = M_exp_mp(S)",
        "B = T_split_m_m1m0(A_{m})\nX = M_exp_m(B)",
        "X = M_mul_m(A_{m,p}, B)",
        "X = M_where_m(A_{m}, m <= p, 0)",
    ],
)
def test_a_map_over_another_space_than_its_operands(text: str) -> None:
    with pytest.raises(CascadeError, match=r"X = M_.* iterates .*, but its operands have"):
        read_operators(text)


def test_a_space_that_nothing_written_contradicts() -> None:
    graph = read_operators("X = M_mul_mp(A_{m}, B)\nY = M_add_mp(X, A_{m})")
    assert to_cascade(graph.with_ranks({"B": ("p",)})).outputs
    with pytest.raises(CascadeError, match="X = M_mul_mp iterates"):
        graph.with_ranks({"B": ("q",)})


def test_a_filtered_definition_survives_all_three_spellings() -> None:
    cascade = attention(causal="lower_right", grouped=True)
    g = from_cascade(cascade)
    assert same_roots(to_cascade(read_operators(write_operators(g))), cascade)
    assert to_cascade(read_egg(write_egg(g))).roots() == cascade.roots()
