"""What laws may not look into: hidden while they are applied, and written down again after."""

from __future__ import annotations

import pytest

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.derivation.derive import derive
from eintune.space.ir.exact import Hidden, exact_parts
from eintune.space.ir.expr import tensors
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.plan import all_values
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

CHOSEN = """Sp,m = {score}
Wp,m = select(Sp,m > 0.1, Sp,m, -inf)
Np,m = e^(Wp,m - max[m](Wp,m))
Yp,f = Np,m / sum[m](Np,m) * Vm,f"""
SCORES = ["sum[e](Qp,e * Km,e)", "sum[e](Km,e * Qp,e) * param(scale)", "sum[e](Qp,e * Km,e * param(scale))"]
ROLES = (("p", Role("grid", 16)), ("m", Role("loop", 32)), ("e", Role(None, 32)), ("f", Role(None, 32)))


@pytest.mark.parametrize("score", SCORES)
def test_what_is_hidden_comes_back(score: str) -> None:
    cascade = Cascade.parse(CHOSEN.format(score=score))
    roots = list(cascade.roots().values())
    hidden = Hidden.of(roots)
    (stand_in,) = hidden.inputs.values()
    assert stand_in.tensor.name in tensors(hidden.hide(roots))
    assert hidden.show(hidden.hide(roots)) == roots


def test_what_is_simple_hides_nothing() -> None:
    cascade = Cascade.parse("input Tp : int\nYp = select(Tp == index(m) & index(m) < 3, Xp,m, 0) * floor(Zp)")
    roots = list(cascade.roots().values())
    assert len(list(exact_parts(roots))) == 5 and not Hidden.of(roots).inputs


@pytest.mark.parametrize("score", SCORES)
def test_derived_forms_are_written_in_the_definitions_names_and_share_its_products(score: str) -> None:
    made = derive(Cascade.parse(CHOSEN.format(score=score)))
    assert made.failed == 0 and {1, 2, 3} <= {d.passes for d in made.cascades}
    for d in made.cascades:
        assert Cascade.parse(str(d.cascade)) == d.cascade
    one = made.cascades[0].cascade
    dtypes = dict.fromkeys([*one.inputs, *one.outputs], "fp32")
    params = {"scale": 0.5} if "scale" in score else {}
    problem = Problem("chosen", str(one), {"p": 64, "m": 128, "e": 32, "f": 32}, dtypes, params)
    plan = build_plan(one, problem, Schedule("triton", ROLES))
    assert [v.op for v in all_values(plan.root)].count("dot") == 2
