"""What only a GPU shows: operators in CUDA graphs, in compiled programs, and their own cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import eintune

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
norm = eintune.compile("Nb,h,p = Qb,h,p,e * Kb,h,p,e", name="norm")
PROGRAMS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "prefill": lambda q, k, v: eintune.attention(q, k, v, causal=True),
    "window, lse": lambda q, k, v: eintune.attention(q, k, v, causal=True, window=64, softcap=20.0, return_lse=True),
    "sinks, documents": lambda q, k, v: eintune.attention(
        q, k, v, sinks=q[0, :, 0, 0].contiguous(), documents=torch.zeros_like(q[:, 0, :, 0], dtype=torch.int32)
    ),
    "function": lambda q, k, v: eintune.attention(q, k, v, score_mod=lambda s, b, h, p, m: s + (m - p) * 0.1),
    "cascade": lambda q, k, v: norm(q, q),
}


def drawn(length: int, seed: int = 0, heads: int = 8) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(2, heads, length, 64, generator=generator, device="cuda", dtype=torch.bfloat16)


def flat(made: Any) -> list[Tensor]:
    return [made] if isinstance(made, Tensor) else [*made]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_cuda_graph_of_a_compiled_program(name: str) -> None:
    """Captured after a first call; replayed on other numbers in the same memory. Anything that waits for the GPU, or
    allocates elsewhere than in PyTorch's pools, fails the capture."""
    program = PROGRAMS[name]
    compiled = torch.compile(program, backend="aot_eager", fullgraph=True)
    given = [drawn(256, seed) for seed in range(3)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            compiled(*given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = flat(compiled(*given))
    for seed in (10, 20):
        for t, s in zip(given, range(3), strict=True):
            t.copy_(drawn(256, seed + s))
        graph.replay()
        for got, wanted in zip(made, flat(program(*given)), strict=True):
            torch.testing.assert_close(got, wanted)


def test_a_warm_operator_does_not_wait() -> None:
    """PyTorch raises where anything synchronises; memory comes from its allocator, and as much as the results take."""
    given = [drawn(512, seed) for seed in range(3)]
    call = torch.ops.eintune.attention
    for program in ("{}", '{"causal":"top_left","options":{"return_lse":true,"window":64}}'):
        call(*given, [], program)
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            made = call(*given, [], program)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        assert torch.cuda.memory_stats()["allocation.all.allocated"] - before >= len(made)
        assert all(t.is_cuda for t in made)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_inductor_with_changing_lengths(mode: str) -> None:
    """`reduce-overhead` records a CUDA graph for each length that comes twice."""

    def block(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return eintune.attention(q * 2, k, v, causal=True).cos()

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, dynamic=True, mode=None if mode == "default" else mode)
    for length in (128, 256, 128, 256, 128, 192):
        given = [drawn(length, seed) for seed in range(3)]
        torch.testing.assert_close(compiled(*given).clone(), block(*given), atol=2e-2, rtol=2e-2)


def test_decoding_in_buckets() -> None:
    """A graph a bucket of lengths; keys beyond the length are hidden by documents."""
    graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
    for bucket in (128, 256):
        q, k, v = drawn(1), drawn(bucket, 1), drawn(bucket, 2)
        of_q = torch.zeros(2, 1, dtype=torch.int32, device="cuda")
        of_k = torch.zeros(2, bucket, dtype=torch.int32, device="cuda")
        given = [q, k, v, of_q, of_k]
        call = torch.compile(
            lambda q, k, v, of_q, of_k: eintune.attention(q, k, v, documents=(of_q, of_k)),
            backend="eager",
            fullgraph=True,
        )
        call(*given)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = call(*given)
        graphs[bucket] = graph, given, made
    for length in (3, 100, 128, 200, 256):
        graph, given, made = graphs[128 if length <= 128 else 256]
        q, k, v, _, of_k = given
        q.copy_(drawn(1, length))
        of_k.copy_((torch.arange(k.shape[2], device="cuda") >= length).int().expand(2, -1))
        graph.replay()
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, :length], v[:, :, :length])
        torch.testing.assert_close(made, wanted, atol=2e-2, rtol=2e-2)


def test_pytorch_checks_it_here() -> None:
    given = [drawn(64, seed) for seed in range(3)]
    opcheck(torch.ops.eintune.attention.default, (*given, [], '{"causal":"top_left","options":{"return_lse":true}}'))


def test_autocast() -> None:
    q, k, v = (drawn(64, seed).float() for seed in range(3))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        for got in (eintune.attention(q, k, v), torch.ops.eintune.attention(q, k, v, [], "{}")[0]):
            assert got.dtype == wanted.dtype == torch.bfloat16
            torch.testing.assert_close(got, wanted, atol=2e-2, rtol=2e-2)
