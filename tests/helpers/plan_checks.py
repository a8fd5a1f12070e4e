"""Runs forms through a plan and an emitter, against the float64 meaning."""

from __future__ import annotations

import numpy as np
import torch
from plan_cases import Form

from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.generate.emitters import emit
from eintune.kernels.launch.load import load
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.run import run_cascade
from eintune.space.ir.gathers import completed, limits, shapes, trusted
from eintune.space.ir.pointwise import Array
from eintune.space.lowering.lower import build_plan
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

SIZES = {
    "even": {"b": 1, "h": 2, "g": 2, "p": 32, "m": 64, "e": 16, "f": 16, "j": 32},
    "odd": {"b": 2, "h": 3, "g": 2, "p": 37, "m": 77, "e": 24, "f": 40, "j": 21},
    "tall": {"b": 1, "h": 1, "g": 3, "p": 70, "m": 17, "e": 20, "f": 8, "j": 50},
    "one": {"b": 1, "h": 1, "g": 1, "p": 1, "m": 1, "e": 1, "f": 1, "j": 1},
}


ROWS = 9
"""Length of an axis that an index tensor addresses."""


def padded(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


def schedule_of(form: Form, sizes: dict[str, int], emitter: str, *, filters: str = "segments") -> Schedule:
    """Tiles of 16 for rows, 32 for loops, padded whole axes; with torch, scalar ranks are whole axes."""
    roles: dict[str, Role] = {}
    for r, n in sizes.items():
        if r in form.loop:
            roles[r] = Role("loop", 32)
        elif r in form.whole:
            roles[r] = Role(None, padded(n))
        elif r in form.scalar:
            roles[r] = Role("grid", None)
        else:
            roles[r] = Role("grid", 16)
    return Schedule(emitter, tuple(roles.items()), filters=filters)


def batched(schedule: Schedule, sizes: dict[str, int], ranks: str) -> Schedule:
    """The same schedule with some ranks as whole axes."""
    roles = tuple((r, Role(None, sizes[r]) if r in ranks else role) for r, role in schedule.roles)
    return Schedule("torch", roles, filters=schedule.filters)


def problem_of(cascade: Cascade, sizes: dict[str, int], dtype: str, params: dict[str, float]) -> Problem:
    sizes = completed((e.expr for e in cascade.einsums), sizes, ROWS)
    kinds = {"float": dtype, "int": "int32", "bool": "bool"}
    dtypes = {n: kinds[x.kind] for n, x in cascade.inputs.items()} | dict.fromkeys(cascade.outputs, dtype)
    return Problem("case", "", sizes, dtypes, params)


def data_for(cascade: Cascade, sizes: dict[str, int], seed: int = 0) -> dict[str, Array]:
    """Random inputs, exact in every dtype that is used; integers lie beyond what they index where they may."""
    random = np.random.default_rng(seed)
    data: dict[str, Array] = {}
    bodies = [e.expr for e in cascade.einsums]
    below, shape_of, within = limits(bodies, sizes), shapes(bodies, sizes), trusted(bodies)
    for name, tensor in cascade.inputs.items():
        shape = shape_of[name]
        match tensor.kind:
            case "float":
                data[name] = random.normal(size=shape).astype(np.float32).astype(np.float64)
            case "int":
                beyond = int(name not in within)
                data[name] = random.integers(-beyond, below.get(name, 3) + beyond, shape)
            case _:
                data[name] = random.random(shape) < 0.6
    return data


TORCH = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "int32": torch.int32, "bool": torch.bool}


def run_kernel(kernel: Kernel, data: dict[str, Array]) -> dict[str, Array]:
    """The outputs of a kernel on the CPU, which start as NaN."""
    tensors = [
        torch.full(a.shape, float("nan"), dtype=TORCH[a.dtype])
        if a.output
        else torch.as_tensor(data[a.name]).to(TORCH[a.dtype])
        for a in kernel.arguments
    ]
    load(kernel)(tensors)
    return {a.name: x.double().numpy() for a, x in zip(kernel.arguments, tensors, strict=True) if a.output}


def meaning(
    cascade: Cascade, sizes: dict[str, int], data: dict[str, Array], params: dict[str, float]
) -> dict[str, Array]:
    return run_cascade(cascade, data, sizes, params)


def relative_error(made: Array, exact: Array) -> float:
    """The largest error over the largest magnitude; infinite where NaN or infinities differ."""
    finite = np.isfinite(exact)
    if not np.array_equal(made[~finite], exact[~finite]) or not np.isfinite(made[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(made[finite] - exact[finite]).max() / max(1.0, np.abs(exact[finite]).max()))


def worst_error(form: Form, sizes: dict[str, int], schedule: Schedule, dtype: str = "fp64") -> float:
    """The largest relative error of a form's kernel against its definition."""
    problem = problem_of(form.definition, sizes, dtype, form.params)
    data = data_for(form.definition, problem.sizes)
    kernel = emit(build_plan(form.computed, problem, schedule), schedule)
    made = run_kernel(kernel, data)
    exact = meaning(form.definition, sizes, data, form.params)
    return max(relative_error(made[n], exact[n]) for n in exact)
