"""Tools that record or transform programs: each has a call as it is, or is told in one line that it cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import eintune

several = eintune.compile("Nb,h,p = Qb,h,p,e * Kb,h,p,e\nDb,h,p,e = Qb,h,p,e + Qb,h,p,e\nresults: N, D")
norm = eintune.compile("Nb,h,p = Qb,h,p,e * Kb,h,p,e * Vb,h,p,e")


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return eintune.attention(q, k, v, causal=True)


def modified(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return eintune.attention(q, k, v, window=9, alibi=True)


def pytorchs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return eintune.scaled_dot_product_attention(q, k, v, is_causal=True)


def cascade(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return norm(q, k, v)


class Program(torch.nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.function(q * 2, k, v) + 1


PROGRAMS = (plain, modified, pytorchs, cascade)
Q, K, V = (torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(n)) for n in range(3))
TOOLS: dict[str, tuple[Callable[[Any], object], str]] = {
    "trace": (lambda f: torch.jit.trace(f, (Q, K, V)), "torch.jit.trace"),
    "trace of a module": (lambda f: torch.jit.trace(Program(f), (Q, K, V)), "torch.jit.trace"),
    "jvp": (lambda f: torch.func.jvp(lambda q: f(q, K, V), (Q,), (Q,)), "transformed"),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ran_before", [False, True])
@pytest.mark.parametrize("tool", TOOLS)
def test_what_would_leave_it_out_is_told(tool: str, ran_before: bool) -> None:
    """A call that ran before has its launcher at hand, and must be looked at all the same."""
    use, named = TOOLS[tool]
    for program in PROGRAMS:
        if ran_before:
            program(Q, K, V)
        with pytest.raises(eintune.UnsupportedArgument, match=named) as refused:
            use(program)
        assert "\n" not in str(refused.value)
    assert plain(Q, K, V).isfinite().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", [plain, pytorchs])
def test_torchscript_is_told(program: Callable[..., torch.Tensor]) -> None:
    for scripted in (program, eintune.attention, norm):
        with pytest.raises(eintune.UnsupportedArgument, match=r"torch\.jit\.script") as refused:
            torch.jit.script(scripted)
        assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore")
def test_a_script_calls_a_compiled_cascade_when_it_runs(tmp_path: Path) -> None:
    def around(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total, doubled = several(q * 2, k)
        return total + norm(q, k, v), doubled

    scripted = torch.jit.script(around)
    for got, wanted in zip(scripted(Q, K, V), around(Q, K, V), strict=True):
        assert torch.equal(got, wanted)
    with pytest.raises(RuntimeError, match="Could not export Python function call"):
        scripted.save(str(tmp_path / "never.pt"))


@pytest.mark.parametrize("program", [plain, modified, pytorchs])
def test_a_symbolic_trace_has_one_call(program: Callable[..., torch.Tensor]) -> None:
    traced = torch.fx.symbolic_trace(Program(program))
    called = [n.target for n in traced.graph.nodes if getattr(n.target, "__module__", "").startswith("eintune")]
    assert called == [eintune.scaled_dot_product_attention if program is pytorchs else eintune.attention]
    assert torch.equal(traced(Q, K, V), Program(program)(Q, K, V))


def test_what_a_symbolic_trace_cannot_hold_is_named() -> None:
    with pytest.raises(eintune.UnsupportedArgument, match=r"torch\.fx cannot record .*CompiledCascade"):
        torch.fx.symbolic_trace(Program(cascade))
    with pytest.raises(eintune.UnsupportedArgument, match=r"must be a torch\.Tensor, but got list"):
        eintune.attention([1.0], K, V)


def test_what_only_watches_is_let_by() -> None:
    with FlopCounterMode(display=False):
        watched = plain(Q, K, V)
    assert torch.equal(watched, plain(Q, K, V))


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_records_operators_has_one(program: Callable[..., torch.Tensor], mode: str, early: bool) -> None:
    made = make_fx(program, tracing_mode=mode, pre_dispatch=early)(Q, K, V)
    called = [n.target for n in made.graph.nodes if "eintune" in str(n.target)]
    assert called == [torch.ops.eintune.cascade.default if program is cascade else torch.ops.eintune.attention.default]
    assert torch.equal(made(Q, K, V), program(Q, K, V))


def test_what_the_compiler_cannot_have_is_given_the_reason() -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"`scale` must be a number"):
        torch.compile(lambda q: eintune.attention(q, q, q, scale=q.sum()) + 1, backend="eager", fullgraph=True)(Q)
    assert torch.randn(2).shape == (2,)
