"""The problems that a training step poses: a forward that hands over what its gradient wants, and the stages of that.

They are what `eintune.compile` and `eintune.attention` serve where a gradient is recorded, so that what is tuned here
is what they find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eintune.kernels.operators.cascade import made_of
from eintune.kernels.operators.gradients import backward, dtypes_of, forward_program, wide_of
from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.kernels.serve.compiled import CompiledCascade, compile
from eintune.search.measure.inputs import draw_inputs, input_shapes
from eintune.space.cascade.problem import Problem, Values

LONGEST = 64
"""Of the ranks of the small problem that says what residuals hold."""


@dataclass(frozen=True)
class Step:
    """One kernel of a training step, and what it gives."""

    problem: Problem
    gives: tuple[str, ...]


def training_steps(problem: Problem, *, of: Sequence[str] = (), wrt: Sequence[str] = ()) -> list[Step]:
    """The forward of a problem with its residuals, then the stages of its gradient, in the order in which they run.

    of: results that have cotangents, all floating ones by default; wrt: inputs, likewise. Raises UnsupportedArgument
    for a cascade without a gradient, and for names that are no floating results or inputs.
    """
    definition = problem.definition
    own = {r for t in definition.inputs.values() for r in t.ranks}
    told = {r: n for r, n in problem.sizes.items() if r not in own and r in definition.same_sizes()}
    dtypes = {n: problem.dtypes[n] for n in definition.outputs}
    plain = compile(problem.cascade, params=problem.params, sizes=told, dtype=dtypes, name=problem.workload)
    given = _empty(problem)
    of = tuple(of) or tuple(n for n, t in definition.outputs.items() if t.kind == "float")
    program = forward_program(plain.stated, wide_of([*given.values()]), of)
    forward = made_of(program)
    wrt = tuple(wrt) or tuple(n for n, t in definition.inputs.items() if t.kind == "float")
    found = backward(program, of, wrt, dtypes_of([*given.values()]), wide_of([*given.values()]))
    posed = replace(_posed(forward, given), values=problem.values)
    steps = [Step(posed, forward.outputs)]
    known = given | _outputs(posed)
    known |= {found.cotangents[n]: known[n] for n in of}
    holds = _held(posed)
    for stage in found.stages:
        compiled = made_of(stage.stated({r: posed.sizes[r] for r in stage.told}))
        its = _posed(compiled, {n: known[n] for n in stage.inputs})
        values = {n: v for n, v in (problem.values | holds).items() if n in stage.inputs}
        steps.append(Step(replace(its, values=values), stage.outputs))
        known |= _outputs(its)
    return steps


def _posed(compiled: CompiledCascade, given: dict[str, Tensor]) -> Problem:
    return compiled.problem(tuple(given[n] for n in compiled.inputs))


def _empty(problem: Problem) -> dict[str, Tensor]:
    shapes = input_shapes(problem.definition, problem)
    return {
        n: torch.empty(shapes[n], dtype=DTYPES[problem.dtypes[n]], device="meta") for n in problem.definition.inputs
    }


def _outputs(problem: Problem) -> dict[str, Tensor]:
    return {
        n: torch.empty([problem.sizes[r] for r in t.ranks], dtype=DTYPES[problem.dtypes[n]], device="meta")
        for n, t in problem.definition.outputs.items()
    }


def _held(problem: Problem) -> dict[str, Values]:
    """What the forward's results hold, found at small sizes: a log-sum-exp that is drawn as inputs are would be below
    the scores that it sums."""
    small = replace(problem, sizes={r: min(n, LONGEST) for r, n in problem.sizes.items()})
    small = replace(small, dtypes={n: "fp32" if d in ("bf16", "fp16") else d for n, d in small.dtypes.items()})
    made = run_eager(small.definition, draw_inputs(small, "cpu"), small.sizes, small.params, torch.float32)
    held: dict[str, Values] = {}
    for name, t in made.items():
        finite = t[t.isfinite()]
        if t.is_floating_point() and finite.numel():
            low, high = float(finite.min()), float(finite.max())
            held[name] = Values(low, high if high > low else low + 1.0)
    return held
