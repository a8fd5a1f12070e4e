"""Canonical graphs: one spelling a form, views on the inputs, splits only where they matter."""

from __future__ import annotations

import numpy as np
import pytest

from eintune.space.cascade.canonical import canonical, digest, join_predicate, lowered, mixed, spelled, splits_of
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.expr import Access, Fold, Iota, Map, Predicate, Reduce, Split, Tensor, Term, Where, topological
from eintune.space.ir.splits import SplitOf, split_predicate

S = SplitOf("m", "m1", "m0")
SIZES = {"p": 4, "m": 6, "m1": 2, "m0": 3, "f": 5}
X = Access(Tensor("X", ("p", "m")), ("p", "m"))
V = Access(Tensor("V", ("m", "f")), ("m", "f"))


def one(text: str) -> object:
    ((root, _),) = lowered(Cascade.parse(text)).values()
    return root


def test_spellings_of_one_form_are_one() -> None:
    a = "Yp,m = Xp,m * Zp * 2 * 1.5"
    b = "Yp,m = 3 * (Zp * Xp,m)"
    assert one(a) is one(b)
    assert one("Yp = Xp / 1 + 0") is one("Yp = Xp")
    assert one("Yp = Xp - 1") is not one("Yp = 1 - Xp")


def test_a_split_sum_is_joined() -> None:
    text = "BXp,m1,m0 = split[m -> m1,m0](Xp,m)\nTp,m1 = BXp,m1,m0\nYp = Tp,m1"
    assert one(text) is Reduce("add", "m", X)


def test_a_tiled_fold_is_joined_and_a_partial_one_is_not() -> None:
    tiled = """BXp,m1,m0 = split[m -> m1,m0](Xp,m)
BVm1,m0,f = split[m -> m1,m0](Vm,f)
Lp,m1 = BXp,m1,m0 :: \\/m0 max
Ep,m1,m0 = e^(BXp,m1,m0 - Lp,m1)
Np,m1,f = Ep,m1,m0 * BVm1,m0,f
Yp,f = fold_scale[m1](Lp,m1, Np,m1,f)
results: Y"""
    assert one(tiled) is Fold("scale", "m", X, V)
    nested = tiled.replace("Np,m1,f = Ep,m1,m0 * BVm1,m0,f", "Np,m1,f = fold_scale[m0](BXp,m1,m0, BVm1,m0,f)")
    assert one(nested) is Fold("scale", "m", X, V)
    other = tiled.replace("Ep,m1,m0 * BVm1,m0,f", "BVm1,m0,f")
    root = one(other)
    assert splits_of([root])  # type: ignore[list-item]


def test_views_stand_on_the_inputs() -> None:
    y = S.view(Map("exp", (X * Reduce("max", "m", X),)))
    (pushed,) = spelled([y])
    assert all(isinstance(x.arg, Access) for x in topological([pushed]) if isinstance(x, Split))
    rng = np.random.default_rng(0)
    data = {"X": rng.normal(size=(4, 6))}
    (a, ranks_a), (b, ranks_b) = evaluate([y, pushed], data, SIZES)
    assert ranks_a == ranks_b
    np.testing.assert_allclose(a, b)


def test_an_index_is_split_by_its_meaning() -> None:
    y = S.view(Where(Predicate((Term("m", 1), Term("p", -1))), X * Iota("m"), 0.0))
    (pushed,) = spelled([y])
    data = {"X": np.random.default_rng(0).normal(size=(4, 6))}
    (a, _), (b, _) = evaluate([y, pushed], data, SIZES)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "p",
    [
        Predicate((Term("m", -1), Term("p", 1)), (("m", 1), ("p", -1))),
        Predicate((Term("m", 2), Term("p", 1)), (), -3),
        Predicate((Term("p", 1),), (), -1),
    ],
)
def test_a_predicate_splits_and_joins(p: Predicate) -> None:
    divided = split_predicate(p, S)
    assert divided is not None
    joined = join_predicate(divided, S)
    assert joined is not None
    assert (set(joined.terms), joined.sizes, joined.const) == (set(p.terms), p.sizes, p.const)
    assert join_predicate(Predicate((Term("m1", 1),)), S) is None
    assert join_predicate(Predicate((Term("m1", 1, "m0"), Term("m0", 2))), S) is None


def test_a_rank_both_whole_and_split_is_noticed() -> None:
    split_sum = Reduce("add", "m1", Map("exp", (Reduce("add", "m0", S.view(X)),)))
    assert mixed([X / split_sum])
    assert not mixed([split_sum])
    assert not mixed(canonical([X / Reduce("add", "m1", Reduce("add", "m0", S.view(X)))]))


def test_the_digest_knows_no_names() -> None:
    a = "Sp,m = Qp,e * Km,e\nYp,f = Sp,m * Vm,f"
    b = "Ra,c = ZZa,b * Ac,b\nPa,d = Ra,c * Wc,d"
    c = "Sm,f = Qe,m * Ke,f\nYp,f = Sm,f * Vp,m"
    assert digest(Cascade.parse(a)) == digest(Cascade.parse(b))
    assert digest(Cascade.parse(a)) != digest(Cascade.parse(c))
