"""Kernels of tabled and drawn computations, run, and how far off they are."""

from __future__ import annotations

import torch
from kernel_forms import DTYPES, power
from plan_checks import data_for, meaning, problem_of, relative_error

from eintune.kernels.generate.emitters import emit
from eintune.space.cascade.cascade import Cascade
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule


def worst(execute, definition: Cascade, computed: Cascade, sizes, params, schedule: Schedule) -> float:
    """The largest error of the fp32 kernel, relative to the largest magnitude."""
    problem = problem_of(definition, sizes, "fp32", params)
    kernel = emit(build_plan(computed, problem, schedule), schedule)
    data = data_for(definition, problem.sizes)
    tensors = [
        torch.full(a.shape, float("nan"), dtype=DTYPES[a.dtype])
        if a.output
        else torch.as_tensor(data[a.name]).to(DTYPES[a.dtype])
        for a in kernel.arguments
    ]
    execute(kernel, tensors)
    exact = meaning(definition, sizes, data, params)
    made = {a.name: t.double().numpy() for a, t in zip(kernel.arguments, tensors, strict=True) if a.output}
    return max(relative_error(made[n], exact[n]) for n in exact)


NUMBERS = {"eps": 1e-5}


def off(execute, definition: Cascade, form: Cascade, on: tuple[str, str], loop: str, sizes: dict[str, int]) -> float:
    """The largest error of a kernel, relative to the largest magnitude: 16 rows a program, a loop over one rank."""
    emitter, dtype = on
    row = next(iter(definition.outputs.values())).ranks[0]
    roles = {r: Role(None, power(sizes[r])) for r in sizes} | {loop: Role("loop", 16), row: Role("grid", 16)}
    schedule = Schedule(emitter, tuple(roles.items()))
    kernel = emit(build_plan(form, problem_of(definition, sizes, dtype, NUMBERS), schedule), schedule)
    # weights that keep values of order one: else a long chain is chaos, which no arithmetic follows
    data = {n: x * (0.25 if n.startswith("W") else 1.0) for n, x in data_for(definition, sizes).items()}
    tensors = [
        torch.full(a.shape, float("nan"), dtype=DTYPES[a.dtype])
        if a.output
        else torch.as_tensor(data[a.name]).to(DTYPES[a.dtype])
        for a in kernel.arguments
    ]
    execute(kernel, tensors)
    exact = meaning(definition, sizes, data, NUMBERS)
    made = {a.name: t.double().numpy() for a, t in zip(kernel.arguments, tensors, strict=True) if a.output}
    return max(relative_error(made[n], exact[n]) for n in exact)
