"""Which built-in definition a stored one is: told by its digest and the names in its problem."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from eintune.space.cascade.problem import Problem
from eintune.space.workloads.builtin import WORKLOADS
from eintune.space.workloads.recognised import recognised

SIZES = {"seq": 48, "heads": 8}


def told(problem: Problem, digest: str | None = None) -> dict[str, Any] | None:
    digest = digest or sha256(problem.cascade.encode()).hexdigest()
    return recognised(problem.workload, digest, problem.sizes, problem.params, problem.dtypes)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": "lower_right"},
        {"kv_heads": 2, "kv_seq": 96, "batch": 3},
        {"causal": "top_left", "window": 16, "softcap": 30.0, "alibi": "standard"},
        {"window": 16, "window_both": True, "sigmoid": True},
        {"prefix": 5, "causal": "lower_right"},
        {"bias": "hm", "mask": "bpm", "documents": True},
        {"relative_bias": True, "sinks": True, "lse": True, "head_scale": True},
    ],
)
def test_the_options_come_back(options: dict[str, Any]) -> None:
    row = WORKLOADS["attention"]
    found = told(row.posed(SIZES | options, "bf16").problem)
    assert found is not None
    sizes = {o.name for o in row.options if o.kind == "size"}
    assert found == {n: v for n, v in options.items() if n not in sizes}


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_is_told_by_itself(name: str) -> None:
    row = WORKLOADS[name]
    given = {o.name: 64 for o in row.options if o.default is None}
    problem = row.posed(given, "fp32").problem
    found = told(problem)
    assert found is not None
    assert row.posed(given | found, "fp32").problem.cascade == problem.cascade


def test_what_is_not_built_in_is_none() -> None:
    problem = WORKLOADS["attention"].posed(SIZES | {"score_mod": lambda s, b, h, p, m: s * 2.0}, "bf16").problem
    assert told(problem) is None
    assert told(problem, "0" * 64) is None
    assert recognised("mine", "0" * 64, {"a": 1}, {}, ["X"]) is None
