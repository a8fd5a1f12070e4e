"""Interned expression nodes, cascades over them, and their float64 meaning."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from eintune.space.cascade.cascade import Cascade, from_roots, rename
from eintune.space.cascade.run import infer_sizes, run_cascade
from eintune.space.ir.einsum import CascadeError, Einsum
from eintune.space.ir.evaluate import evaluate
from eintune.space.ir.expr import (
    NEG_INF,
    Access,
    Const,
    Expr,
    Fold,
    Iota,
    Map,
    Param,
    Predicate,
    Reduce,
    Size,
    Split,
    Tensor,
    Term,
    Unsplit,
    Where,
    bind,
    free,
    params,
    topological,
)

Q, K, V = (Tensor(n, r) for n, r in (("Q", ("p", "e")), ("K", ("m", "e")), ("V", ("m", "f"))))
q, k, v = (Access(t, t.ranks) for t in (Q, K, V))
RNG = np.random.default_rng(0)
DATA = {"Q": RNG.normal(size=(4, 3)), "K": RNG.normal(size=(8, 3)), "V": RNG.normal(size=(8, 5))}


def score() -> Expr:
    return Where(Predicate((Term("m", -1), Term("p", 1))), Reduce("add", "e", q * k) * Param("scale"), NEG_INF)


def three_pass() -> Expr:
    s = score()
    n = Map("exp", (s - Reduce("max", "m", s),))
    return Reduce("add", "m", n / Reduce("add", "m", n) * v)


def numpy_answer(scale: float) -> np.ndarray:
    s = DATA["Q"] @ DATA["K"].T * scale
    s[np.arange(8)[None] > np.arange(4)[:, None]] = -np.inf
    w = np.exp(s - s.max(1, keepdims=True))
    return w / w.sum(1, keepdims=True) @ DATA["V"]


def test_equal_nodes_are_one_object() -> None:
    assert three_pass() is three_pass()
    assert Const(0.0) is not Const(-0.0)
    assert pickle.loads(pickle.dumps(three_pass())) is three_pass()
    assert copy.deepcopy(three_pass()) is three_pass()


def test_nodes_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        q.index = ()  # type: ignore[misc]


def test_free_ranks_follow_reductions_filters_and_views() -> None:
    assert free(three_pass()) == {"p", "f"}
    assert free(Where(Predicate((Term("m", 1),)), Const(1.0), 0.0)) == {"m"}
    assert free(Split(k, "m", "m1", "m0")) == {"m1", "m0", "e"}
    assert free(Unsplit(Split(k, "m", "m1", "m0"), "m1", "m0", "m")) == {"m", "e"}


def test_a_shared_node_is_visited_once_after_its_operands() -> None:
    order = topological([three_pass()])
    assert len(order) == len(set(order))
    assert order[-1] is three_pass()
    assert order.index(q) < order.index(q * k)


def test_the_cascade_of_a_graph_means_what_the_graph_means() -> None:
    cascade = from_roots({"AV": (three_pass(), ("p", "f"))})
    np.testing.assert_allclose(run_cascade(cascade, DATA, params={"scale": 0.5})["AV"], numpy_answer(0.5), rtol=1e-12)
    assert cascade.roots()["AV"] is three_pass()
    assert params([three_pass()]) == ["scale"]
    assert params(bind([three_pass()], {"scale": 0.5})) == []


def test_one_fold_means_what_three_passes_mean() -> None:
    s = score()
    one = Fold("scale", "m", s, v) / Fold("scale", "m", s, Const(1.0))
    ((got, ranks),) = evaluate([one], DATA, {"p": 4, "m": 8, "e": 3, "f": 5}, {"scale": -0.3})
    assert ranks == ("f", "p")
    np.testing.assert_allclose(got.T, numpy_answer(-0.3), rtol=1e-12)


def test_split_and_unsplit_are_views() -> None:
    sizes = {"m": 8, "e": 3, "m1": 2, "m0": 4}
    tiles = Split(k, "m", "m1", "m0")
    (a, ranks), (b, _) = evaluate([Reduce("add", "m0", tiles), Unsplit(tiles, "m1", "m0", "m")], DATA, sizes)
    assert ranks == ("e", "m1")
    np.testing.assert_allclose(a, DATA["K"].reshape(2, 4, 3).sum(1).T)
    np.testing.assert_allclose(b, DATA["K"].T)


def test_a_strided_predicate_reads_a_split_rank() -> None:
    inside = Predicate((Term("m1", -1, "m0"), Term("m0", -1)), const=5)
    ((got, _),) = evaluate([Where(inside, Const(1.0), 0.0)], {}, {"m1": 2, "m0": 4})
    np.testing.assert_array_equal(got.T.ravel(), [1, 1, 1, 1, 1, 1, 0, 0])


def test_a_sum_over_an_absent_rank_multiplies_by_its_size() -> None:
    (a, _), (b, _), (c, _) = evaluate(
        [Reduce("add", "m", Const(2.0)), Reduce("max", "m", Const(2.0)), Iota("m") / Size("m")], {}, {"m": 4}
    )
    assert (a, b) == (8.0, 2.0)
    np.testing.assert_array_equal(c, [0, 0.25, 0.5, 0.75])


def test_an_empty_quotient_is_zero() -> None:
    ((got, _),) = evaluate([Const(0.0) / Const(0.0)], {}, {})
    assert got == 0.0


def test_intermediates_may_be_read_under_other_rank_names() -> None:
    s = Tensor("S", ("p", "m"))
    x = Tensor("X", ("p", "e"))
    gram = Reduce("add", "e", Access(x, ("p", "e")) * Access(x, ("m", "e")))
    cascade = Cascade((Einsum(s, gram), Einsum(Tensor("T", ("m", "p")), Access(s, ("p", "m")) - Access(s, ("m", "p")))))
    got = run_cascade(cascade, {"X": DATA["K"]})["T"]
    np.testing.assert_allclose(got, 0.0, atol=1e-12)


def test_renaming_refuses_capture() -> None:
    with pytest.raises(CascadeError, match="captured by the reduction over e"):
        rename(Reduce("add", "e", q * k), {"p": "e"})


def test_bad_cascades_are_named() -> None:
    with pytest.raises(CascadeError, match=r"einsum Z: .*\['e'\] do neither"):
        Einsum(Tensor("Z", ("p",)), q)
    with pytest.raises(CascadeError, match="defined once"):
        Cascade((Einsum(Tensor("Z", ("p", "e")), q), Einsum(Tensor("Z", ("p", "e")), q)))
    with pytest.raises(CascadeError, match="reads Z, which is defined later or is itself"):
        Cascade((Einsum(Tensor("Z", ("p", "e")), Access(Tensor("Z", ("p", "e")), ("p", "e"))),))
    with pytest.raises(CascadeError, match="result Y"):
        Cascade((Einsum(Tensor("Z", ("p", "e")), q),), ("Y",))


def test_sizes_come_from_shapes_and_must_agree() -> None:
    cascade = from_roots({"AV": (three_pass(), ("p", "f"))})
    assert infer_sizes(cascade, {n: a.shape for n, a in DATA.items()}) == {"p": 4, "e": 3, "m": 8, "f": 5}
    with pytest.raises(ValueError, match="rank e must have one size, but Q gives 3 and K gives 2"):
        infer_sizes(cascade, {"Q": (4, 3), "K": (8, 2), "V": (8, 5)})
    with pytest.raises(ValueError, match="input V is missing"):
        infer_sizes(cascade, {"Q": (4, 3), "K": (8, 3)})
    with pytest.raises(ValueError, match="its shape is"):
        infer_sizes(cascade, {"Q": (4, 3, 1), "K": (8, 3), "V": (8, 5)})
