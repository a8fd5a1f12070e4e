"""What does not fit into memory is refused in one line, before anything is allocated."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from eintune.kernels.reference.eager import run_eager
from eintune.search.cli.main import main
from eintune.search.measure import memory
from eintune.search.measure.inputs import draw_inputs
from eintune.search.measure.memory import does_not_fit, needed
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.builtin import WORKLOADS, attention_problem


def attention(seq: int, heads: int = 1) -> Problem:
    return attention_problem(batch=1, heads=heads, kv_heads=heads, seq=seq, kv_seq=seq, head_dim=64, dtype="fp32")


def test_the_price_is_that_of_the_tensors() -> None:
    tensor = 4 * 4096 * 8 * 64
    parts = needed(attention(4096, 8), "cpu")
    assert parts["inputs"] == parts["their copies"] == 3 * tensor and parts["outputs"] == tensor
    assert 8 * 2**20 < parts["the reference"] < 2**30
    assert "flushing caches" in needed(attention(64), "cuda")


def test_a_long_row_is_checked_in_slices() -> None:
    """Whatever the length: the scores alone would be 8 * 400,000**2 bytes, 1.2 TB."""
    assert needed(attention(400_000), "cpu")["the reference"] < 2**30


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_every_workload_has_a_price(name: str) -> None:
    row = WORKLOADS[name]
    posed = row.posed({o.name: 64 for o in row.options if o.default is None}, "fp32")
    parts = needed(posed.problem, "cpu")
    assert all(isinstance(n, int) and n > 0 for n in parts.values()), parts


def test_what_fits_and_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sum(needed(attention(4096), "cpu").values())
    monkeypatch.setattr(memory, "free_bytes", lambda: whole)
    assert does_not_fit(attention(4096), "cpu") == ""
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    assert does_not_fit(attention(2**30), "cpu") == ""
    monkeypatch.setattr(memory, "free_bytes", lambda: whole - 1)
    why = does_not_fit(attention(4096), "cpu")
    assert "inputs 3.0 MiB, their copies 3.0 MiB, outputs 1.0 MiB" in why and "choose smaller sizes" in why


def test_the_command_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**20)
    options = ("--seq", "2048", "--heads", "8", "--device", "cpu", "--quiet", "--cache", str(tmp_path))
    assert main(["tune", *options]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "of memory (inputs 24.0 MiB" in err and "1.0 MiB are free on cpu" in err


def test_a_run_that_is_longer_than_the_budget_is_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--seq", "4096", "--heads", "8", "--device", "cpu", "--quiet", "--budget", "1e-6")
    assert main(["tune", *options, "--cache", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "but the budget of the whole search is 1e-06 s" in err


def test_positions_that_follow_each_other_are_read_in_place() -> None:
    """A slice of a reference copies what it needs, not the tensor."""
    problem = attention(64, 4)
    data = draw_inputs(problem, "cpu")
    cascade = problem.definition
    whole = run_eager(cascade, data, problem.sizes, problem.params, torch.float64)["AV"]
    for h in (torch.arange(1, 3), torch.tensor([3]), torch.tensor([0, 2]), torch.tensor([2, 1])):
        index = {"b": torch.arange(1), "h": h, "p": torch.arange(5, 60)}
        part = run_eager(cascade, data, problem.sizes, problem.params, torch.float64, index)["AV"]
        torch.testing.assert_close(part, whole[:, h, 5:60])
    assert math.prod(whole.shape) == 4 * 64 * 64
