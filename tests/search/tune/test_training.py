"""The problems of a training step are those that programs pose, and `tune --backward` stores what they find."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

import eintune
from eintune.host import notices
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.search.cli.main import main
from eintune.search.measure.inputs import draw_inputs
from eintune.search.tune.training import training_steps
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.attention import Attention, attention_problem


def problem(seq: int = 200) -> Problem:
    return attention_problem(
        batch=1, heads=2, kv_heads=2, seq=seq, kv_seq=seq, head_dim=8, dtype="fp32", variant=Attention(statistics=True)
    )


def test_a_forward_and_the_stages_of_its_backward() -> None:
    steps = training_steps(problem(), of=["AV"])
    assert [s.gives for s in steps] == [("AV", "GM", "LS"), ("R",), ("DQ",), ("DK", "DV")]
    assert steps[0].problem.cascade == problem().cascade
    assert {s.problem.workload for s in steps[1:]} == {"attention gradient"}
    assert steps[2].problem.dtypes["LS"] == "fp32" and steps[2].problem.sizes["m"] == 200


def test_what_a_stage_reads_is_drawn_as_a_forward_leaves_it() -> None:
    """Maxima and logarithms of sums from a standard normal would be below what they are of."""
    stage = training_steps(problem(), of=["AV"])[2].problem
    data = draw_inputs(stage, "cpu")
    scores = data["Q"] @ data["K"].mT * 8**-0.5
    logarithms = (data["GM"] + data["LS"])[..., None]
    assert float((scores - logarithms).max()) < 3
    assert 0.1 < float(torch.exp(scores - logarithms).sum(-1).median()) < 10


def test_only_some_inputs() -> None:
    steps = training_steps(problem(), of=["AV"], wrt=["V"])
    assert [s.gives for s in steps] == [("AV", "GM", "LS"), ("DV",)]
    with pytest.raises(
        UnsupportedArgument, match=r"`wrt` must name floating inputs of \['Q', 'K', 'V'\], but got \['X'\]"
    ):
        training_steps(problem(), wrt=["X"])


def test_what_is_tuned_is_what_a_program_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    options = ["--seq", "48", "--heads", "2", "--head-dim", "16", "--causal", "--trials", "2", "--budget", "5"]
    saved = tmp_path / "step.json"
    told = ["--results", str(tmp_path / "results"), "--no-peers", "--json", str(saved)]
    assert main(["tune", *options, "--backward", *told]) == 0
    said = capsys.readouterr().out
    assert "a training step" in said and "\nforward " in said and "\nbackward " in said
    kernels = json.loads(saved.read_text())["result"]["kernels"]
    assert [k["gives"] for k in kernels] == ["AV, GM, LS", "R", "DQ", "DK, DV"]
    assert main(["tune", *options, "--backward", *told]) == 0
    assert capsys.readouterr().out.count("from the cache, nothing was measured") == 4
    notices.forget()
    q, k, v = (torch.randn(1, 2, 48, 16, requires_grad=True) for _ in range(3))
    with caplog.at_level(logging.WARNING):
        eintune.attention(q, k, v, causal=True).sum().backward()
    assert not [m for m in caplog.messages if "never tuned" in m]
    wanted = torch.autograd.grad(torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).sum(), q)[0]
    torch.testing.assert_close(q.grad, wanted, atol=1e-5, rtol=1e-4)


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for options, says in (
        (["--wrt", "Q"], "it goes with --backward"),
        (["--backward", "--wrt", "Q,3"], "must be names of inputs"),
        (["--seq", "16,32", "--backward"], "--backward tunes a training step at one size"),
        (["--backward", "--wrt", "X"], "`wrt` must name floating inputs"),
    ):
        try:
            code = main(["tune", "--heads", "2", *([] if "--seq" in options else ["--seq", "16"]), *options])
        except SystemExit as error:
            code = int(error.code or 0)
        assert code == 2
        assert says in capsys.readouterr().err
