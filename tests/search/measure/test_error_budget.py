"""Error budgets and references: derived from the definition, and neither lenient nor wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.kernels.reference.operators import REDUCE, TORCH
from eintune.search.measure import reference as reference_module
from eintune.search.measure.error_budget import FACTOR, Error, budget, error, ulp
from eintune.search.measure.inputs import draw_inputs, input_shapes
from eintune.search.measure.reference import kept_ranks, reference, sample_positions
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.run import run_cascade
from eintune.space.ir.expr import Access, topological
from eintune.space.ir.gathers import completed
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS
from eintune.space.workloads.builtin import WORKLOADS, attention_problem

SIZES = {"b": 2, "h": 3, "g": 2, "p": 5, "m": 7, "e": 4, "f": 6, "k": 8, "n": 3, "q": 5, "d": 4}
PARAMS = {"scale": 0.3, "eps": 1e-3}


def posed(name: str, dtype: str = "fp32") -> Problem:
    """A registered workload at small sizes."""
    cascade = WORKLOADS[name]()
    ranks = cascade.ranks()
    sizes = cascade.equalised({r: SIZES.get(r, 4) for r in ranks})
    sizes = completed((e.expr for e in cascade.einsums), sizes, rows=5)
    kinds = {t.name: t.kind for t in cascade.inputs.values()}
    dtypes = {n: {"int": "int32", "bool": "bool"}.get(kinds.get(n, "float"), dtype) for n in (*kinds, *cascade.outputs)}
    wanted = {x.name for e in cascade.einsums for x in topological([e.expr]) if type(x).__name__ == "Param"}
    return Problem(name, str(cascade), sizes, dtypes, {n: PARAMS.get(n, 0.5) for n in wanted})


def test_every_operator_has_an_eager_meaning() -> None:
    assert set(POINTWISE) <= set(TORCH)
    assert set(REDUCE) == set(REDUCTIONS)


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_eager_in_float64_is_the_evaluator(name: str) -> None:
    problem = posed(name, "fp64")
    cascade = problem.definition
    inputs = draw_inputs(problem, "cpu", seed=3)
    mine = run_eager(cascade, inputs, problem.sizes, problem.params, torch.float64)
    theirs = run_cascade(cascade, {n: t.numpy() for n, t in inputs.items()}, problem.sizes, problem.params)
    for output in cascade.outputs:
        np.testing.assert_allclose(mine[output].numpy(), theirs[output], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_the_definition_is_within_its_own_budget_and_a_bias_is_not(name: str) -> None:
    problem = posed(name)
    cascade = problem.definition
    inputs = draw_inputs(problem, "cpu")
    made = reference(problem, inputs)
    eager = run_eager(cascade, inputs, problem.sizes, problem.params, torch.float32)
    assert made.fault(eager) == ""
    for output, value in eager.items():
        assert "but the budget is" in made.fault(eager | {output: value * 1.001 + 1e-4})
        broken = value.clone()
        broken.view(-1)[-1] = torch.nan
        assert "1 of" in made.fault(eager | {output: broken})


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "fp64"])
def test_the_budget_is_twice_the_eager_error_and_one_ulp(dtype: str) -> None:
    problem = attention_problem(batch=1, heads=2, kv_heads=2, seq=20, kv_seq=50, head_dim=16, dtype=dtype)
    inputs = draw_inputs(problem, "cpu")
    made = reference(problem, inputs)
    eager, allowed, exact = made.eager["AV"], made.budget["AV"], made.exact["AV"]
    eps = torch.finfo(DTYPES[dtype]).eps
    assert eps / 100 < eager.rms < 4 * eps and eager.rms <= eager.max
    unit = eps * 2.0 ** math.floor(math.log2(float(exact.abs().max())))
    assert allowed.max == pytest.approx(FACTOR * eager.max + unit)
    assert FACTOR * eager.rms < allowed.rms < FACTOR * eager.rms + unit
    rounded = exact.to(DTYPES[dtype])
    assert error(rounded, exact) <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_ulp_is_the_distance_to_the_next_number(dtype: torch.dtype) -> None:
    numbers = torch.tensor([1.0, 1.5, 2.0, 3.9, 1000.0, 0.1, -0.3]).to(dtype)
    ahead = torch.nextafter(numbers.abs(), torch.full_like(numbers, math.inf)).double() - numbers.abs().double()
    assert torch.equal(ulp(numbers.double(), dtype), ahead)
    tiny = torch.finfo(dtype).tiny
    assert float(ulp(torch.zeros(1, dtype=torch.float64), dtype)) == pytest.approx(tiny * torch.finfo(dtype).eps)


def test_an_error_is_infinite_where_a_number_is_missing() -> None:
    exact = torch.tensor([1.0, -math.inf, 2.0], dtype=torch.float64)
    assert error(torch.tensor([1.0, -math.inf, 2.5]), exact) == Error(pytest.approx(0.5 / math.sqrt(3)), 0.5)
    for bad in (math.nan, math.inf):
        assert error(torch.tensor([1.0, -math.inf, bad]), exact).max == math.inf
        assert not error(torch.tensor([1.0, bad, 2.0]), exact) <= Error(1e300, 1e300)
    assert budget(Error(1.0, 1.0), exact, torch.int32) == Error(0.0, 0.0)


def test_samples_hold_the_ends_and_the_edges_of_tiles() -> None:
    problem = attention_problem(batch=1, heads=32, kv_heads=8, seq=2048, kv_seq=2048, head_dim=128, dtype="bf16")
    cascade = problem.definition
    assert kept_ranks(cascade) == ("b", "h", "g", "p")
    sample = sample_positions(cascade, problem.sizes, 1e9)
    assert set(sample) == {"p"}
    rows = sample["p"].tolist()
    assert rows == sorted(set(rows)) and len(rows) == 64
    assert {0, 2047, 15, 16, 63, 64, 127, 128, 1023, 1024} <= set(rows)
    assert sample_positions(cascade, problem.sizes, 1e12) == {}
    (cut,) = [r for r, at in sample_positions(cascade, problem.sizes, 1.0).items() if len(at) != 1] or [None]
    assert cut is None


def test_slices_and_samples_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = attention_problem(
        batch=2, heads=4, kv_heads=2, seq=33, kv_seq=20, head_dim=8, dtype="fp32", causal="lower_right"
    )
    inputs = draw_inputs(problem, "cpu")
    whole = reference(problem, inputs)
    assert whole.sample == {}
    monkeypatch.setitem(reference_module.ELEMENTS, "cpu", 50)
    sliced = reference(problem, inputs)
    torch.testing.assert_close(sliced.exact["AV"], whole.exact["AV"], rtol=1e-13, atol=1e-13)
    monkeypatch.setitem(reference_module.POINTS, "cpu", 4000)
    sampled = reference(problem, inputs)
    assert 0 < len(sampled.sample["p"]) < 33
    expected = whole.exact["AV"]
    for axis, rank in enumerate(sampled.ranks["AV"]):
        if rank in sampled.sample:
            expected = expected.index_select(axis, sampled.sample[rank])
    torch.testing.assert_close(sampled.exact["AV"], expected, rtol=1e-13, atol=1e-13)
    full = run_eager(problem.definition, inputs, problem.sizes, problem.params, torch.float32)
    assert sampled.fault(full) == ""


def test_unwritten_elements_outside_the_sample_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = attention_problem(batch=1, heads=1, kv_heads=1, seq=200, kv_seq=16, head_dim=8, dtype="fp32")
    inputs = draw_inputs(problem, "cpu")
    monkeypatch.setitem(reference_module.POINTS, "cpu", 200)
    made = reference(problem, inputs)
    (unseen,) = sorted(set(range(200)) - set(made.sample["p"].tolist()))[:1]
    full = run_eager(problem.definition, inputs, problem.sizes, problem.params, torch.float32)["AV"]
    full[0, 0, unseen, 2] = torch.nan
    assert made.fault({"AV": full}) == "AV: 1 of 1600 elements are not written, or NaN"


def test_inputs_are_the_same_from_the_same_seed() -> None:
    problem = posed("layernorm", "bf16")
    one, two, other = (draw_inputs(problem, "cpu", seed) for seed in (0, 0, 1))
    shapes = input_shapes(problem.definition, problem)
    assert list(one) == sorted(shapes)
    for name, t in one.items():
        assert torch.equal(t, two[name]) and not torch.equal(t, other[name])
        assert tuple(t.shape) == shapes[name] and t.dtype == torch.bfloat16


def test_integer_and_boolean_inputs() -> None:
    cascade = WORKLOADS["gemm"]()
    names = {x.tensor.name for x in topological(cascade.roots().values()) if isinstance(x, Access)}
    problem = Problem("gemm", str(cascade), {"m": 9, "n": 8, "k": 30}, {"A": "int32", "B": "bool", "Z": "fp32"})
    assert names == {"A", "B"}
    inputs = draw_inputs(problem, "cpu")
    assert inputs["A"].dtype == torch.int32 and inputs["B"].dtype == torch.bool
    assert torch.equal(inputs["A"], inputs["A"].sort(-1).values) and inputs["A"].max() > 0
    assert 0 < inputs["B"].float().mean() < 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_gpu_computes_the_same_reference(dtype: str) -> None:
    problem = attention_problem(batch=1, heads=4, kv_heads=4, seq=256, kv_seq=256, head_dim=64, dtype=dtype)
    inputs = draw_inputs(problem, "cpu")
    here = reference(problem, inputs)
    there = reference(problem, {n: t.cuda() for n, t in inputs.items()})
    torch.testing.assert_close(there.exact["AV"].cpu(), here.exact["AV"], rtol=1e-12, atol=1e-12)
    assert 0.2 < there.eager["AV"].rms / here.eager["AV"].rms < 5
