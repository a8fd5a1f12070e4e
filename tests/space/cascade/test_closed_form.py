"""Iterations solved: what is a reduction or a composite fold becomes one, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.closed_form import closed
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.cascade.run import run_cascade
from eintune.space.derivation.derive import derive
from eintune.space.ir.einsum import CascadeError
from eintune.space.operators.formats import as_cascade, read_computation
from eintune.space.operators.passes import analyse

CASCADES = Path(__file__).resolve().parents[2] / "cascades"
ONE_PASS = (CASCADES / "attention_1pass_iterative.edge").read_text()
RUNNING = """
M0,p = -inf
D0,p = 0
Mm+1,p = max(Mm,p, Sm,p)
{step}
Lp = log(D|m|,p) + M|m|,p
until m >= |m|
"""
RESCALED = "Dm+1,p = Dm,p * e^(Mm,p - Mm+1,p) + e^(Sm,p - Mm+1,p)"


def solved(text: str) -> Cascade:
    return closed(IterativeCascade.parse(text))


def test_the_one_pass_cascade_is_two_folds_over_tiles() -> None:
    cascade = solved(ONE_PASS)
    text = str(cascade)
    assert "RDp = fold_scale[m1](LMm1,p, " in text
    assert "RNVf,p = fold_scale[m1](LMm1,p, " in text
    assert analyse(cascade).passes == 1
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 5)), rng.normal(size=(3, 12)) * 30, rng.normal(size=(2, 12))
    weights = np.exp(k.T @ q - (k.T @ q).max(0))
    got = run_cascade(cascade, {"Q": q, "K": k, "V": v}, {"m1": 4, "m0": 3})["AV"]
    np.testing.assert_allclose(got, v @ (weights / weights.sum(0)), rtol=1e-12)
    assert as_cascade(read_computation(ONE_PASS)) == cascade


def test_what_is_solved_derives_as_any_cascade_does() -> None:
    found = derive(solved(RUNNING.format(step=RESCALED)))
    assert min(d.passes for d in found.cascades) == 1


@pytest.mark.parametrize(
    ("text", "cascade"),
    [
        ("S0 = 0\nSm+1 = Sm + Am\nZ = S|m|\nuntil m >= |m|", "Z = sum[m](Am)"),
        ("S0 = 2\nSm+1 = Am * Sm\nZ = S|m|\nuntil m >= |m|", "Z = 2 * prod[m](Am)"),
        ("S0,p = Bp\nSm+1,p = min(Sm,p, Am,p)\nZp = S|m|,p\nuntil m >= |m|", "Zp = min(Bp, min[m](Am,p))"),
        (
            "S0,p = 0\nXm,p = where(m <= p, Am, 0)\nSm+1,p = Sm,p + Xm,p\nZp = S|m|,p - 1\nuntil m >= |m|",
            "Xm,p = where(m <= p, Am, 0)\nSp = Xm,p\nZp = Sp - 1",
        ),
    ],
)
def test_plain_recurrences_are_reductions(text: str, cascade: str) -> None:
    assert solved(text).roots() == Cascade.parse(cascade).roots()


@pytest.mark.parametrize(
    "step",
    [
        RESCALED,
        "Dm+1,p = e^(Sm,p - Mm+1,p) + e^(Mm,p - Mm+1,p) * Dm,p",
        "Pm,p = e^(Mm,p - Mm+1,p)\nWm,p = e^(Sm,p - Mm+1,p)\nDm+1,p = Dm,p * Pm,p + Wm,p",
    ],
)
def test_spellings_of_a_rescaled_sum(step: str) -> None:
    cascade = solved(RUNNING.format(step=step))
    assert "fold_scale[m](Sm,p, " in str(cascade)
    s = np.random.default_rng(1).normal(size=(6, 4)) * 20
    np.testing.assert_allclose(run_cascade(cascade, {"S": s})["L"], np.logaddexp.reduce(s, 0), rtol=1e-12)


def test_several_terms_and_signs_are_relative_to_the_reference_too() -> None:
    step = "Dm+1,p = Dm,p * e^(Mm,p - Mm+1,p) + Vm * e^(Sm,p - Mm+1,p) - Wm * e^(Sm,p - Mm+1,p) / 2"
    text = RUNNING.replace("log(D|m|,p) + M|m|,p", "D|m|,p").format(step=step)
    with pytest.raises(CascadeError):  # a difference is no sum of terms: it is refused rather than guessed
        solved(text)
    cascade = solved(text.replace(" - Wm", " + Wm"))
    rng = np.random.default_rng(2)
    s, v, w = rng.normal(size=(6, 4)), rng.normal(size=6), rng.normal(size=6)
    want = ((v + w / 2)[:, None] * np.exp(s - s.max(0))).sum(0)
    np.testing.assert_allclose(run_cascade(cascade, {"S": s, "V": v, "W": w})["L"], want, rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (RUNNING.format(step="Dm+1,p = Dm,p * e^(Mm,p - Mm+1,p) + e^(Sm,p)"), "D: cannot be solved"),
        (RUNNING.format(step="Dm+1,p = Dm,p * e^(Mm+1,p - Mm,p) + e^(Sm,p - Mm+1,p)"), "D: cannot be solved"),
        (RUNNING.format(step="Dm+1,p = Dm,p + e^(Sm,p - Mm+1,p)"), "D: cannot be solved"),
        (RUNNING.format(step="Dm+1,p = Dm,p * Dm,p + Sm,p"), "D: cannot be solved"),
        (RUNNING.replace("D0,p = 0", "D0,p = 1").format(step=RESCALED), "D: cannot be solved"),
        (RUNNING.replace("-inf", "Bp").format(step=RESCALED), "D: cannot be solved"),
        (RUNNING.format(step=RESCALED.replace("Dm,p *", "2 * Dm,p *")), "D: cannot be solved"),
        ("S0 = 0\nSm+1 = Am - Sm\nZ = S|m|\nuntil m >= |m|", "S: cannot be solved"),
        ("S0 = 0\nSm+1 = Sm + Sm\nZ = S|m|\nuntil m >= |m|", "S: cannot be solved"),
        ("S0 = 0\nSm+1 = Sm + Am\nZ = S|m|\nuntil m >= |m| - 1", "solved where it stops at"),
    ],
)
def test_what_is_no_such_recurrence_is_refused(text: str, says: str) -> None:
    with pytest.raises(CascadeError, match=says):
        solved(text)
