"""PyTorch's own functions for computations over rows, as they are and under its compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from eintune.space.cascade.problem import Problem

from .score_mods import Unavailable
from .torch_compile import compiled

Inputs: TypeAlias = Mapping[str, Tensor]
Function: TypeAlias = Callable[[Inputs, Mapping[str, float]], Tensor]


def _mean_of_squares(x: Inputs, params: Mapping[str, float]) -> Tensor:
    return functional.rms_norm(x["X"], x["X"].shape[-1:], x["W"], params["eps"])


FUNCTIONS: dict[str, Function] = {
    "softmax": lambda x, params: torch.softmax(x["X"], -1),
    "logsumexp": lambda x, params: torch.logsumexp(x["X"].float(), -1),
    "variance": lambda x, params: torch.var(x["X"].float(), -1, correction=0),
    "layernorm": lambda x, params: functional.layer_norm(x["X"], x["X"].shape[-1:], x["W"], x["B"], params["eps"]),
    "rmsnorm": _mean_of_squares,
    "rmsnorm_matmul": lambda x, params: _mean_of_squares(x, params) @ x["U"],
    "gemm": lambda x, params: x["A"] @ x["B"],
    "cross_entropy": lambda x, params: functional.cross_entropy(x["X"].float(), x["T"].long(), reduction="none"),
    "linear_cross_entropy": lambda x, params: functional.cross_entropy(
        (x["H"] @ x["E"].mT).float(), x["T"].long(), reduction="none"
    ),
}
"""What PyTorch has for a computation, by its name. Sums over bf16 rows that are returned wide are taken wide."""


def library(problem: Problem, inputs: Inputs, *, output: str) -> Callable[[], dict[str, Tensor]]:
    """PyTorch's function as it is. Raises Unavailable where there is none."""
    function = _function(problem)
    return lambda: {output: function(inputs, problem.params)}


def compiled_library(
    problem: Problem, inputs: Inputs, *, output: str, mode: str | None
) -> Callable[[], dict[str, Tensor]]:
    """The same under torch.compile. Raises Unavailable where there is none."""
    function, params, names = _function(problem), problem.params, list(inputs)

    def of_tensors(*tensors: Tensor) -> Tensor:
        return function(dict(zip(names, tensors, strict=True)), params)

    run, tensors = compiled(of_tensors, mode), tuple(inputs.values())
    return lambda: {output: run(*tensors)}


def _function(problem: Problem) -> Function:
    if problem.workload not in FUNCTIONS:
        raise Unavailable(f"no function of PyTorch is known for {problem.workload}")
    return FUNCTIONS[problem.workload]
