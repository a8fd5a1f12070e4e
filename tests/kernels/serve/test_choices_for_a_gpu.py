"""What an H200 would be served, chosen here with what ships for it, and run by the interpreters of Triton and Gluon."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from gluon_interpreter import run as interpret_gluon

from eintune.costmodel.machines.machine import load_machine
from eintune.host.recent import Recent
from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.kernels.serve import choices as choices_module
from eintune.kernels.serve import priced as priced_module
from eintune.kernels.serve.choices import KernelChoice, choices
from eintune.kernels.store.cache import Cache
from eintune.kernels.store.platform import Platform
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.builtin import WORKLOADS, attention_problem

H200 = Platform("NVIDIA H200", 132, "8", "2.11.0+cu130", "3.6.0", "cuda13.0")
CASES = {
    "a head dim that nothing was measured at": {"seq": 77, "kv_seq": 77, "head_dim": 80},
    "the same, causal": {"seq": 77, "kv_seq": 77, "head_dim": 80, "causal": "top_left"},
    "a shorter one": {"seq": 70, "kv_seq": 100, "head_dim": 32},
    "a longer one": {"seq": 33, "kv_seq": 33, "head_dim": 192},
    "decoding": {"heads": 8, "seq": 1, "kv_seq": 300, "head_dim": 128},
    "a few queries": {"heads": 8, "seq": 3, "kv_seq": 200, "head_dim": 128},
    "groups, causal": {"heads": 8, "seq": 50, "kv_seq": 50, "head_dim": 128, "causal": "top_left"},
    "plain": {"seq": 65, "kv_seq": 65, "head_dim": 128},
    "causal from the lower right": {"seq": 30, "kv_seq": 60, "head_dim": 64, "causal": "lower_right"},
    "fp32": {"seq": 40, "kv_seq": 70, "head_dim": 48, "dtype": "fp32"},
}


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priced_module, "machine_of", lambda device: load_machine("h200"))
    monkeypatch.setattr(choices_module, "platform_of", lambda device: H200)
    monkeypatch.setattr(choices_module, "emitter_for", lambda problem, device: "triton")


def first_few(problem: Problem, folder: Path, count: int) -> list[KernelChoice]:
    found = choices(problem, torch.device("cuda"), "rows", Cache(folder))
    return [c for c, _ in zip(found, range(count), strict=False)]


def check(problem: Problem, choice: KernelChoice, execute) -> None:
    kernel, outputs = choice.kernel, problem.definition.outputs
    generator = torch.Generator().manual_seed(0)
    data: dict[str, torch.Tensor] = {}
    for a in kernel.arguments:
        data[a.name] = torch.randn(a.shape, generator=generator).to(DTYPES[a.dtype])
    given = {n: t for n, t in data.items() if n not in outputs}
    exact = run_eager(problem.definition, given, problem.sizes, problem.params, torch.float64)
    for name in outputs:
        data[name].fill_(torch.nan)
    for a in kernel.workspaces:
        data[a.name] = torch.full(a.shape, 77, dtype=DTYPES[a.dtype])
    for step in kernel.launches:
        run = (lambda k, t: interpret_gluon(k, t, 3)) if step.emitter == "gluon" else execute
        run(step, [data[a.name] for a in step.arguments])
    for name in outputs:
        torch.testing.assert_close(data[name].double(), exact[name], rtol=2e-2, atol=2e-2, msg=choice.notice)


@pytest.mark.interpreter
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that is here serves itself")
@pytest.mark.parametrize("name", CASES)
def test_attention_is_right_at_sizes_that_nothing_is_stored_for(name: str, tmp_path: Path, execute) -> None:
    given = {"batch": 1, "heads": 2, "kv_heads": 2, "dtype": "bf16"} | CASES[name]
    problem = attention_problem(**given)
    found = first_few(problem, tmp_path, 3)
    assert found
    for choice in found:
        check(problem, choice, execute)


@pytest.mark.interpreter
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that is here serves itself")
@pytest.mark.parametrize("cols", [100, 4097])
@pytest.mark.parametrize("name", ["softmax", "rmsnorm", "layernorm"])
def test_rows_of_other_lengths_than_were_measured_are_right(name: str, cols: int, tmp_path: Path, execute) -> None:
    problem = WORKLOADS[name].posed({"rows": 5, "cols": cols}, "bf16").problem
    for choice in first_few(problem, tmp_path, 2):
        check(problem, choice, execute)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that is here serves itself")
@pytest.mark.parametrize(
    "given",
    [
        {"heads": 8, "seq": 1, "head_dim": 128, "kv_heads": 2},
        {"heads": 8, "head_dim": 128, "causal": "top_left"},
        {"heads": 8, "head_dim": 80},
    ],
    ids=["decoding", "causal", "a head dim that nothing was measured at"],
)
def test_what_serves_a_size_does_not_depend_on_the_sizes_before(
    given: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes that are alike share an answer: the one that each would have had alone."""
    draw = random.Random(0)
    lengths = [draw.choice((480, 512, 513, 1000, 1020, 1024, 1025, 1040)) + draw.randint(0, 3) for _ in range(24)]

    def chosen(length: int) -> list[tuple[str, str, str]]:
        sizes = {"batch": 2, "kv_heads": 8, "seq": length, "kv_seq": length, "dtype": "bf16"}
        problem = attention_problem(**(sizes | given))  # type: ignore[arg-type]
        few = first_few(problem, tmp_path, 2)
        return [(c.kernel.digest, c.plain().digest if c.plain else "", c.form) for c in few]

    shared = [chosen(n) for n in lengths]
    assert all(shared)
    for n, found in zip(lengths, shared, strict=True):
        monkeypatch.setattr(choices_module, "_alike", Recent(64))
        assert chosen(n) == found
