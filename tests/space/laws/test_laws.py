"""Each law is an equation of real arithmetic: both sides, on random data over random ranks, agree."""

from __future__ import annotations

import re

import numpy as np
import pytest
from law_instances import SIZES, both_sides, instance

from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.expr import NEG_INF, Access, Const, Fold, Predicate, Reduce, Tensor, Term, topological
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.splits import SplitOf
from eintune.space.laws.law import Law
from eintune.space.laws.laws import NAMES, UNSPLIT, laws
from eintune.space.laws.one_hot import one_hots

SPLIT = SplitOf("m", "m1", "m0")
FILTERS = [
    (Predicate((Term("m", -1), Term("p", 1)), (("m", 1), ("p", -1))), NEG_INF),
    (Predicate((Term("m", 1),), (), -2), 0.0),
]
LABELS = Cascade.parse(
    "input Tp : int\nYp = select(Tp == index(m), Xp,m, 0)\nZp = select(index(m) != Tp, 0, sum[q](Up,q * Vm,q) / Wp)"
)
ONE_HOTS = one_hots(list(LABELS.roots().values()))
TABLE = laws([SPLIT], FILTERS, ONE_HOTS, reference=True)


@pytest.mark.parametrize("i", range(len(TABLE)), ids=lambda i: f"{TABLE[i].name}-{i}")
def test_both_sides_agree(i: int) -> None:
    for seed in range(6):
        wide = both_sides(TABLE[i], seed)
        assert np.isfinite(wide[0]).all() or TABLE[i].name == "split"
        np.testing.assert_allclose(wide[1], wide[0], rtol=1e-9, atol=1e-11, equal_nan=True)


def test_the_check_finds_a_wrong_law() -> None:
    a, b = (Access(Tensor("?" + n, ()), ()) for n in "ab")
    wrong = Law("wrong", Reduce("add", "?r", a * b), Reduce("add", "?r", a) * b)
    with pytest.raises(AssertionError):
        for seed in range(6):
            left, right, data = instance(wrong, np.random.default_rng(seed))
            (x, rx), (y, ry) = evaluate([left, right], data, SIZES)
            assert rx == ry
            np.testing.assert_allclose(x, y)


def test_every_law_can_be_left_out_by_name() -> None:
    assert {law.name for law in TABLE} == set(NAMES) - {UNSPLIT}  # which are a table of their own
    for name in NAMES:
        rest = laws([SPLIT], FILTERS, ONE_HOTS, reference=True, without=frozenset({name}))
        assert {law.name for law in rest} == set(NAMES) - {name, UNSPLIT}
    with pytest.raises(ValueError, match=r"`without` must name laws of \[.*'split'.*\], but got \['splitting'\]"):
        laws(without=frozenset({"splitting"}))


def test_fold_laws_come_from_the_table_of_actions() -> None:
    for action in ACTIONS:
        found = [x.right for x in TABLE if x.name in ("composite-fold", "comoments") and isinstance(x.right, Fold)]
        assert any(f.action == action and f.arg is Const(1.0) for f in found)
    # only a transport that is linear, or a reference that the argument weighs, lets a fold carry an argument
    carrying = {
        f.action
        for x in TABLE
        for f in topological([x.left, x.right])
        if isinstance(f, Fold) and f.arg is not Const(1.0)
    }
    assert carrying <= {"scale", "translate", "comoment", "softcomoment"}
    assert not any(
        law.name == "fold-linear" and isinstance(law.left, Fold) and law.left.action == "translate" for law in TABLE
    )


def test_no_law_names_a_workload() -> None:
    words = re.compile(
        "attention|softmax|softmin|flash|norm|causal|gelu|entropy|router|loss|covariance|variance|diverge",
        re.IGNORECASE,
    )
    assert not any(words.search(law.name) for law in TABLE)
