"""Iterative cascades: FuseMax's one-pass cascade and other recurrences, run in float64, written and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.cascade.run import run_cascade
from eintune.space.ir.einsum import CascadeError

CASCADES = Path(__file__).resolve().parents[2] / "cascades"
ONE_PASS = (CASCADES / "attention_1pass_iterative.edge").read_text()
RNG = np.random.default_rng(3)

PREFIX_SUM = """
S0 = 0
Sm+1 = Sm + Am
Z = S|m|
until m >= |m|
"""
FILTERED = """
S0,p = 0
Xm,p = where(2*m <= p + 1, Am * index(m), 0)
Sm+1,p = Sm,p + Xm,p * scale
Zp = S|m|,p - 1
until m >= |m|
"""


def softmax_answer(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    s = k.T @ q
    w = np.exp(s - s.max(0))
    return v @ (w / w.sum(0))


@pytest.mark.parametrize(("m1", "m0"), [(4, 3), (1, 12), (12, 1)])
def test_the_one_pass_cascade_means_attention(m1: int, m0: int) -> None:
    q, k, v = RNG.normal(size=(3, 5)), RNG.normal(size=(3, 12)) * 30, RNG.normal(size=(2, 12))
    got = IterativeCascade.parse(ONE_PASS).run({"Q": q, "K": k, "V": v}, {"m1": m1, "m0": m0})
    assert set(got) == {"AV"}
    np.testing.assert_allclose(got["AV"], softmax_answer(q, k, v), rtol=1e-12)


def test_it_agrees_with_the_three_pass_cascade() -> None:
    data = {"Q": RNG.normal(size=(3, 5)), "K": RNG.normal(size=(3, 8)), "V": RNG.normal(size=(2, 8))}
    three = run_cascade(Cascade.parse((CASCADES / "attention_3pass.edge").read_text()), data)
    one = IterativeCascade.parse(ONE_PASS).run(data, {"m1": 2, "m0": 4})
    np.testing.assert_allclose(one["AV"], three["AV"], rtol=1e-12)


def test_recurrences_over_an_inputs_rank() -> None:
    a = RNG.normal(size=7)
    assert IterativeCascade.parse(PREFIX_SUM).run({"A": a})["Z"] == pytest.approx(a.sum())
    got = IterativeCascade.parse(FILTERED).run({"A": a}, {"p": 9}, {"scale": 0.5})["Z"]
    m, p = np.arange(7), np.arange(9)
    want = np.where(2 * m[None] <= p[:, None] + 1, a * m, 0).sum(1) * 0.5 - 1
    np.testing.assert_allclose(got, want)


@pytest.mark.parametrize("text", [ONE_PASS, PREFIX_SUM, FILTERED], ids=["attention", "sum", "filtered"])
def test_text_reads_back(text: str) -> None:
    cascade = IterativeCascade.parse(text)
    assert IterativeCascade.parse(str(cascade)) == cascade
    assert str(cascade).isascii()


def test_the_sections_are_told_apart() -> None:
    c = IterativeCascade.parse(ONE_PASS)
    assert c.rank == "m1"
    assert [e.output.name for e in c.before] == ["BK", "BV"]
    assert [(u.output.name, u.output.ranks, u.index) for u in c.initial] == [
        ("RM", ("m1", "p"), ("0", "p")),
        ("RD", ("m1", "p"), ("0", "p")),
        ("RNV", ("f", "m1", "p"), ("f", "0", "p")),
    ]
    assert [u.output.name for u in c.step if "m1+1" in u.index] == ["RM", "RD", "RNV"]
    assert [u.output.name for u in c.after] == ["AV"]
    assert list(c.inputs) == ["K", "V", "Q"]


def edited(old: str, new: str) -> str:
    assert old in ONE_PASS
    return ONE_PASS.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PREFIX_SUM.replace("until m >= |m|", ""), "one stopping condition .* but got 0"),
        (PREFIX_SUM + "until m >= 3", "one stopping condition .* but got 2"),
        (PREFIX_SUM.replace("until m >= |m|", "until m >= p"), "over the iterated rank alone, but reads"),
        ("Zm = Am\nuntil m >= |m|", "an initial value of a state, a step and a result"),
        (PREFIX_SUM.replace("S0 = 0", "S0 = 0\nT0 = 0"), "T: it has an initial value, but no step to m\\+1"),
        (edited("RD0,p = 0\n", ""), "line 16, column 1: RD is read on line 15, before it is defined here"),
        (edited("SLDm1,p = SLNm1,m0,p\n", "SLDp = SLNm1,m0,p :: ∨m1 +\n"), "SLNV is a step, but SLD above"),
        (edited("SLDm1,p = SLNm1,m0,p\n", "SLDm1,p = sum[m1](SLNm1,m0,p)\n"), "a step cannot reduce over the iterated"),
        (edited("LMm1,p = BQK", "LMm1,p = RMm1+1,p + BQK"), "RM at m1\\+1 is read in a step, below its definition"),
        (edited("AVf,p = RNVf,|m1|,p", "AVf,p = RNVf,m1,p"), "RNV at m1 is read in a step only"),
        (edited("AVf,p = RNVf,|m1|,p", "AVf,p = SLNVf,|m1|,p"), "only a result reads \\|m1\\|"),
        (
            edited("RMm1+1,p = max(RMm1,p, LMm1,p)", "RMm1+1,p = max(RMm1,p, SLDm1,p)"),
            "SLD is read on line 11, before it is defined here",
        ),
        (edited("RNVf,0,p = 0", "RNV0,f,p = 0"), r"RNV has ranks m1,f,p \(float\) above, but f,m1,p"),
        (ONE_PASS + "RMm1+1,p = LMm1,p\n", "RM is a step, but AV above began the results"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        IterativeCascade.parse(text)


def test_errors_of_a_run() -> None:
    cascade = IterativeCascade.parse(PREFIX_SUM.replace("m >= |m|", "m >= |m| + 1"))
    with pytest.raises(CascadeError, match=r"does not hold at m = \|m\| = 3"):
        cascade.run({"A": np.ones(3)})
    stops_early = IterativeCascade.parse(PREFIX_SUM.replace("m >= |m|", "m >= 2"))
    with pytest.raises(CascadeError, match=r"reads states at \|m\| = 3, but the iteration stopped at 2"):
        stops_early.run({"A": np.ones(3)})
    with pytest.raises(ValueError, match="input A is missing"):
        stops_early.run({})
    with pytest.raises(ValueError, match="the size of the iterated rank m1 is not known"):
        IterativeCascade.parse(ONE_PASS).run({"Q": np.ones((3, 5)), "K": np.ones((3, 8)), "V": np.ones((2, 8))})


def test_a_plain_cascade_has_no_iterated_index() -> None:
    step = IterativeCascade.parse(PREFIX_SUM).step[0]
    from eintune.space.cascade.cascade import Cascade
    from eintune.space.ir.einsum import Einsum
    from eintune.space.ir.expr import Tensor

    with pytest.raises(CascadeError, match=r"a rank is one lower-case letter .* 'm\+1'"):
        str(Cascade((Einsum(Tensor("Z", ("m+1", "m")), step.expr),)))
