"""Definitions that are written in two passes, in tiles or as folds: what is derived of them is what is derived of the
naive one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from law_instances import both_sides

from eintune.space.cascade.cascade import Cascade, from_roots
from eintune.space.derivation.derive import UNDOING, derive
from eintune.space.derivation.undone_views import undone, unsplit_laws
from eintune.space.egraph.graph import HOLE, Limits, Node, saturate
from eintune.space.egraph.safety import safe_part, unsafe
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.expr import (
    NEG_INF,
    Expr,
    Fold,
    Map,
    Predicate,
    Reduce,
    Split,
    Term,
    Unsplit,
    Where,
    free,
    topological,
)
from eintune.space.ir.splits import SplitOf, split_predicate
from eintune.space.laws.law import variable
from eintune.space.laws.laws import UNSPLIT
from eintune.space.notation.printer import write_expression
from eintune.space.operators.formats import as_cascade, read_computation

SPLIT = SplitOf("m", "m1", "m0")
FILTERS = [
    (Predicate((Term("m", -1), Term("p", 1)), (("m", 1), ("p", -1))), NEG_INF),
    (Predicate((Term("m", 1),), (), -2), 0.0),
]
TESTS = Path(__file__).parents[2]
X = variable("x")
TABLE = tuple(unsplit_laws([SPLIT], [Where(q, X, fill) for p, fill in FILTERS if (q := split_predicate(p, SPLIT))]))
NAIVE = "max[m](sum[e](Qe,p * Ke,m))"
WRITTEN = {
    "two passes": "cascades/attention_2pass.edge",
    "one pass, an iteration": "cascades/attention_1pass_iterative.edge",
    "operators in two passes, divided last": "operators/attention_2pass_deferred.txt",
    "operators in one pass": "operators/attention_1pass.txt",
}


def written(name: str) -> Cascade:
    return as_cascade(read_computation((TESTS / WRITTEN[name]).read_text("utf-8")))


def plain(cascade: Cascade) -> list[Expr]:
    roots = list(cascade.roots().values())
    found = undone(roots, Limits(rows=UNDOING, arranged=UNDOING // 4))
    return [found.get(x, x) for x in roots]


@pytest.mark.parametrize("i", range(len(TABLE)), ids=lambda i: f"{TABLE[i].name}-{i}")
def test_both_sides_agree(i: int) -> None:
    for seed in range(4):
        x, y = both_sides(TABLE[i], seed)
        np.testing.assert_allclose(y, x, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("name", WRITTEN)
def test_every_number_of_passes_is_derived(name: str) -> None:
    found = derive(written(name))
    assert {d.passes for d in found.cascades} == {1, 2, 3}
    (three,) = (d for d in found.cascades if d.passes == 3)
    assert str(three.signature) == "3:division.inside+reduce.add.whole*2+reduce.max.whole*1"
    assert found.complete and not found.failed


def test_without_the_laws_that_undo_views_there_is_no_single_pass() -> None:
    assert {d.passes for d in derive(written("two passes"), without=frozenset({UNSPLIT})).cascades} == {2}


def test_what_two_passes_are_in_tiles_of() -> None:
    (root,) = plain(written("two passes"))
    (naive,) = as_cascade(read_computation((TESTS / "cascades/attention_3pass.edge").read_text())).roots().values()
    assert write_expression(root) == write_expression(naive)


def test_filters_and_indices_are_undone() -> None:
    (root,) = plain(
        Cascade.parse("""
        BXm1,m0 = split[m -> m1,m0](Xm)
        Sp,m1,m0 = where(m1*|m0| + m0 <= p, BXm1,m0 * (index(m1) * |m0| + index(m0)), -inf)
        Lp,m1 = max[m0](Sp,m1,m0)
        Gp = max[m1](Lp,m1)
        Dp = sum[m1](sum[m0](e^(Sp,m1,m0 - Lp,m1)) * e^(Lp,m1 - Gp)) / (|m1| * |m0|)
        results: D
        """)
    )
    assert not any(isinstance(x, (Split, Unsplit, Fold)) for x in topological([root]))
    assert "where(m <= p, " in write_expression(root)
    assert "index(m)" in write_expression(root)
    assert "|m|" in write_expression(root)


def test_what_reads_a_tile_by_itself_stays() -> None:
    cascade = Cascade.parse("BXm1,m0 = split[m -> m1,m0](Xm)\nLm1 = max[m0](BXm1,m0)\nZp = sum[m1](Lm1 * Wm1,p)")
    (root,) = cascade.roots().values()
    assert root not in undone([root], Limits())
    assert {d.passes for d in derive(cascade).cascades} == {1}


def test_a_division_that_waits_for_its_own_sum_was_not_put_off() -> None:
    normed = Cascade.parse("Op,f = Ap,m * Vm,f\nRp = sqrt(sum[f](Op,f * Op,f) + 1)\nYp,f = Op,f / Rp\nresults: Y")
    assert undone(list(normed.roots().values()), Limits()) == {}
    deferred = Cascade.parse("Dp = Ap,m\nOp,f = sum[m](Ap,m * Vm,f) / Dp\nresults: O")
    (root,) = plain(deferred)
    assert not isinstance(root, Map)  # the sum is outermost now


def test_parts_that_each_divided_by_their_own_sum() -> None:
    """A split of the keys whose parts are merged by their weights."""
    (root,) = plain(
        Cascade.parse("""
        BSp,m1,m0 = split[m -> m1,m0](Sp,m)
        BVm1,m0,f = split[m -> m1,m0](Vm,f)
        Lp,m1 = max[m0](BSp,m1,m0)
        Dp,m1 = sum[m0](e^(BSp,m1,m0 - Lp,m1))
        Op,m1,f = sum[m0](e^(BSp,m1,m0 - Lp,m1) * BVm1,m0,f) / Dp,m1
        Wp,m1 = Dp,m1 * e^(Lp,m1 - max[m1](Lp,m1))
        Zp,f = sum[m1](Op,m1,f * Wp,m1) / sum[m1](Wp,m1)
        results: Z
        """)
    )
    weight = "e^(Sp,m - max[m](Sp,m))"
    naive = f"sum[m]({weight} / sum[m]({weight}) * Vm,f)", f"sum[m]({weight} * Vm,f / sum[m]({weight}))"
    assert write_expression(root) in naive


@pytest.mark.parametrize("reference", ["max[m1](LSEp,m1)", "max[m1](Lp,m1)"], ids=lambda r: r.split("(")[0])
def test_parts_that_are_merged_by_their_log_sum_exp(reference: str) -> None:
    """Whatever the merge is relative to."""
    found = derive(
        Cascade.parse(f"""
        BSp,m1,m0 = split[m -> m1,m0](Sp,m)
        BVm1,m0,f = split[m -> m1,m0](Vm,f)
        Lp,m1 = max[m0](BSp,m1,m0)
        Dp,m1 = sum[m0](e^(BSp,m1,m0 - Lp,m1))
        Op,m1,f = sum[m0](e^(BSp,m1,m0 - Lp,m1) * BVm1,m0,f) / Dp,m1
        LSEp,m1 = Lp,m1 + log(Dp,m1)
        Wp,m1 = e^(LSEp,m1 - {reference})
        Zp,f = sum[m1](Op,m1,f * Wp,m1) / sum[m1](Wp,m1)
        results: Z
        """)
    )
    best = found.cascades[0]
    assert str(best.signature) == "1:division.after+fold.scale.whole*2"
    assert {d.passes for d in found.cascades} >= {1, 2}


MEANS = "Ap,m1 = sum[m0](BXp,m1,m0) / |m0|\nDp,m1,m0 = BXp,m1,m0 - Ap,m1\nQp,m1 = sum[m0](Dp,m1,m0 * Dp,m1,m0)\n"
MERGES = {
    "each": "Gp = sum[m1](Ap,m1) / |m1|\nEp,m1 = Ap,m1 - Gp\nZp = sum[m1](Qp,m1 + |m0| * Ep,m1 * Ep,m1) / |m|",
    "weighed": "Gp = sum[m1](Ap,m1 * |m0|) / |m|\nEp,m1 = Gp - Ap,m1\nZp = sum[m1](Qp,m1 + Ep,m1 * Ep,m1 * |m0|) / |m|",
}


@pytest.mark.parametrize("name", MERGES)
def test_variances_of_tiles_that_are_merged(name: str) -> None:
    """Chan, Golub and LeVeque: squares around each tile's mean, and of its distance from the whole one."""
    (root,) = plain(Cascade.parse(f"BXp,m1,m0 = split[m -> m1,m0](Xp,m)\n{MEANS}{MERGES[name]}\nresults: Z"))
    assert not any(isinstance(x, (Split, Unsplit)) or {"m1", "m0"} & free(x) for x in topological([root]))
    best = derive(from_roots({"Z": (root, ("p",))}, {})).cascades[0]
    assert str(best.signature) == "1:fold.translate.whole*1"


def test_covariances_of_tiles_that_are_merged() -> None:
    found = derive(
        Cascade.parse("""
        BXi,m1,m0 = split[m -> m1,m0](Xi,m)
        BYj,m1,m0 = split[m -> m1,m0](Yj,m)
        Ai,m1 = sum[m0](BXi,m1,m0) / |m0|
        Bj,m1 = sum[m0](BYj,m1,m0) / |m0|
        Ci,j,m1 = sum[m0]((BXi,m1,m0 - Ai,m1) * (BYj,m1,m0 - Bj,m1))
        Gi = sum[m1](Ai,m1) / |m1|
        Hj = sum[m1](Bj,m1) / |m1|
        Zi,j = sum[m1](Ci,j,m1 + |m0| * (Ai,m1 - Gi) * (Bj,m1 - Hj))
        results: Z
        """)
    )
    assert str(found.cascades[0].signature) == "1:fold.comoment.whole*1"


def test_two_in_a_row_in_tiles() -> None:
    one = """
    B{K}e,{m}1,{m}0 = split[{m} -> {m}1,{m}0]({K}e,{m})
    B{V}{f},{m}1,{m}0 = split[{m} -> {m}1,{m}0]({V}{f},{m})
    {S}p,{m}1,{m}0 = sum[{e}]({Q}p,{e} * B{K}{e},{m}1,{m}0)
    {S}Lp,{m}1 = max[{m}0]({S}p,{m}1,{m}0)
    {S}Gp = max[{m}1]({S}Lp,{m}1)
    {S}Np,{m}1,{m}0 = e^({S}p,{m}1,{m}0 - {S}Lp,{m}1)
    {S}Cp,{m}1 = e^({S}Lp,{m}1 - {S}Gp)
    {S}Dp = sum[{m}1](sum[{m}0]({S}Np,{m}1,{m}0) * {S}Cp,{m}1)
    {O}p,{f} = sum[{m}1](sum[{m}0]({S}Np,{m}1,{m}0 * B{V}{f},{m}1,{m}0) * {S}Cp,{m}1) / {S}Dp
    """
    first = one.format(K="K", V="V", S="S", Q="Q", O="O", m="m", e="e", f="f")
    second = one.replace("B{K}e", "B{K}{e}").replace("({K}e", "({K}{e}")
    both = first + second.format(K="J", V="U", S="T", Q="O", O="Y", m="n", e="f", f="g") + "results: Y"
    found = derive(Cascade.parse(both))
    assert found.cascades[0].passes == 1
    assert found.complete


def test_what_is_undone_divides_by_nothing_that_is_0_where_the_definition_is_not() -> None:
    # (w * (G / H)) / J is 0 where J has no elements, and w * (G / (H * J)), which divides as early, is 0 * inf
    definition = Cascade.parse("""
        C = sum[k](Ak) / sum[k](Bk)
        Jp = sum[m](where(m <= p - 2, 1, 0))
        Mp = sum[m](where(m <= p - 2, 1, 0) * C) / Jp
    """)
    (root,) = plain(definition)
    data = {n: np.random.default_rng(0).normal(size=3) for n in "AB"}
    sizes = {"k": 3, "m": 4, "p": 5}
    ((value, _),) = evaluate([root], data, sizes)
    np.testing.assert_allclose(value, np.where(np.arange(5) < 2, 0, data["A"].sum() / data["B"].sum()))
    found = derive(definition)
    assert not found.failed and len(found.cascades) == 3


def test_only_the_definitions_own_spelling_is_excused() -> None:
    (root,) = Cascade.parse("Zp = sum[m](max(Ap,m, 0) * C) / sum[m](max(Ap,m, 0))").roots().values()
    total, factor = root.args[1], root.args[0].arg.args[1]
    same = Reduce("add", "m", root.args[0].arg.args[0] * (factor / total))
    graph = saturate([root], (), (), None, {root: same})
    division = Node(HOLE / HOLE, (graph.defined[factor], graph.defined[total]))
    assert (graph.defined[factor / total], division) in graph.original - graph.own
    assert [u.node for u in unsafe(graph)] == [division]
    assert safe_part(graph)[0].has([root]) and not safe_part(graph)[0].has([same])
