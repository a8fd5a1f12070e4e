"""Gradients on a GPU: beside eager PyTorch's error, the same bits beside a load, in graphs and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import eintune

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
BF16 = torch.bfloat16
TIMES = {torch.float32: 6.0, BF16: 2.0, torch.float16: 2.0}
"""How many times eager PyTorch's an error may be. In fp32 a row's sum of weights times their adjoint is found from its
output, as FlashAttention does, and no longer has the rounding errors of the product that it is taken off: up to 5 times
were measured (a slope's gradient)."""
Scores = Callable[..., Tensor]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda")


def places(s: Tensor) -> Tensor:
    """Key minus query."""
    queries, keys = (torch.arange(n, device="cuda") for n in s.shape[-2:])
    return keys - queries[:, None]


def causal(s: Tensor) -> Tensor:
    return s.masked_fill(places(s) > 0, -torch.inf)


def relative(table: Tensor, s: Tensor) -> Tensor:
    return table[:, s.shape[-1] - 1 - places(s)]


DOCUMENTS = (torch.arange(200, device="cuda") // 70).expand(2, -1) if torch.cuda.is_available() else torch.zeros(2, 200)
VARIANTS: dict[str, tuple[dict[str, Any], Scores, dict[str, tuple[int, ...]]]] = {
    "plain": ({}, lambda s: s, {}),
    "causal": ({"causal": True}, causal, {}),
    "window": (
        {"causal": True, "window": 50}, lambda s: causal(s).masked_fill(places(s) <= -50, -torch.inf), {}
    ),
    "softcap": ({"causal": True, "softcap": 5.0}, lambda s: causal(5 * torch.tanh(s / 5)), {}),
    "documents": (
        {"documents": DOCUMENTS},
        lambda s: s.masked_fill((DOCUMENTS[:, :, None] != DOCUMENTS[:, None])[:, None], -torch.inf), {}
    ),
    "slopes": (
        {"causal": True}, lambda s, alibi: causal(s + alibi[:, None, None] * places(s)), {"alibi": (8,)}
    ),
    "sinks": ({"causal": True}, lambda s, sinks: causal(s), {"sinks": (8,)}),
    "head scale": ({}, lambda s, head_scale: s * head_scale[:, None, None], {"head_scale": (8,)}),
    "bias": ({}, lambda s, bias: s + bias, {"bias": (1, 8, 200, 200)}),
    "relative bias": ({}, lambda s, relative_bias: s + relative(relative_bias, s), {"relative_bias": (8, 399)}),
}  # fmt: skip


def by_hand(scores: Scores, q: Tensor, k: Tensor, v: Tensor, **more: Tensor) -> Tensor:
    group = q.shape[1] // k.shape[1]
    s = scores(q @ k.repeat_interleave(group, 1).mT * q.shape[-1] ** -0.5, **more)
    if "sinks" in more:
        s = torch.cat([s, more["sinks"][:, None, None].expand(*s.shape[:-1], 1)], -1)
    return torch.softmax(s, -1)[..., : k.shape[2]] @ v.repeat_interleave(group, 1)


def gradients(call: Callable[..., Tensor], given: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    moved = {n: t.to(dtype).detach().requires_grad_() for n, t in given.items()}
    made = call(**moved)
    found = torch.autograd.grad(made, [*moved.values()], torch.ones_like(made) + 0.5 * made.detach())
    return dict(zip(moved, found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, BF16, torch.float16])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("heads", [8, 2], ids=["equal", "grouped"])
@pytest.mark.parametrize("name", VARIANTS)
def test_errors_beside_eager_pytorchs(name: str, heads: int, dim: int, dtype: torch.dtype) -> None:
    options, scores, shapes = VARIANTS[name]
    given = {n: drawn(2, h, 200, dim, seed=i) for i, (n, h) in enumerate({"q": 8, "k": heads, "v": heads}.items())}
    given |= {n: drawn(*shape, seed=9) for n, shape in shapes.items()}
    rounded = {n: t.to(dtype) for n, t in given.items()}
    exact = gradients(lambda **t: by_hand(scores, **t), rounded, torch.float64)
    eager = gradients(lambda **t: by_hand(scores, **t), rounded, dtype)
    ours = gradients(lambda q, k, v, **more: eintune.attention(q, k, v, **options, **more), rounded, dtype)
    for n, e in exact.items():
        off, theirs = (float((g[n].double() - e).abs().max()) for g in (ours, eager))
        assert off <= TIMES[dtype] * theirs + torch.finfo(dtype).eps * float(e.abs().max()), n


def test_the_same_bits_beside_another_streams_load() -> None:
    q, k, v = (drawn(2, h, 1024, 128, seed=i).to(BF16).requires_grad_() for i, h in enumerate((16, 4, 4)))
    slopes, sinks = (drawn(16, seed=n).requires_grad_() for n in (5, 6))
    given = (q, k, v, slopes, sinks)
    made = eintune.attention(q, k, v, causal=True, alibi=slopes, sinks=sinks)
    cotangent = torch.randn_like(made)
    first = torch.autograd.grad(made, given, cotangent, retain_graph=True)
    other, load = torch.cuda.Stream(), drawn(4096, 4096)
    for _ in range(100):
        with torch.cuda.stream(other):
            load @ load
        assert all(map(torch.equal, torch.autograd.grad(made, given, cotangent, retain_graph=True), first))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_in_one_graph(backend: str) -> None:
    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return eintune.attention(q * 1.5, k, v, causal=True).float().square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=backend, fullgraph=True, dynamic=True)
    for length in (128, 200, 256):
        given = [drawn(2, 4, length, 64, seed=n).to(BF16).requires_grad_() for n in range(3)]
        found, wanted = (torch.autograd.grad(f(*given), given) for f in (compiled, loss))
        for g, w in zip(found, wanted, strict=True):
            torch.testing.assert_close(g, w, atol=1e-6, rtol=2e-2)


def test_a_training_step_in_a_cuda_graph() -> None:
    given = [drawn(2, 4, 256, 64, seed=n).to(BF16).requires_grad_() for n in range(3)]

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(eintune.attention(*given, causal=True).float().square().sum(), given)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = step()
    with torch.no_grad():
        for n, t in enumerate(given):
            t.copy_(drawn(2, 4, 256, 64, seed=10 + n))
    graph.replay()
    assert all(map(torch.equal, made, step()))


def test_checkpoints_and_autocast() -> None:
    from torch.utils.checkpoint import checkpoint

    q, k, v = (drawn(2, 4, 256, 64, seed=n).requires_grad_() for n in range(3))

    def block(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype=BF16):
            return eintune.attention(q, k, v, causal=True)

    wanted = torch.autograd.grad(block(q, k, v).float().sum(), (q, k, v))
    found = torch.autograd.grad(checkpoint(block, q, k, v, use_reentrant=False).float().sum(), (q, k, v))
    assert all(map(torch.equal, found, wanted)) and all(g.dtype == torch.float32 for g in found)


CHAINS: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, float], Callable[..., Tensor]]] = {
    "rmsnorm": (
        "Rt = sqrt(sum[c](Xt,c * Xt,c) / |c| + eps)\nYt,c = Xt,c / Rt * Wc",
        {"X": (300, 1024), "W": (1024,)}, {"eps": 1e-6},
        lambda X, W: torch.nn.functional.rms_norm(X, (1024,), W, 1e-6),
    ),
    "softmax": (
        "Mt = Xt,c :: \\/c max\nEt,c = e^(Xt,c - Mt)\nYt,c = Et,c / sum[c](Et,c)",
        {"X": (300, 1000)}, {}, lambda X: torch.softmax(X, -1),
    ),
    "product": ("Zm,n = Ak,m * Bk,n", {"A": (256, 200), "B": (256, 300)}, {}, lambda A, B: A.mT @ B),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("name", CHAINS)
def test_other_chains(name: str, dtype: torch.dtype) -> None:
    text, shapes, params, reference = CHAINS[name]
    program = eintune.compile(text, params=params)
    rounded = {n: drawn(*shape, seed=len(n)).to(dtype) for n, shape in shapes.items()}
    exact, eager, ours = (
        gradients(f, rounded, d) for f, d in ((reference, torch.float64), (reference, dtype), (program, dtype))
    )
    for n, e in exact.items():
        off, theirs = (float((g[n].double() - e).abs().max()) for g in (ours, eager))
        assert off <= 2 * theirs + torch.finfo(dtype).eps * float(e.abs().max()), n
