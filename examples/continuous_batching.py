"""Serve a small random model with continuous batching over a cache in pages.

    python examples/continuous_batching.py --requests 12 --check

Requests come at any time and are of any length. Each step is one batch: the whole prompts of those that begin and the
last token of those that go on, packed one after another. Keys and values are written to pages of a cache, which a
request gives back when it ends, and one call of `eintune.paged_attention` a layer serves them all. `--check` generates
each request once more, alone and without a cache, by PyTorch's attention, and compares the tokens.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

import eintune

VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_DIM, PAGE = 512, 128, 2, 8, 2, 32, 16


@dataclass
class Request:
    """prompt: token numbers. most: tokens to generate. arrival: the step before which it is not there."""

    prompt: list[int]
    most: int
    arrival: int
    made: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.made)

    @property
    def pages_needed(self) -> int:
        """So that it never has to wait once it runs."""
        return -(-(len(self.prompt) + self.most) // PAGE)


class Model(torch.nn.Module):
    """A decoder like Llama, with random weights. What attends is given: a function of a layer's number, q, k and v, all
    (tokens, heads, head dim), to (tokens, heads, head dim)."""

    def __init__(self) -> None:
        super().__init__()
        wide = (HEADS + 2 * KV_HEADS) * HEAD_DIM
        self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.projections = torch.nn.ModuleList(torch.nn.Linear(WIDTH, wide, bias=False) for _ in range(LAYERS))
        self.outputs = torch.nn.ModuleList(torch.nn.Linear(HEADS * HEAD_DIM, WIDTH, bias=False) for _ in range(LAYERS))
        self.ups = torch.nn.ModuleList(torch.nn.Linear(WIDTH, 4 * WIDTH, bias=False) for _ in range(LAYERS))
        self.downs = torch.nn.ModuleList(torch.nn.Linear(4 * WIDTH, WIDTH, bias=False) for _ in range(LAYERS))

    def forward(self, tokens: Tensor, positions: Tensor, attend, last: Tensor) -> Tensor:
        """The logits of the tokens at places `last`."""
        x = self.embedding(tokens)
        for n in range(LAYERS):
            qkv = self.projections[n](F.rms_norm(x, (WIDTH,))).unflatten(-1, (-1, HEAD_DIM))
            q, k, v = qkv.split([HEADS, KV_HEADS, KV_HEADS], 1)
            x = x + self.outputs[n](attend(n, turned(q, positions), turned(k, positions), v).flatten(1))
            x = x + self.downs[n](F.silu(self.ups[n](F.rms_norm(x, (WIDTH,)))))
        return F.rms_norm(x[last], (WIDTH,)) @ self.embedding.weight.T


def turned(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions."""
    half = HEAD_DIM // 2
    angles = positions[:, None, None] * 10000.0 ** (-torch.arange(half, device=x.device) / half)
    a, b = x.float().split(half, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1).to(x.dtype)


class Engine:
    """Runs requests as they come. pages: how many the cache has."""

    def __init__(self, model: Model, pages: int) -> None:
        self.model, (weight, *_) = model, model.parameters()
        self.device = weight.device
        shape = (LAYERS, pages, PAGE, KV_HEADS, HEAD_DIM)
        self.keys, self.values = (torch.empty(shape, dtype=weight.dtype, device=self.device) for _ in range(2))
        self.free = list(range(pages))
        self.running: list[Request] = []

    def admit(self, waiting: list[Request], step: int) -> None:
        """Begin with those that are there, first come, first served, while there are pages."""
        while waiting and waiting[0].arrival <= step and waiting[0].pages_needed <= len(self.free):
            request = waiting.pop(0)
            request.pages = [self.free.pop() for _ in range(request.pages_needed)]
            self.running.append(request)

    def step(self) -> tuple[int, int]:
        """One token for each that runs. Returns how many prompts were read, and how many tokens in all."""
        new = [r.prompt if not r.made else r.made[-1:] for r in self.running]
        counts = [len(tokens) for tokens in new]
        cu_seq_q = self.integers([0, *accumulate(counts)])
        lengths = self.integers([r.length for r in self.running])
        widest = max(len(r.pages) for r in self.running)
        table = self.integers([r.pages + [-1] * (widest - len(r.pages)) for r in self.running])
        # Where each token stands in its sequence, and where its key lies in the cache.
        positions = torch.cat([torch.arange(r.length - n, r.length) for r, n in zip(self.running, counts, strict=True)])
        positions = positions.to(self.device)
        sequence = torch.repeat_interleave(self.integers(range(len(counts))), self.integers(counts))
        places = table[sequence, positions // PAGE] * PAGE + positions % PAGE

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys.flatten(0, 1)[places], values.flatten(0, 1)[places] = k, v
            return eintune.paged_attention(q, keys, values, table, lengths, cu_seq_q=cu_seq_q, causal=True)

        tokens = self.integers([token for part in new for token in part])
        logits = self.model(tokens, positions, attend, cu_seq_q[1:] - 1)
        prompts = sum(not r.made for r in self.running)
        for request, token in zip(self.running, logits.argmax(-1).tolist(), strict=True):
            request.made.append(token)
        for request in [r for r in self.running if len(r.made) == r.most]:
            self.running.remove(request)
            self.free += request.pages
        return prompts, len(tokens)

    def integers(self, numbers) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.int32, device=self.device)


def alone(model: Model, request: Request) -> list[int]:
    """What a request comes to by itself, each token from all that are before it."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)

    tokens = torch.tensor(request.prompt, device=next(model.parameters()).device)
    for _ in range(request.most):
        positions = torch.arange(len(tokens), device=tokens.device)
        logits = model(tokens, positions, attend, positions[-1:])
        tokens = torch.cat([tokens, logits.argmax(-1)])
    return tokens[len(request.prompt) :].tolist()


@torch.inference_mode()
def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--requests", type=int, default=12)
    options.add_argument("--pages", type=int, default=48, help=f"of the cache, of {PAGE} keys each")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--check", action="store_true", help="compare with each request generated alone")
    given = options.parse_args()

    torch.manual_seed(given.seed)
    model = Model().to(given.device)
    random = torch.Generator().manual_seed(given.seed)

    def drawn(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=random))

    requests = [
        Request([drawn(0, VOCABULARY) for _ in range(drawn(1, 90))], drawn(2, 24), n) for n in range(given.requests)
    ]
    if max(r.pages_needed for r in requests) > given.pages:
        options.error(f"--pages must be at least {max(r.pages_needed for r in requests)}, but got {given.pages}")
    engine, waiting, step, began = Engine(model, given.pages), list(requests), 0, time.perf_counter()
    while waiting or engine.running:
        engine.admit(waiting, step)
        if engine.running:
            batch = len(engine.running)
            prompts, tokens = engine.step()
            print(f"step {step}: {batch} requests, {prompts} prompts, {tokens} tokens, {len(engine.free)} pages free")
        step += 1
    made = sum(len(r.made) for r in requests)
    print(f"{made} tokens of {len(requests)} requests in {step} steps, {time.perf_counter() - began:.1f} s")
    if given.check:
        wrong = [n for n, r in enumerate(requests) if r.made != alone(model, r)]
        print(f"{len(requests) - len(wrong)} of {len(requests)} requests are what they are alone")
        if wrong:
            raise SystemExit(f"these are not: {wrong}")


if __name__ == "__main__":
    main()
