"""Gradients of packed sequences, eager and compiled, against those of each sequence by itself in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_reference import drawn, packed
from torch import Tensor

import eintune
from eintune.kernels.serve.errors import UnsupportedArgument

H, KV, D, F = 4, 2, 16, 8


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests here, so that what was derived is derived once."""
    folder = tmp_path_factory.getbasetemp() / "packed"
    monkeypatch.setenv("EINTUNE_CACHE", str(folder))
    return folder


def cumulated(*lengths: int) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


CU_Q, CU_K = cumulated(5, 0, 7, 1, 3), cumulated(9, 7, 0, 8, 2)
"""Without queries, without keys, and more queries than keys."""


def leaves(dtype: torch.dtype, kv_heads: int = KV) -> dict[str, Tensor]:
    shapes = {"q": (16, H, D), "k": (26, kv_heads, D), "v": (26, kv_heads, F), "sinks": (H,), "alibi": (H,)}
    return {n: drawn(*s, seed=i, dtype=dtype).requires_grad_() for i, (n, s) in enumerate(shapes.items())}


Attend = Callable[..., tuple[Tensor, Tensor]]


def gradients(attend: Attend, given: dict[str, Tensor]) -> list[Tensor]:
    """The output, the log-sum-exp where it is finite, and the gradients of all that is given."""
    out, log = attend(**given)
    log = log.masked_fill(log.isinf(), 0.0)
    weights = [drawn(*t.shape, seed=9, dtype=t.dtype) for t in (out, log)]
    ((out * weights[0]).sum() + (log * weights[1]).sum()).backward()
    return [out.detach(), log.detach(), *(t.grad for t in given.values() if t.grad is not None)]


def ours(**options: Any) -> Attend:
    return lambda q, k, v, **more: eintune.varlen_attention(q, k, v, CU_Q, CU_K, return_lse=True, **options, **more)


def exact(**options: Any) -> Attend:
    return lambda q, k, v, **more: packed(q, k, v, CU_Q.tolist(), CU_K.tolist(), **options, **more)


OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "plain": ((), {}),
    "causal": ((), {"causal": True, "scale": 0.3}),
    "window, softcap": ((), {"causal": True, "window": 4, "softcap": 2.0}),
    "to both sides": ((), {"window_size": (3, 2)}),
    "sinks": (("sinks",), {"causal": "top_left"}),
    "all": (("sinks", "alibi"), {"causal": True, "window": 6, "softcap": 3.0}),
}
CASES = [(n, torch.float32) for n in OPTIONS] + [("causal", torch.float64), ("all", torch.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_gradients_are_those_of_each_sequence(name: str, dtype: torch.dtype) -> None:
    used, options = OPTIONS[name]
    names = ("q", "k", "v", *used)
    made = gradients(ours(**options), {n: t for n, t in leaves(dtype).items() if n in names})
    wanted = gradients(exact(**options), {n: t for n, t in leaves(dtype).items() if n in names})
    assert len(made) == len(wanted) == 2 + len(names)
    near = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 6e-2}[dtype]
    for a, b in zip(made, wanted, strict=True):
        torch.testing.assert_close(a.double(), b.double(), atol=near, rtol=near)


def test_of_as_many_key_heads_and_of_the_output_alone() -> None:
    def plainly(attend: Attend) -> list[Tensor]:
        given = {n: t for n, t in leaves(torch.float32, H).items() if n in "qkv"}
        attend(**given)[0].pow(2).sum().backward()
        return [t.grad for t in given.values() if t.grad is not None]

    for a, b in zip(plainly(ours(causal=True)), plainly(exact(causal=True)), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_of_one_argument_alone_and_of_published_slopes() -> None:
    slopes = torch.tensor([2.0 ** (-8 * (h + 1) / H) for h in range(H)])
    found = []
    for attend in (ours(causal=True, alibi=True), exact(causal=True, alibi=slopes)):
        given = leaves(torch.float32)
        k = given["k"]
        attend(given["q"].detach(), k, given["v"].detach())[0].sin().sum().backward()
        found.append(k.grad)
    torch.testing.assert_close(*found, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_programs_train_at_any_length(backend: str) -> None:
    torch._dynamo.reset()
    graphs = []

    def step(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, cu_q: Tensor, cu_k: Tensor) -> Tensor:
        return eintune.varlen_attention(q * 2, k, v, cu_q, cu_k, causal=True, window=6, sinks=sinks).sin()

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    compiled = torch.compile(step, backend=counted, fullgraph=True, dynamic=True)
    for lengths in ((3, 9, 6, 7, 5), (11, 2), (30, 1, 8)):
        cu_q, cu_k = cumulated(*lengths), cumulated(*[n + 2 for n in lengths])
        made = []
        for f in (compiled, step):
            shapes = ((int(cu_q[-1]), H, D), (int(cu_k[-1]), KV, D), (int(cu_k[-1]), KV, F), (H,))
            given = [drawn(*s, seed=i).requires_grad_() for i, s in enumerate(shapes)]
            f(*given, cu_q, cu_k).sum().backward()
            made.append([t.grad for t in given])
        for a, b in zip(*made, strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_nothing_at_all_has_gradients() -> None:
    none = torch.zeros(1, dtype=torch.int32)
    sinks = drawn(H).requires_grad_()
    for q, k, cu_q, cu_k in (
        (drawn(0, H, D), drawn(5, KV, D), none, none),
        (drawn(3, H, D), drawn(0, KV, D), CU_Q * 0, CU_Q * 0),
    ):
        q.requires_grad_()
        out, log = eintune.varlen_attention(q, k, k, cu_q, cu_k, sinks=sinks, return_lse=True)
        sinks.grad = None
        (out.sum() + log.sum()).backward()
        assert not out.any() and not q.grad.any()
        assert torch.equal(sinks.grad, torch.full((H,), float(len(q))))


def test_a_cache_in_pages_has_none() -> None:
    q = drawn(1, H, D).requires_grad_()
    k, table = drawn(2, 8, KV, D), torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(UnsupportedArgument, match=r"eintune\.paged_attention is forward only"):
        eintune.paged_attention(q, k, k, table, torch.tensor([3]))


def test_of_other_types_beside() -> None:
    given = {n: t for n, t in leaves(torch.float32).items() if n != "alibi"}
    given["sinks"] = given["sinks"].detach().double().requires_grad_()
    made = gradients(ours(causal=True), given)
    assert made[-1].dtype == torch.float64 and made[0].dtype == torch.float32
