"""Each row of the adjoints' table against finite differences, and the corners that it states."""

from __future__ import annotations

import numpy as np
import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import run_cascade
from eintune.space.gradients.gradient import gradient
from eintune.space.gradients.rules import RULES
from eintune.space.ir.einsum import Einsum
from eintune.space.ir.expr import Access, Map, Tensor
from eintune.space.ir.pointwise import POINTWISE

STEP = 1e-6


def test_every_operator_has_a_rule() -> None:
    assert RULES.keys() == POINTWISE.keys()


@pytest.mark.parametrize("name", [n for n, p in POINTWISE.items() if not p.boolean and n not in ("select", "floor")])
def test_rules_are_slopes(name: str) -> None:
    rng = np.random.default_rng(0)
    count = POINTWISE[name].arity
    args = [Access(Tensor(n, ("m",)), ("m",)) for n in "AB"[:count]]
    cascade = Cascade((Einsum(Tensor("Z", ("m",)), Map(name, tuple(args))),))
    low = 0.2 if name in ("log", "log2", "sqrt", "recip", "div") else -2.0
    data = {n: rng.uniform(low, 2.0, 20) for n in "AB"[:count]}
    weights = rng.normal(size=20)
    made = run_cascade(gradient(cascade).cascade, data | {"DZ": weights})
    for n in data:
        ends = [run_cascade(cascade, data | {n: data[n] + h})["Z"] for h in (STEP, -STEP)]
        assert made[f"D{n}"] == pytest.approx(weights * (ends[0] - ends[1]) / (2 * STEP), abs=1e-7)


@pytest.mark.parametrize(
    ("text", "data", "wanted"),
    [
        ("Zm = max(Am, Bm)", {"A": [1.0, 2.0, 3.0], "B": [2.0, 2.0, 2.0]}, {"A": [0, 0.5, 1], "B": [1, 0.5, 0]}),
        ("Zm = Am / Bm", {"A": [0.0, 3.0], "B": [0.0, 2.0]}, {"A": [0, 0.5], "B": [0, -0.75]}),
        ("Zm = log(Am)", {"A": [0.0, 2.0]}, {"A": [0, 0.5]}),
        ("Zm = abs(Am)", {"A": [-1.0, 0.0, 2.0]}, {"A": [-1, 0, 1]}),
        ("Zm = select(Am > 0, Am * Am, Bm)", {"A": [-1.0, 2.0], "B": [5.0, 5.0]}, {"A": [0, 4], "B": [1, 0]}),
        ("Z = Am :: \\/m max", {"A": [1.0, 3.0, 3.0]}, {"A": [0, 0.5, 0.5]}),
        ("Z = prod[m](Am)", {"A": [2.0, 3.0, 4.0]}, {"A": [12, 8, 6]}),
        ("Z = prod[m](Am)", {"A": [2.0, 0.0, 4.0]}, {"A": [0, 8, 0]}),
        ("Z = prod[m](Am)", {"A": [2.0, 0.0, 0.0]}, {"A": [0, 0, 0]}),
        ("Zm = where(m <= 1, Am, -inf)", {"A": [1.0, 2.0, 3.0]}, {"A": [1, 1, 0]}),
        ("Zm = Am + Cb\ninput Cb", {"A": [1.0, 2.0], "C": [1.0]}, {"A": [1, 1], "C": [2]}),
    ],
)  # fmt: skip
def test_corners(text: str, data: dict[str, list[float]], wanted: dict[str, list[float]]) -> None:
    lines = sorted(text.splitlines(), key=lambda line: not line.startswith("input"))
    cascade = Cascade.parse("\n".join(lines).replace("Zm = Am + Cb", "Zm = sum[b](Am + Cb)"))
    arrays = {n: np.array(a) for n, a in data.items()}
    shape = run_cascade(cascade, arrays)["Z"].shape
    made = run_cascade(gradient(cascade).cascade, arrays | {"DZ": np.ones(shape)}, {"b": 1} if "C" in data else {})
    assert {n: made[f"D{n}"].tolist() for n in wanted} == wanted
