"""Attention over pages, with pages of NaN where the table never points."""

from __future__ import annotations

from functools import cache

import torch
from kernel_forms import Case

from eintune.kernels.emit.kernel import Kernel
from eintune.search.measure.inputs import draw_inputs
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.derivation.derive import derive
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule
from eintune.space.workloads.builtin import WORKLOADS

LENGTHS = [0, 1, 37, 64, 100]


@cache
def one_pass(text: str) -> Cascade:
    return derive(Cascade.parse(text)).cascades[0].cascade


def pages_case(
    emitter: str, page: int, tile: int, dtype: str = "fp32", parts: int = 1, filters: str = "segments", **more: object
) -> Case:
    given = {"heads": 6, "kv_heads": 2, "batch": len(LENGTHS), "kv_seq": 100, "head_dim": 32, "page": page, **more}
    problem = WORKLOADS["paged_attention"].posed(given, dtype).problem
    roles = {r: Role("grid", None) for r in "bhp"} | {"g": Role(None, 16), "m": Role("loop", tile, parts)}
    for r in "ef":
        roles[r] = Role(None, max(16, problem.sizes[r]))
    return Case(one_pass(problem.cascade), problem, Schedule(emitter, tuple(roles.items()), filters=filters))


def tensors_of(problem: Problem, kernel: Kernel) -> list[torch.Tensor]:
    """Inputs with the lengths above and pages of NaN where the table never points."""
    data = draw_inputs(problem, "cpu")
    data["L"] = torch.tensor(LENGTHS[: len(data["L"])], dtype=torch.int32)
    for cache_name in ("KC", "VC"):
        unused = torch.ones(problem.sizes["n"], dtype=torch.bool)
        unused[data["BT"].flatten().long()] = False
        data[cache_name][unused] = torch.nan
    outputs = {a.name: torch.full(a.shape, torch.nan, dtype=data["Q"].dtype) for a in kernel.arguments if a.output}
    return [{**data, **outputs}[a.name] for a in kernel.arguments]
