"""A factor e^C leaves a quotient only where what is divided is proven to be 0 wherever C is -inf."""

from __future__ import annotations

import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.egraph.graph import Limits, saturate
from eintune.space.ir.splits import SplitOf
from eintune.space.laws.laws import laws

WEIGHTS = "Gp = max[m](Xp,m)\nAp,f = sum[m](e^(Xp,m - Gp) * Vm,f)\n"
SINK = "Gp = max[m](Xp,m)\nTp = max(Gp, Sp)\nAp,f = sum[m](e^(Xp,m - Tp) * Vm,f) * Sp + e^(Sp - Tp) * Lp,f\n"
TILES = "Bp,m1,m0 = split[m -> m1,m0](Xp,m)\nGp = max[m](Xp,m)\n"
FILTERED = "Fp,m = where(m <= p, Xp,m, -inf)\nGp = max[m](Fp,m)\nAp,f = sum[m](e^(Fp,m - Gp) * Vm,f)\n"
HELD = {
    "a reference": (WEIGHTS, "Gp"),
    "a reference relative to another": (WEIGHTS, "(Gp - Up)"),
    "a reference with a finite addend": (WEIGHTS, "(tanh(Up) + Gp)"),
    "finite": ("Ap,f = Kp,f\n", "tanh(Up)"),
    "a sum of products": ("Ap,f = Kp,f\nWp = sum[e](Hp,e * Je)\n", "Wp"),
    "filtered scores": (FILTERED, "(Gp - Up)"),
    "a reference over a sink too": (SINK, "(Tp - Up)"),
    "a reference over two ranks": (
        "Gp = max[n](max[m](Xp,m,n))\nAp,f = sum[m](sum[n](e^(Xp,m,n + Rn - Gp) * Vm,f))\n",
        "(Gp - Up)",
    ),
    "weights in tiles": (TILES + "Ap,f = sum[m1](sum[m0](e^(Bp,m1,m0 - Gp)) * Em1,f)\n", "(Gp - Up)"),
}
NOT_HELD = {
    "an input": (WEIGHTS, "Up"),
    "a reference with an addend": (WEIGHTS, "(Up + Gp)"),
    "no weights": ("Gp = max[m](Xp,m)\nAp,f = Kp,f\n", "(Gp - Up)"),
    "weights of other scores": ("Gp = max[m](Xp,m)\nAp,f = sum[m](e^(Rp,m - max[m](Rp,m)) * Vm,f)\n", "(Gp - Up)"),
    "a minimum": ("Gp = min[m](Xp,m)\nAp,f = sum[m](e^(Xp,m - Gp) * Vm,f)\n", "(Gp - Up)"),
    "a sink apart": (SINK, "(Gp - Up)"),
    "other elements of the rank": ("Tp = max(Xp, 0 - S)\nAf = sum[p](e^(Xp - Tp) * Vp,f)\n", "Tp"),
    "a difference of weights": ("Gp = max[m](Xp,m)\nAp,f = sum[m](e^(Xp,m - Gp) - Vm,f)\n", "(Gp - Up)"),
}


def is_cancelled(text: str, exponent: str) -> bool:
    """Whether (A e^C) / (B e^C) is the class of A / B."""
    a = "Af" if "Af =" in text else "Ap,f"
    factor = f"e^({exponent})"
    text += f"Yp,f = ({a} * {factor}) / (Qp,f * {factor})\nZp,f = {a} / Qp,f"
    y, z = Cascade.parse(text + "\nresults: Y, Z").roots().values()
    limits = Limits(steps=5, rows=4_000, arranged=400)
    return len(set(saturate([y, z], laws([SplitOf("m", "m1", "m0")]), (SplitOf("m", "m1", "m0"),), limits).roots)) == 1


@pytest.mark.parametrize("name", HELD)
def test_a_factor_is_cancelled_where_nothing_is_left_with_it(name: str) -> None:
    assert is_cancelled(*HELD[name])


@pytest.mark.parametrize("name", NOT_HELD)
def test_a_factor_stays_where_something_may_be_left(name: str) -> None:
    assert not is_cancelled(*NOT_HELD[name])
