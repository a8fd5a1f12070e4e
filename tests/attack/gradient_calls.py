"""Drawn calls of attention with modifiers in any combination, and their gradients: beside PyTorch's own of the
definition, operator by operator, in float64."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import eintune
from eintune.kernels.reference.eager import run_eager
from eintune.kernels.serve.modified_attention import posed_call

Mod = Callable[..., Any]


class Drawn:
    """One call. wanted: the tensors whose gradients are asked for."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        r = self.r
        self.batch, self.kv_heads = r.choice([1, 2]), r.choice([1, 2, 3])
        self.heads = self.kv_heads * r.choice([1, 1, 2, 3])
        self.queries, self.keys = r.randint(1, 18), r.randint(1, 20)
        dim, value_dim = r.choice([1, 3, 8]), r.choice([1, 4, 8])
        self.q = self.tensor(self.batch, self.heads, self.queries, dim)
        self.k = self.tensor(self.batch, self.kv_heads, self.keys, dim)
        self.v = self.tensor(self.batch, self.kv_heads, self.keys, value_dim)
        self.more: list[Tensor] = []
        self.causal = r.choice([False, True, "lower_right"])
        self.scale = r.choice([dim**-0.5, 0.7])
        self.options = self.drawn_options()
        every = [self.q, self.k, self.v, *self.more]
        self.wanted = [t for t in every if r.random() < 0.8] or [self.q]

    def tensor(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).requires_grad_()

    def learnt(self, *shape: int) -> Tensor:
        self.more.append(self.tensor(*shape))
        return self.more[-1]

    def drawn_options(self) -> dict[str, Any]:
        """In any order: that of the call does not matter."""
        r, at, found = self.r, (self.batch, self.heads, self.queries, self.keys), dict[str, Any]()
        chances: list[tuple[float, str, Callable[[], Any]]] = [
            (0.3, "softcap", lambda: r.choice([0.5, 3.0])),
            (0.3, "alibi", lambda: self.learnt(self.heads) if r.random() < 0.8 else True),
            (0.2, "head_scale", lambda: self.learnt(self.heads)),
            (0.3, "bias", lambda: self.learnt(*[n if r.random() < 0.6 else 1 for n in at][r.randint(0, 3) :])),
            (0.2, "relative_bias", lambda: self.learnt(self.heads, self.queries + self.keys - 1)),
            (0.3, "window", lambda: r.randint(1, 9)),
            (0.15, "prefix", lambda: r.randint(1, 9)),
            (0.25, "documents", lambda: (self.numbers(self.queries), self.numbers(self.keys))),
            (0.25, "mask", lambda: self.shares([n if r.random() < 0.7 else 1 for n in at]) > 0.4),
            (0.3, "score_mod", self.score_mod),
        ]  # fmt: skip
        r.shuffle(chances)
        for chance, name, make in chances:
            if r.random() < chance:
                found[name] = make()
        if "window" in found and r.random() < 0.4:
            found["window_both"] = True
        if r.random() < 0.15:
            return found | {"sigmoid": True}
        found |= {"sinks": self.learnt(self.heads)} if r.random() < 0.3 else {}
        return found | ({"return_lse": True} if r.random() < 0.3 else {})

    def numbers(self, count: int) -> Tensor:
        return torch.randint(0, 3, (self.batch, count), generator=self.generator)

    def shares(self, shape: list[int]) -> Tensor:
        return torch.rand(shape, generator=self.generator)

    def score_mod(self) -> Mod:
        x, y = self.learnt(self.heads), self.learnt(self.keys)
        mods: list[Mod] = [
            lambda s, b, h, p, m: s * x[h] + y[m],
            lambda s, b, h, p, m: torch.tanh(s) * y[m] + x[h] * (p - m),
            lambda s, b, h, p, m: torch.where(p >= m, s + y[m], s * x[h]),
        ]
        return self.r.choice(mods)

    def served(self) -> tuple[Tensor, ...]:
        made = eintune.attention(self.q, self.k, self.v, causal=self.causal, scale=self.scale, **self.options)
        return made if isinstance(made, tuple) else (made,)

    def defined(self) -> tuple[Tensor, ...]:
        """The definition by PyTorch's operators, which record their gradients."""
        mode: Any = {False: None, True: "top_left"}.get(self.causal, self.causal)
        posed = posed_call(self.q, self.k, self.v, mode, self.scale, self.options)
        problem = posed.problem
        views = dict(zip(posed.names, posed.views(self.q, self.k, self.v, self.options), strict=True))
        made = run_eager(problem.definition, views, problem.sizes, problem.params, torch.float64)
        return tuple(made[n] for n in problem.definition.outputs)


def fault(seed: int) -> str:
    """What is wrong with a drawn call; "" where nothing is."""
    call = Drawn(seed)
    served = call.served()
    defined = [t.reshape(s.shape) for t, s in zip(call.defined(), served, strict=True)]
    for s, d in zip(served, defined, strict=True):
        if not torch.allclose(s, d, rtol=1e-7, atol=1e-9, equal_nan=True):
            return f"the results differ by {float((s - d).detach().abs().max()):.3g}: {sorted(call.options)}"
    cotangents = [torch.randn(s.shape, generator=call.generator, dtype=s.dtype) for s in served]
    cotangents = [torch.where(s.isfinite(), c, 0.0) for s, c in zip(served, cotangents, strict=True)]
    made = torch.autograd.grad(served, call.wanted, cotangents, allow_unused=True)
    finite = [torch.where(d.isfinite(), d, 0.0) for d in defined]
    exact = torch.autograd.grad(finite, call.wanted, cotangents, allow_unused=True)
    for t, g, e in zip(call.wanted, made, exact, strict=True):
        g = torch.zeros_like(t) if g is None else g
        e = torch.zeros_like(t) if e is None else e
        if not g.isfinite().all():
            return f"a gradient is not finite: {sorted(call.options)}"
        # PyTorch's own is NaN where a row sees nothing
        if e.isfinite().all() and not torch.allclose(g, e, rtol=1e-7, atol=1e-8 * max(1.0, float(e.abs().max()))):
            return (
                f"the gradient of {tuple(t.shape)} is off by {float((g - e).abs().max()):.3g}: {sorted(call.options)}"
            )
    return ""
