"""Derived forms around moving means: one loop, and as exact in fp32 as two passes where values are far from 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eintune.kernels.generate.emitters import emit
from eintune.kernels.generate.generate import problem_of
from eintune.kernels.launch.load import load
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade
from eintune.space.derivation.derive import derive
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

M = 257
LARGEST = 1e-3
"""Relative error of what fp32 loses where values are some thousand deviations from 0."""
WEIGHED = """
Wp = sum[m]({w})
MXp = sum[m]({w} * Xp,m) / Wp
MYp = sum[m]({w} * Yp,m) / Wp
Zp = sum[m]({w} * ((Xp,m - MXp) * (Yp,m - MYp))) / Wp
results: Z
"""
SOFT = """
Gp = max[m](Ap,m)
Np,m = e^(Ap,m - Gp)
Wp = sum[m](Np,m)
MXp = sum[m](Np,m * Xp,m) / Wp
MYp = sum[m](Np,m * Yp,m) / Wp
Zp = sum[m](Np,m * ((Xp,m - MXp) * (Yp,m - MYp))) / Wp
results: Z
"""
TEXTS = {
    "the same weights": "MXp = sum[m](Xp,m) / |m|\nMYp = sum[m](Yp,m) / |m|\n"
    "Zp = sum[m]((Xp,m - MXp) * (Yp,m - MYp)) / |m|\nresults: Z",
    "weights of one sign": WEIGHED.format(w="sigmoid(Ap,m)"),
    "weights of both signs": WEIGHED.format(w="Am").replace("Yp,m", "Xp,m"),  # more is too much work
    "a softmax": SOFT,
}


@pytest.mark.parametrize("name", TEXTS)
def test_one_pass_is_as_exact_as_two_far_from_0(name: str) -> None:
    definition = Cascade.parse(TEXTS[name])
    best = derive(definition).cascades[0]
    assert best.passes == 1
    rng, sizes = np.random.default_rng(0), {"p": 8, "m": M}
    data = {"X": rng.normal(size=(8, M)) + 3000.0, "Y": rng.normal(size=(8, M)) - 700.0}
    data["Y"] += data["X"] - 3000.0
    data["A"] = rng.normal(size=M) + 1.5 if "both" in name else rng.normal(size=(8, M))
    data = {n: a.astype(np.float32).astype(np.float64) for n, a in data.items() if n in definition.inputs}
    exact = run_cascade(definition, data, sizes)["Z"]
    problem = problem_of(best.cascade, sizes, {}, "fp32")
    schedule = Schedule("torch", (("p", Role("grid", 8)), ("m", Role("loop", 32))))
    plan = build_plan(best.cascade, problem, schedule)
    assert [loop.rank for loop in plan.loops()] == ["m"]
    kernel = emit(plan, schedule)
    tensors = {
        a.name: torch.full(a.shape, float("nan")) if a.output else torch.tensor(data[a.name]).float()
        for a in kernel.arguments
    }
    load(kernel)(list(tensors.values()))
    error = np.abs(tensors["Z"].double().numpy() - exact).max() / np.abs(exact).max()
    assert error < LARGEST < raw(name, data, exact)


def raw(name: str, data: dict[str, np.ndarray], exact: np.ndarray) -> float:
    """The error of weighed squares less squares of means, in fp32."""
    x, y, a = (data[n].astype(np.float32) for n in ("X", "Y" if "Y" in data else "X", "A" if "A" in data else "X"))
    w = {
        "the same weights": np.ones_like(x),
        "weights of one sign": 1 / (1 + np.exp(-a)),
        "weights of both signs": a,
        "a softmax": np.exp(a - a.max(-1, keepdims=True)),
    }[name]
    w = np.broadcast_to(w, x.shape)
    total = w.sum(1)
    made = (w * x * y).sum(1) / total - (w * x).sum(1) / total * ((w * y).sum(1) / total)
    return float(np.abs(made - exact).max() / np.abs(exact).max())
