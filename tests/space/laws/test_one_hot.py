"""Sums over one-hot selections become indexed accesses that mean the same for every label."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eintune.kernels.reference.agreement import agrees
from eintune.kernels.reference.eager import run_eager
from eintune.space.cascade.canonical import digest
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import infer_sizes, run_cascade
from eintune.space.cascade.timing import passes
from eintune.space.derivation.derive import derive
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Gather, Iota, reads, topological
from eintune.space.ir.gathers import trusted
from eintune.space.laws.one_hot import MOST, one_hots
from eintune.space.operators.assignments import read_operators, write_operators
from eintune.space.operators.cascades import from_cascade, to_cascade
from eintune.space.workloads.builtin import WORKLOADS

INT = "input Tp : int\n"
CASES = {
    "element": ("Zp = select(Tp == index(m), Xp,m, 0)", "X[p,T[p] else 0]"),
    "other order": ("Zp = select(index(m) == Tp, Xp,m, 0)", "X[p,T[p] else 0]"),
    "other branch": ("Zp = select(Tp != index(m), 0, Xp,m)", "X[p,T[p] else 0]"),
    "product": ("Zp = (Tp == index(m)) * Xp,m", "X[p,T[p] else 0]"),
    "one-hot matrix": ("Hp,m = select(Tp == index(m), 1, 0)\nZp,f = Hp,m * Em,f", "E[T[p],f else 0]"),
    "scaled": ("Zp = select(Tp == index(m), Xp,m, 0) * Wm / Vp", "W[T[p] else 0]"),
    "other rows": ("input Sn : int\ninput Tp : int\nZp = select(T[S[p]] == index(m), Xp,m, 0)", "X[p,T[S[p]] else 0]"),
    "another axis": ("Zp,q = select(Tp == index(m), Xq,m, 0)", "X[q,T[p] else 0]"),
    "and a mask": (
        "input Bp,m : bool\nZp = select(Tp == index(m) & Bp,m, Xp,m, 0)",
        "select(B[p,T[p] else 0], X[p,T[p] else 0], 0)",
    ),
    "and more": ("Zp = select(Tp == index(m) & Bp,m > 0, Xp,m, 0)", "B[p,T[p] else 0] > 0"),
    "function": ("Zp = select(Tp == index(m), tanh(Xp,m - Cp), 0)", "tanh(X[p,T[p] else 0] - Cp)"),
    "index": ("Zp = select(Tp == index(m), index(m) * Wm + 3, 0)", "Tp * W[T[p] else 0]"),
    "nothing of it": ("Zp = select(Tp == index(m), Wp, 0)", "select(Tp >= 0 & Tp < |m|, Wp, 0)"),
    "count": ("Zp = sum[m](Tp == index(m)) * Wp", "select(Tp >= 0 & Tp < |m|, 1, 0)"),
    "inner product": ("Zp = select(Tp == index(m), sum[e](Hp,e * Em,e), 0)", "E[T[p],e else 0]"),
    "looked up": ("input An,m\ninput Sp : int\nZp = select(Tp == index(m), A[S[p],m], 0)", "A[S[p],T[p] else 0]"),
    "part of a sum": ("Zp = sum[m](select(Tp == index(m), Xp,m, 0) + Yp,m)", "X[p,T[p] else 0]"),
}
KEPT = {
    "a label that varies": "input Tm : int\nZp = select(Tm == index(m), Xp,m, 0)",
    "another number": "Zp = select(Tp == index(m), Xp,m, 1)",
    "a float": "Zp = select(Up == index(m), Xp,m, 0) * Tp",
    "a maximum": "Zp = Xp,m * Wp :: \\/m max\nYp = max[m](select(Tp == index(m), Xp,m, 0))",
    "a captured rank": "input Te : int\nZe = select(Te == index(m), sum[e](Xe,m), 0)",
    "a part": "input Xn,k\nZp = select(Tp == index(m), X[p,m//2], 0)",
    "a table along it": "input An,k\ninput Sm : int\nZp = select(Tp == index(m), A[S[m],p], 0)",
    "a filter": "Zp = select(Tp == index(m), where(m <= p, Xp,m, 0), 0)",
}
LABELS = np.array([-100, -1, 0, 3, 6, 7, 2**31 - 1])


def text_of(body: str) -> str:
    return body if "input T" in body else INT + body


def data_of(cascade: Cascade, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Seven rows with the labels above, whose second to last is |m|; an element of what is not theirs is infinite."""
    rng = np.random.default_rng(seed)
    sizes = dict.fromkeys("pn", 7) | {"m": 7, "e": 4, "f": 5, "q": 3, "k": 4}
    sizes = {r: sizes[r] for r in cascade.ranks()} | {"n": 7}
    data = {n: rng.normal(size=[sizes[r] for r in t.ranks]) for n, t in cascade.inputs.items()}
    data |= {n: data[n] > 0 for n, t in cascade.inputs.items() if t.kind == "bool"}
    whole = {"T": LABELS, "S": np.array([6, 0, 3, 1, 2, 5, 4])}
    return data | {n: whole[n] for n in data if n in whole}, sizes


def found(cascade: Cascade) -> list[Cascade]:
    return [d.cascade for d in derive(cascade).cascades]


@pytest.mark.parametrize("name", CASES)
def test_a_selection_becomes_an_access(name: str) -> None:
    body, wanted = CASES[name]
    cascade = Cascade.parse(text_of(body))
    forms = found(cascade)
    assert any(wanted in str(c) for c in forms), "\n\n".join(map(str, forms))
    data, sizes = data_of(cascade)
    exact = run_cascade(cascade, data, sizes)["Z"]
    for c in forms:
        assert Cascade.parse(str(c)) == c
        assert agrees(c, cascade, {})
        np.testing.assert_allclose(run_cascade(c, data, sizes)["Z"], exact, rtol=1e-12, atol=1e-14)
        given = {n: torch.as_tensor(a) for n, a in data.items()}
        eager = run_eager(c, given, sizes, {}, torch.float64)["Z"]
        np.testing.assert_allclose(eager.numpy(), exact, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", KEPT)
def test_other_sums_stay(name: str) -> None:
    cascade = Cascade.parse(text_of(KEPT[name]))
    assert not one_hots(list(cascade.roots().values()))


def test_other_elements_do_not_matter() -> None:
    cascade = Cascade.parse(text_of(CASES["element"][0]))
    data, sizes = data_of(cascade)
    data["X"][:] = np.inf
    data["X"][:, 0] = np.nan
    data["X"][[2, 3], [0, 3]] = 5.0
    for c in (cascade, *found(cascade)):
        assert run_cascade(c, data, sizes)["Z"].tolist() == [0, 0, 5, 5, np.inf, 0, 0]
        eager = run_eager(c, {n: torch.as_tensor(a) for n, a in data.items()}, sizes, {}, torch.float64)["Z"]
        assert eager.tolist() == [0, 0, 5, 5, torch.inf, 0, 0]


def test_the_loss_takes_no_index_of_its_words() -> None:
    cascade = WORKLOADS["cross_entropy"]()
    derivation = derive(cascade)
    best = derivation.cascades[0]
    (root,) = best.cascade.roots().values()
    assert best.passes == 1 and passes([root], "m") == 1
    assert not any(isinstance(x, Iota) for x in topological([root]))
    assert next(x for x in reads([root]) if isinstance(x, Gather)).padded and not trusted([root])
    assert derivation.statistics.matches["one-hot"] == 1
    others = derive(cascade, without=frozenset({"one-hot"})).cascades
    assert not any("else 0" in str(d.cascade) for d in others)


def test_a_padded_access_is_written_and_read() -> None:
    cascade = Cascade.parse("input Xp,m\ninput Tp : int\nZp = X[p,T[p] else 0] * 2")
    assert Cascade.parse(str(cascade)) == cascade
    strict = Cascade.parse(str(cascade).replace(" else 0", ""))
    assert strict != cascade and digest(strict) != digest(cascade)
    again = read_operators(write_operators(from_cascade(cascade)))
    data = {"X": np.arange(6.0).reshape(2, 3), "T": np.array([2, 3])}
    for c in (cascade, to_cascade(again)):
        assert run_cascade(c, data)["Z"].tolist() == [4.0, 0.0]
    assert infer_sizes(cascade, {"X": (2, 3), "T": (2,)}) == {"p": 2, "m": 3}
    with pytest.raises(IndexError, match=r"X: axis m is addressed within 0\.\.2 only"):
        run_cascade(strict, data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X[p,T[p] else 1]", "beyond its axes a tensor is 0: `else 0`"),
        ("X[p,m else 0]", "an element of an int tensor or a computed index lies beyond"),
        ("X[p,m//2 else 0]", "an element of an int tensor or a computed index lies beyond"),
        ("X[p,T[p] else]", "expected a number"),
        ("X[p,T[T[p] else 0]]", "an element that addresses an axis is one of its tensor's, without `else 0`"),
    ],
)
def test_errors_name_the_rule(text: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        Cascade.parse(f"input Xp,k\n{INT}Zp = {text}")


def test_a_long_product_is_read_in_a_few_ways() -> None:
    lines = [INT + "Ap,m = (Tp == index(m)) * Xp,m"]
    lines += [f"{b}p,m = {a}p,m * {a}p,m" for a, b in zip("ABCDEFGHIJ", "BCDEFGHIJK", strict=True)]
    cascade = Cascade.parse("\n".join([*lines, "Zp = sum[m](Kp,m)"]))
    assert len(one_hots(list(cascade.roots().values()))) <= 12 * MOST
