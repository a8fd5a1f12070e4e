"""EDGE's quotient, which is 0 where nothing is divided by: the evaluator, PyTorch and Triton say the same."""

from __future__ import annotations

import pytest
import torch
from kernel_forms import Case, Execute

from eintune.kernels.reference.eager import run_eager
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.run import run_cascade
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

A = torch.tensor([3.0, 0.0, 3.0, -2.0, 0.0, 1.5, 7.0])
B = torch.tensor([0.0, 0.0, 2.0, 0.0, 5.0, -0.5, 1e-30])
WANTED = torch.tensor([0.0, 0.0, 1.5, 0.0, 0.0, -3.0, 7e30])
TEXTS = ("Zm = Am · Bm :: ∧m ÷(←)", "Zm = Am / Bm :: /\\m /(<-)", r"Z_m = \frac{A_m}{B_m}")


def run(text: str, emitter: str, execute: Execute) -> torch.Tensor:
    cascade = Cascade.parse(text)
    problem = Problem("culled", text, {"m": len(A)}, dict.fromkeys("ABZ", "fp32"))
    case = Case(cascade, problem, Schedule(emitter, (("m", Role("grid", 4)),)))
    given = {"A": A, "B": B, "Z": torch.full_like(A, torch.nan)}
    execute(case.kernel, [given[a.name] for a in case.kernel.arguments])
    return given["Z"]


@pytest.mark.parametrize("text", TEXTS)
def test_pytorch(text: str, execute: Execute) -> None:
    torch.testing.assert_close(run(text, "torch", execute), WANTED)
    given = {"A": A, "B": B}
    torch.testing.assert_close(run_eager(Cascade.parse(text), given, {"m": len(A)}, {}, torch.float32)["Z"], WANTED)
    exact = run_cascade(Cascade.parse(text), {n: t.double().numpy() for n, t in given.items()})["Z"]
    torch.testing.assert_close(torch.tensor(exact.tolist()), WANTED)


@pytest.mark.interpreter
def test_triton(execute: Execute) -> None:
    torch.testing.assert_close(run(TEXTS[0], "triton", execute), WANTED)
