"""From a definition to kernels: what a law contributes reaches the generated code, and only it does."""

from __future__ import annotations

import functools

import pytest

from eintune.kernels.generate.emitters import EMITTERS
from eintune.space.derivation.derive import Derivation, derive
from eintune.space.ir.expr import Fold, Split, topological
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.values import Value
from eintune.space.schedule.space import schedules
from eintune.space.workloads.builtin import attention, attention_problem

PROBLEM = attention_problem(batch=1, heads=2, kv_heads=2, seq=64, kv_seq=128, head_dim=16, dtype="bf16", causal=None)


@functools.cache
def derivation(*without: str) -> Derivation:
    return derive(attention(), without=frozenset(without))


@functools.cache
def plans(*without: str) -> tuple[LoopPlan, ...]:
    found = []
    for d in derivation(*without).cascades:
        schedule = schedules(d.cascade, PROBLEM, "triton")[0]
        found.append(build_plan(d.cascade, PROBLEM, schedule))
    return tuple(found)


@functools.cache
def sources(*without: str) -> frozenset[str]:
    emitted = set()
    for d in derivation(*without).cascades:
        schedule = schedules(d.cascade, PROBLEM, "triton")[0]
        emitted.add(EMITTERS["triton"](build_plan(d.cascade, PROBLEM, schedule), schedule).source)
    return frozenset(emitted)


def loops(*without: str) -> set[int]:
    """How many loops each plan has over the keys."""
    return {sum(1 for loop in plan.loops() if loop.rank in ("m", "m1")) for plan in plans(*without)}


def divides_after_the_loop(plan: LoopPlan) -> bool:
    return any(isinstance(item, Value) and item.op in ("div", "quotient") for item in plan.root.items)


def test_the_laws_derive_one_two_and_three_passes() -> None:
    assert {d.passes for d in derivation().cascades} >= {1, 2, 3}
    assert loops() >= {1, 2, 3}
    assert len(sources()) >= 5
    for d in derivation().cascades:
        assert d.error < 1e-9


def test_one_pass_needs_the_composite_fold() -> None:
    rest = derivation("composite-fold").cascades
    assert min(d.passes for d in rest) == 2
    assert not any(isinstance(x, Fold) for d in rest for x in topological(d.cascade.roots().values()))
    assert min(loops("composite-fold")) == 2
    assert sources("composite-fold") < sources()


def test_tiles_need_the_split() -> None:
    def tiled(*without: str) -> bool:
        nodes = (x for d in derivation(*without).cascades for x in topological(d.cascade.roots().values()))
        return any(isinstance(x, Split) for x in nodes)

    assert tiled() and not tiled("split")
    assert sources("split") < sources()


def test_deferred_division_needs_the_division_laws() -> None:
    # a fold is linear in its argument too, and a division by a number is a multiplication: all of them go
    without = ("division", "fold-linear", "cancel", "exponential", "distribute")
    assert any(divides_after_the_loop(p) for p in plans())
    assert not any(divides_after_the_loop(p) for p in plans(*without))
    assert sources(*without) != sources()


@pytest.mark.parametrize("law", ["composite-fold", "split"])
def test_leaving_a_law_out_only_takes_away(law: str) -> None:
    assert {d.digest for d in derivation(law).cascades} < {d.digest for d in derivation().cascades}
