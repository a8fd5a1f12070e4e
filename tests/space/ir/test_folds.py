"""Each row of the fold table is a monoid: merging in any tree, any order, gives what one pass gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.expr import Access, Const, Fold, Map, Tensor
from eintune.space.ir.folds import ACTIONS, WEIGHTS, Action, Reference, Scores, fold
from eintune.space.ir.pointwise import Array

State = tuple[Reference, Array]
items = arrays(np.float64, st.integers(1, 12), elements=st.floats(-500, 500, allow_subnormal=False))


def lift(action: Action, scores: Scores, arg: Array) -> State:
    reference = action.item(scores, arg)
    return reference, action.weight(scores, reference) * arg


def merge(action: Action, a: State, b: State) -> State:
    reference = action.combine(a[0], b[0])
    return reference, action.transport(a[1], a[0], reference) + action.transport(b[1], b[0], reference)


@pytest.mark.parametrize("name", ACTIONS)
@given(first=items, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_merge_tree_agrees_with_the_fold(name: str, first: Array, seed: int) -> None:
    action, rng = ACTIONS[name], np.random.default_rng(seed)
    scores = (first, *(rng.normal(size=first.shape) * 10 + 100 for _ in range(action.references - 1)))
    # only scaling weighs its items, and weights that a reference has are not negative
    args = rng.normal(size=first.shape) if name == "scale" else np.ones_like(first)
    args = rng.integers(0, 3, first.shape) / 2 if action.weighed else args
    states = [lift(action, tuple(s[i] for s in scores), args[i]) for i in range(len(first))]
    while len(states) > 1:
        i = int(rng.integers(len(states) - 1))
        states[i : i + 2] = [merge(action, states[i], states[i + 1])]
    expected = fold(action, scores, args, 0)[0]
    np.testing.assert_allclose(states[0][1], expected, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("name", ACTIONS)
def test_the_identity_changes_nothing(name: str) -> None:
    action = ACTIONS[name]
    empty: State = (tuple(np.array(i) for i in action.identities), np.zeros(()))
    some = lift(action, tuple(np.array(3.0 + i) for i in range(action.references)), np.array(2.0))
    for merged in (merge(action, empty, some), merge(action, some, empty)):
        np.testing.assert_allclose(merged[0], some[0])
        np.testing.assert_allclose(merged[1], some[1])


@pytest.mark.parametrize("name", ACTIONS)
def test_the_law_relates_the_fold_to_two_passes(name: str) -> None:
    action, rng = ACTIONS[name], np.random.default_rng(0)
    names = "XYZ"[: action.references]
    scores = [Access(Tensor(n, ("p", "m")), ("p", "m")) for n in names]
    w = Access(Tensor("W", ("m",)), ("m",)) if action.weighed else Const(1.0)
    data = {n: rng.normal(size=(3, 17)) for n in names} | {"W": rng.uniform(0, 2, 17)}
    one = Fold(name, "m", scores[0], w, tuple(scores[1:]))
    (a, _), (b, _) = evaluate([action.written("m", scores, w), one], data, {"p": 3, "m": 17})
    np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", ["comoment", "softcomoment"])
def test_weights_of_both_signs_have_a_meaning_though_a_running_sum_of_them_vanishes(name: str) -> None:
    scores = tuple(np.array([1.0, 2.0, 4.0]) + i for i in range(ACTIONS[name].references))
    scores = (np.zeros(3), *scores[1:]) if name == "softcomoment" else scores
    weights, x, y = np.array([1.0, -1.0, 2.0]), *scores[-2:]
    mean_x, mean_y = (float(weights @ a) / 2.0 for a in (x, y))
    expected = float(weights @ ((x - mean_x) * (y - mean_y)))
    assert abs(fold(ACTIONS[name], scores, weights, 0)[0] - expected) < 1e-12 * abs(expected)


def test_co_moments_keep_their_digits_where_raw_moments_lose_them() -> None:
    rng = np.random.default_rng(1)
    x, y, w = rng.normal(size=50) + 1e8, rng.normal(size=50) - 3e7, rng.uniform(0, 2, 50)
    exact = [a - np.average(a - a[0], weights=w) - a[0] for a in (x, y)]
    expected, spread = (w * exact[0] * exact[1]).sum(), w.sum()
    raw = (w * x * y).sum() - (w * x).sum() * (w * y).sum() / w.sum()
    got = fold(ACTIONS["comoment"], (x, y), w, 0)[0]
    soft = fold(ACTIONS["softcomoment"], (np.log(w), x, y), np.ones(50), 0)[0] * w.max()
    assert abs(got - expected) < 1e-6 * spread < abs(raw - expected)
    assert abs(soft - expected) < 1e-6 * spread


def test_translation_keeps_its_digits_where_raw_moments_lose_them() -> None:
    x = np.random.default_rng(1).normal(size=50) + 1e8
    got = fold(ACTIONS["translate"], (x,), np.ones_like(x), 0)[0] / 50
    raw = (x**2).mean() - x.mean() ** 2
    assert abs(got - x.var()) < 1e-6 * x.var() < abs(raw - x.var())


def test_a_fold_over_nothing_but_minus_infinity_is_zero() -> None:
    scores, args = np.full((4,), -np.inf), np.array([1.0, np.inf, np.nan, 2.0])
    assert fold(ACTIONS["scale"], (scores,), args, 0)[0] == 0.0


def test_exp_of_a_difference_is_the_scaling_weight() -> None:
    c, g = Access(Tensor("C", ("m",)), ("m",)), Access(Tensor("G", ()), ())
    assert WEIGHTS["scale"].weight_of(c, g) is Map("exp", (c - g,))
