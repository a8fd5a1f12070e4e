"""What `tune` tunes by its options is what calls ask for: a winner that it stores serves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from packed_reference import drawn

import eintune
from eintune.kernels.packed import calls
from eintune.kernels.serve.serving import serve
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.workload import WORKLOADS

H, KV, D = 4, 2, 16
CU = torch.tensor([0, 8, 16, 24], dtype=torch.int32)
TABLE = torch.arange(9, dtype=torch.int32).reshape(3, 3)
CACHE = drawn(9, 8, KV, D)
CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "packed": (
        lambda: eintune.varlen_attention(drawn(24, H, D), drawn(24, KV, D), drawn(24, KV, D), CU, causal=True),
        {"seq": 24, "packed": 3, "causal": "lower_right"},
    ),
    "packed, with all": (
        lambda: eintune.varlen_attention(
            drawn(24, H, D), drawn(48, KV, D), drawn(48, KV, D), CU, CU * 2, softcap=2.0, alibi=True, sinks=drawn(H),
            scale=0.3, return_lse=True,
        ),
        {"seq": 24, "kv_seq": 48, "packed": 3, "softcap": 2.0, "alibi": "standard", "sinks": True, "scale": 0.3,
         "lse": True},
    ),
    "one query a sequence": (
        lambda: eintune.paged_attention(drawn(3, H, D), CACHE, CACHE, TABLE, CU[1:]),
        {"batch": 3, "seq": 1, "kv_seq": 24, "page": 8},
    ),
    "prompts and single queries": (
        lambda: eintune.paged_attention(drawn(30, H, D), CACHE, CACHE, TABLE, CU[1:], cu_seq_q=CU, causal=True),
        {"batch": 5, "seq": 16, "kv_seq": 24, "page": 8},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_call_asks_for_what_is_tuned(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    call, options = CALLS[name]
    asked: list[Problem] = []

    def looked_at(problem: Problem, *given: Any) -> Any:
        asked.append(problem)
        return serve(problem, *given)

    monkeypatch.setattr(calls, "serve", looked_at)
    call()
    tuned = WORKLOADS["attention"].posed({"heads": H, "kv_heads": KV, "head_dim": D, **options}, "fp32").problem
    (problem,) = asked
    for p in (problem, tuned):
        p.sizes.pop("x", None)  # how many pages the cache has
    for part in ("workload", "cascade", "sizes", "dtypes", "params"):
        assert getattr(problem, part) == getattr(tuned, part), part
