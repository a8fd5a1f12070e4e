"""Each row of the fold table is a monoid: merging in any tree, any order, gives what one pass gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eintune.space.evaluate import evaluate
from eintune.space.expr import Access, Const, Fold, Map, Reduce, Tensor
from eintune.space.folds import ACTIONS, Action, Reference, fold
from eintune.space.pointwise import Array

State = tuple[Reference, Array]
items = arrays(np.float64, st.integers(1, 12), elements=st.floats(-500, 500, allow_subnormal=False))


def lift(action: Action, score: Array, arg: Array) -> State:
    reference = action.item(score)
    return reference, action.weight(score, reference) * arg


def merge(action: Action, a: State, b: State) -> State:
    reference = action.combine(a[0], b[0])
    return reference, action.transport(a[1], a[0], reference) + action.transport(b[1], b[0], reference)


@pytest.mark.parametrize("name", ACTIONS)
@given(scores=items, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_merge_tree_agrees_with_the_fold(name: str, scores: Array, seed: int) -> None:
    action, rng = ACTIONS[name], np.random.default_rng(seed)
    # only scaling weighs its items: a translated sum is over unweighted ones
    args = rng.normal(size=scores.shape) if name == "scale" else np.ones_like(scores)
    states = [lift(action, c, y) for c, y in zip(scores, args, strict=True)]
    while len(states) > 1:
        i = int(rng.integers(len(states) - 1))
        states[i : i + 2] = [merge(action, states[i], states[i + 1])]
    expected = fold(action, scores, args, 0)[0]
    np.testing.assert_allclose(states[0][1], expected, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("name", ACTIONS)
def test_the_identity_changes_nothing(name: str) -> None:
    action = ACTIONS[name]
    empty: State = (tuple(np.array(i) for i in action.identities), np.zeros(()))
    some = lift(action, np.array(3.0), np.array(2.0))
    for merged in (merge(action, empty, some), merge(action, some, empty)):
        np.testing.assert_allclose(merged[0], some[0])
        np.testing.assert_allclose(merged[1], some[1])


@pytest.mark.parametrize("name", ACTIONS)
def test_the_law_relates_the_fold_to_two_passes(name: str) -> None:
    action = ACTIONS[name]
    x = Access(Tensor("X", ("p", "m")), ("p", "m"))
    two = Reduce("add", "m", action.weight_of(x, action.reference_of("m", x)))
    data = {"X": np.random.default_rng(0).normal(size=(3, 17))}
    (a, _), (b, _) = evaluate([two, Fold(name, "m", x, Const(1.0))], data, {"p": 3, "m": 17})
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_translation_keeps_its_digits_where_raw_moments_lose_them() -> None:
    x = np.random.default_rng(1).normal(size=50) + 1e8
    got = fold(ACTIONS["translate"], x, np.ones_like(x), 0)[0] / 50
    raw = (x**2).mean() - x.mean() ** 2
    assert abs(got - x.var()) < 1e-6 * x.var() < abs(raw - x.var())


def test_a_fold_over_nothing_but_minus_infinity_is_zero() -> None:
    scores, args = np.full((4,), -np.inf), np.array([1.0, np.inf, np.nan, 2.0])
    assert fold(ACTIONS["scale"], scores, args, 0)[0] == 0.0


def test_exp_of_a_difference_is_the_scaling_weight() -> None:
    c, g = Access(Tensor("C", ("m",)), ("m",)), Access(Tensor("G", ()), ())
    assert ACTIONS["scale"].weight_of(c, g) is Map("exp", (c - g,))
