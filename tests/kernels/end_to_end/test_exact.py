"""What a floor or a comparison depends on is computed as it is written: an ulp there is an error of one whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kernel_forms import Case, Execute

from eintune.kernels.launch.offline import compile_kernel
from eintune.kernels.reference.eager import run_eager
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.derivation.derive import derive
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

SIZE = 2500
MULTIPLES = "Zp = select(floor(index(p) / {n}) * {n} == index(p), Xp, 0)"
REMAINDERS = "Zp = index(p) - floor(index(p) / {n}) * {n} + 0 * Xp"


def case_of(cascade: Cascade, emitter: str, size: int = SIZE, tile: int = 1024) -> Case:
    problem = Problem("exact", str(cascade), {"p": size}, dict.fromkeys([*cascade.inputs, *cascade.outputs], "fp32"))
    return Case(cascade, problem, Schedule(emitter, (("p", Role("grid", tile)),)))


def run(case: Case, execute: Execute, x: torch.Tensor) -> torch.Tensor:
    out = torch.full_like(x, torch.nan)
    given = dict.fromkeys(case.cascade.inputs, x) | dict.fromkeys(case.cascade.outputs, out)
    execute(case.kernel, [given[a.name] for a in case.kernel.arguments])
    return out


def expected(text: str, n: int, x: torch.Tensor) -> torch.Tensor:
    p = torch.arange(len(x))
    return torch.where(p % n == 0, x, 0.0) if text == MULTIPLES else (p % n).float()


def same(text: str, n: int, emitter: str, execute: Execute, size: int = SIZE) -> bool:
    x = torch.randn(size, generator=torch.Generator().manual_seed(n))
    got = run(case_of(Cascade.parse(text.format(n=n)), emitter, size), execute, x)
    return bool(torch.equal(got, expected(text, n, x)))


@pytest.mark.parametrize("text", [MULTIPLES, REMAINDERS], ids=["multiples", "remainders"])
def test_quotients_of_indices_are_those_of_integers(text: str, execute: Execute) -> None:
    assert [n for n in range(1, 301) if not same(text, n, "torch", execute)] == []


@pytest.mark.interpreter
@pytest.mark.parametrize("n", [1, 3, 41, 49, 64, 299])
def test_quotients_in_triton(n: int, execute: Execute) -> None:
    assert same(MULTIPLES, n, "triton", execute, 400) and same(REMAINDERS, n, "triton", execute, 400)


def test_triton_rounds_them_correctly() -> None:
    source = case_of(Cascade.parse(MULTIPLES.format(n=41)), "triton").kernel.source
    assert "tl.div_rn(" in source and " / " not in source.split("def ")[1]
    elsewhere = case_of(Cascade.parse("Zp = floor(Xp) / (Xp * Xp + 1)"), "triton").kernel.source
    assert "tl.div_rn(" not in elsewhere


def test_a_power_of_two_is_still_a_product() -> None:
    source = case_of(Cascade.parse(MULTIPLES.format(n=64)), "triton").kernel.source
    assert "* 0.015625" in source and "div_rn" not in source


@pytest.mark.parametrize("n", [3, 41, 49])
def test_the_definition_run_by_pytorch_divides_too(n: int) -> None:
    x = torch.randn(SIZE)
    got = run_eager(Cascade.parse(REMAINDERS.format(n=n)), {"X": x}, {"p": SIZE}, {}, torch.float32)["Z"]
    assert torch.equal(got, expected(REMAINDERS, n, x))


INEXACT = {
    "reciprocal": ("Zp = floor(Xp / 41)", lambda x: torch.floor(x / 41.0)),
    "sum divided": ("Zp = floor((Xp + 41) / 41)", lambda x: torch.floor((x + 41) / 41.0)),
    "product divided": ("Zp = floor(Xp * 49 / 49)", lambda x: torch.floor(x * 49 / 49.0)),
    "quotient multiplied": ("Zp = floor(Xp / 49 * 49)", lambda x: torch.floor(x / 49.0 * 49.0)),
    "constants merged": ("Zp = floor(Xp * 0.1 * 10)", lambda x: torch.floor(x * 0.1 * 10)),
    "compared": ("Zp = select(Xp / 49 * 49 == Xp, 1, 0)", lambda x: (x / 49.0 * 49.0 == x).float()),
    "negated": ("Zp = select(not(Xp / 49 * 49 < Xp), 1, 0)", lambda x: (~(x / 49.0 * 49.0 < x)).float()),
    "reciprocal operator": ("Zp = floor(Xp * recip(49))", lambda x: torch.floor(x * (1 / 49))),
}


@pytest.mark.parametrize("name", INEXACT)
@pytest.mark.parametrize("derived", [False, True], ids=["as defined", "derived"])
def test_nothing_inexact_is_done_below_a_jump(name: str, derived: bool, execute: Execute) -> None:
    text, meaning = INEXACT[name]
    definition, x = Cascade.parse(text), torch.arange(float(SIZE))
    for cascade in [d.cascade for d in derive(definition).cascades] if derived else [definition]:
        assert torch.equal(run(case_of(cascade, "torch"), execute, x), meaning(x))


def test_the_same_on_both_sides_of_a_comparison_stays_the_same() -> None:
    """A scale that a law moves into a product on one side only makes an equality false everywhere."""
    text = "Sp,m = Qp,e * Km,e * 0.3\nHp,m = select(Sp,m == max[m](Sp,m), 1, 0)\nZp = Hp,m * Vm"
    made = derive(Cascade.parse(text)).cascades
    assert made
    sizes = {"p": 20, "m": 30, "e": 7}
    data = {"Q": torch.randn(20, 7), "K": torch.randn(30, 7), "V": torch.randn(30)}
    want = data["V"][(data["Q"] @ data["K"].mT).argmax(1)]
    for d in made:
        assert torch.allclose(run_eager(d.cascade, data, sizes, {}, torch.float32)["Z"], want)


@pytest.mark.offline
def test_the_compiler_rounds_them_correctly(tmp_path: Path) -> None:
    kernel = case_of(Cascade.parse(MULTIPLES.format(n=41)), "triton").kernel
    made = compile_kernel(kernel, "sm_90", cache_dir=tmp_path).assembly
    assert "div.rn.f32" in made and "div.full.f32" not in made
