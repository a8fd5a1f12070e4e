"""Each law is an equation of real arithmetic: both sides, on random data over random ranks, agree."""

from __future__ import annotations

import re

import numpy as np
import pytest

from eintune.space.cascade import Cascade
from eintune.space.evaluate import evaluate
from eintune.space.expr import (
    NEG_INF,
    Access,
    Const,
    Expr,
    Fold,
    Map,
    Predicate,
    Reduce,
    Size,
    Tensor,
    Term,
    rewrite,
    tensors,
    topological,
)
from eintune.space.laws import NAMES, Absent, Law, Negative, Positive, Present, SplitOf, is_variable, laws
from eintune.space.one_hot import one_hots

SIZES = {"r": 4, "q": 3, "p": 2, "m": 6, "m1": 2, "m0": 3}
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
POSITIVE_ONLY = {"log", "log2", "sqrt", "recip"}


def rank(name: str) -> str:
    return name.removeprefix("?")


def instance(law: Law, rng: np.random.Generator) -> tuple[Expr, Expr, dict[str, np.ndarray]]:
    """Both sides with tensors for the variables: each varies with ranks that the conditions allow."""
    patterns = [law.left, law.right]
    absent: dict[Expr, set[str]] = {}
    present: dict[Expr, set[str]] = {}
    for c in law.conditions:
        if isinstance(c, Absent):
            for x in c.terms:
                absent.setdefault(x, set()).update(map(rank, c.ranks))
        elif isinstance(c, Present):
            present.setdefault(c.term, set()).add(rank(c.rank))
    # the parts of a split rank are no ranks of an input
    around = {"p", "m"} if law.name == "split" else {"p", "m1"}
    around |= {"r", "q"}
    chosen_for: dict[Expr, Expr] = {}
    data: dict[str, np.ndarray] = {}
    negative = {c.term for c in law.conditions if isinstance(c, Negative)}
    positive = any(isinstance(c, Positive) for c in law.conditions) or law.name == "logarithm"
    positive |= any(isinstance(x, Map) and x.op in POSITIVE_ONLY for x in topological(patterns))
    for x in topological(patterns):
        if is_variable(x):
            assert isinstance(x, Access)
            chosen = {r for r in around if rng.random() < 0.5} | present.get(x, set())
            index = tuple(sorted(chosen - absent.get(x, set())))
            name = x.tensor.name[1:].upper()
            chosen_for[x] = Access(Tensor(name, index), index)
            values = rng.uniform(0.5, 1.5, [SIZES[r] for r in index])
            signs = -np.ones(()) if x in negative else rng.choice([-1.0, 1.0], values.shape)
            data[name] = values if positive else values * signs

    def concrete(x: Expr) -> Expr | None:
        match x:
            case Access() if x in chosen_for:
                return chosen_for[x]
            case Reduce():
                return Reduce(x.op, rank(x.rank), x.arg)
            case Fold():
                return Fold(x.action, rank(x.rank), x.ref, x.arg)
            case Size():
                return Size(rank(x.rank))
            case _:
                return None

    left, right = rewrite(patterns, concrete)
    if law.is_ground:
        for name, t in tensors([left]).items():
            shape = [SIZES[r] for r in t.ranks]
            data[name] = rng.integers(-1, 8, shape) if t.kind == "int" else rng.normal(size=shape)
    return left, right, data


@pytest.mark.parametrize("i", range(len(TABLE)), ids=lambda i: f"{TABLE[i].name}-{i}")
def test_both_sides_agree(i: int) -> None:
    for seed in range(6):
        left, right, data = instance(TABLE[i], np.random.default_rng(seed))
        (a, ranks_a), (b, ranks_b) = evaluate([left, right], data, SIZES)
        every = sorted(set(ranks_a) | set(ranks_b))
        wide = [
            np.broadcast_to(x.reshape([SIZES[r] if r in have else 1 for r in every]), [SIZES[r] for r in every])
            for x, have in ((a, ranks_a), (b, ranks_b))
        ]
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
    assert {law.name for law in TABLE} == set(NAMES)
    for name in NAMES:
        rest = laws([SPLIT], FILTERS, ONE_HOTS, reference=True, without=frozenset({name}))
        assert {law.name for law in rest} == set(NAMES) - {name}
    with pytest.raises(ValueError, match=r"`without` must name laws of \[.*'split'.*\], but got \['splitting'\]"):
        laws(without=frozenset({"splitting"}))


def test_fold_laws_come_from_the_table_of_actions() -> None:
    for action in ("scale", "translate"):
        found = [x.right for x in TABLE if x.name == "composite-fold" and isinstance(x.right, Fold)]
        assert any(f.action == action and f.arg is Const(1.0) for f in found)
    # only a transport that is linear lets a fold carry an argument
    carrying = {
        f.action
        for x in TABLE
        for f in topological([x.left, x.right])
        if isinstance(f, Fold) and f.arg is not Const(1.0)
    }
    assert carrying <= {"scale", "translate"}
    assert not any(
        law.name == "fold-linear" and isinstance(law.left, Fold) and law.left.action == "translate" for law in TABLE
    )


def test_no_law_names_a_workload() -> None:
    words = re.compile(
        "attention|softmax|softmin|flash|norm|causal|gelu|entropy|router|loss|covariance|variance|diverge",
        re.IGNORECASE,
    )
    assert not any(words.search(law.name) for law in TABLE)
