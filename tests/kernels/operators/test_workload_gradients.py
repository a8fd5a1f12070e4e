"""Every built-in workload has a gradient, whose kernels give what its naive cascade means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eintune
from eintune.search.measure.inputs import draw_inputs
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.run import run_cascade
from eintune.space.gradients.gradient import gradient
from eintune.space.gradients.training import training
from eintune.space.workloads.builtin import WORKLOADS

SLOW = ("gelu_mlp", "long_chain", "layernorm")
"""Whose forms take seconds to derive."""
SMALL = 16


def posed(name: str) -> Problem:
    row = WORKLOADS[name]
    sizes = [o for o in row.options if o.kind == "size"]
    large = [o for o in sizes if o.default is None or (isinstance(o.default, int) and o.default > SMALL)]
    return row.posed({o.name: SMALL for o in large}, "fp64").problem


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.soak] if n in SLOW else []) for n in WORKLOADS])
def test_kernels_give_the_gradient(name: str) -> None:
    problem = posed(name)
    definition, sizes = problem.definition, problem.sizes
    own = {r for t in definition.inputs.values() for r in t.ranks}
    told = {r: n for r, n in sizes.items() if r not in own and r in definition.same_sizes()}
    data = draw_inputs(problem, "cpu")
    inputs = {n: t.requires_grad_(t.is_floating_point()) for n, t in data.items()}
    made = eintune.compile(definition, params=problem.params, sizes=told)(*[inputs[n] for n in definition.inputs])
    results = dict(zip(definition.outputs, made if isinstance(made, tuple) else (made,), strict=True))
    generator = torch.Generator().manual_seed(0)
    found = gradient(definition)
    cotangents = {n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in results.items()}
    floating = list(found.gradients)
    got = torch.autograd.grad([*results.values()], [inputs[n] for n in floating], [*cotangents.values()])
    arrays = {n: t.detach().numpy() for n, t in data.items()}
    arrays |= {found.cotangents[n]: t.numpy() for n, t in cotangents.items()}
    read = {r for t in found.cascade.inputs.values() for r in t.ranks}
    given = {r: sizes[r] for r in found.cascade.ranks() if r in sizes and r not in read}
    exact = run_cascade(found.cascade, {n: arrays[n] for n in found.cascade.inputs}, given, problem.params)
    for n, t in zip(floating, got, strict=True):
        want = exact[found.gradients[n]]
        assert np.abs(t.numpy() - want).max() <= 1e-12 * max(np.abs(want).max(), 1e-30), n


@pytest.mark.parametrize("name", ["cross_entropy", "linear_cross_entropy"])
def test_no_logits_are_handed_over(name: str) -> None:
    """Two numbers a row; the logits of the second are in no kernel's memory."""
    found = training(posed(name).definition)
    assert [t.ranks for n, t in found.forward.outputs.items() if n in found.residuals] == [("p",), ("p",)]
    written = [t.ranks for s in found.stages for t in s.outputs.values()]
    assert written == ([("p", "m")] if name == "cross_entropy" else [("p", "e"), ("m", "e")])
