"""A library's kernel is never counted as ours, and what a program is told of peers is what was measured of them."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import eintune
from eintune.host import worker as host_worker
from eintune.kernels.libraries.policy import policy
from eintune.search.cli import main as commands
from eintune.search.measure.measurement import Measurement
from eintune.search.measure.peer_times import peer_times
from eintune.search.measure.policy import Policy
from eintune.search.measure.tasks import Peer, Prepare
from eintune.search.measure.worker import Bench
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.builtin import attention_problem

RESULTS = Path(__file__).parents[3] / "results"
PROBLEM = attention_problem(batch=1, heads=2, kv_heads=2, seq=16, kv_seq=16, head_dim=8, dtype="bf16")
POSED = Prepare(PROBLEM, "cpu", Policy())


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_worker_that_times_calls_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(host_worker, "answer_tasks", lambda arguments, make: seen.append(policy()) or 0)
    monkeypatch.setenv("EINTUNE_POLICY", "fastest")
    with eintune.configure(policy="fastest"), pytest.raises(SystemExit):
        runpy.run_module("eintune.search.measure.worker", run_name="__main__")
    assert seen == ["own"]


def test_commands_that_time_call_no_library() -> None:
    with eintune.configure(policy="fastest"):
        for command in commands.COMMANDS:
            with commands._kernels_of(command):
                assert policy() == ("own" if command.name in ("tune", "bench", "record") else "fastest")
            assert policy() == "fastest"


def test_scripts_that_measure_call_no_library() -> None:
    """Those in `results` that call the runtime say so first."""
    callers = 0
    for path in RESULTS.glob("*.py"):
        text = path.read_text()
        if "eintune.attention(" in text or "eintune.compile(" in text:
            callers += 1
            (main,) = (f for f in ast.parse(text).body if isinstance(f, ast.FunctionDef) and f.name == "main")
            assert ast.unparse(main.body[0]) == "eintune.configure(policy='own')", path.name
    assert callers >= 4


def checked(run: Callable[[Tensor, Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> Measurement:
    """What the worker finds of a peer that computes attention so."""
    made = ModuleType("somebodys_attention")

    def peer(problem: Problem, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        return lambda: {"AV": run(inputs["Q"], inputs["K"], inputs["V"])}

    made.peer = peer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebodys_attention", made)
    found = Bench.prepare(POSED).check(Peer("theirs", "somebodys_attention:peer"))
    status = "wrong" if found.fault else "ok"
    return Measurement("theirs", status, 1e-3, rms_error=found.rms_error, short_of=found.short_of)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def test_what_keeps_a_peer_from_serving_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result must be as near as a kernel's, and contiguous; it is timed and compared all the same."""
    good = checked(attend, monkeypatch)
    assert good.status == "ok" and not good.short_of
    laid = checked(lambda *given: attend(*given).transpose(1, 2).contiguous().transpose(1, 2), monkeypatch)
    assert laid.status == "ok" and laid.short_of == "AV: not contiguous"
    budget = Bench.prepare(POSED).reference.budget["AV"].rms
    rough = checked(lambda *given: attend(*given) + 3 * budget, monkeypatch)
    assert rough.status == "ok" and "the budget is" in rough.short_of
    wrong = checked(lambda *given: attend(*given) + 1, monkeypatch)
    assert wrong.status == "wrong"
    kept = peer_times({"good": good, "laid": laid, "wrong": wrong}, "cpu")
    assert set(kept) == {"good", "laid"} and kept["laid"].short_of and torch.__version__ in kept["good"].version
    assert kept["good"].rms_error == good.rms_error and kept["good"].low is None
    assert Measurement.from_json(laid.to_json()).short_of == laid.short_of
