"""Train a small model whose attention has slopes that are learnt, and a mask of its own.

    python examples/training.py --steps 60

The task: each token is to be the one that stood three places before it, which attention finds by learning how far to
look back. The gradients of queries, keys, values, of a slope for each head and of a table over distances are derived
from the definition of what is computed; those of the first step are compared with PyTorch's.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

import eintune

WORDS, WIDTH, HEADS, LENGTH, BATCH, BACK = 16, 32, 4, 48, 16, 3


class Model(torch.nn.Module):
    """One layer of attention between an embedding and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(WORDS, WIDTH)
        self.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.out = torch.nn.Linear(WIDTH, WORDS)
        self.slopes = torch.nn.Parameter(torch.zeros(HEADS))
        self.near = torch.nn.Parameter(torch.zeros(HEADS, 9))

    def forward(self, words: Tensor, attend) -> Tensor:
        x = self.embedding(words)
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, self.slopes, self.near).transpose(1, 2).flatten(2))


def ours(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, near: Tensor) -> Tensor:
    def score_mod(score, b, h, p, m):
        return score + slopes[h] * (m - p) + near[h, (p - m).clamp(min=0, max=8)]

    return eintune.attention(q, k, v, causal=True, score_mod=score_mod)


def pytorchs(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, near: Tensor) -> Tensor:
    """The same with its matrices in memory."""
    distance = torch.arange(LENGTH, device=q.device)[:, None] - torch.arange(LENGTH, device=q.device)
    bias = near[:, distance.clamp(0, 8)] - slopes[:, None, None] * distance
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(distance < 0, -torch.inf)[None])


def loss_of(model: Model, words: Tensor, attend) -> Tensor:
    return F.cross_entropy(model(words, attend)[:, BACK:].flatten(0, 1), words[:, :-BACK].flatten())


def check_gradients(model: Model, words: Tensor) -> None:
    parameters = dict(model.named_parameters())
    a, b = (torch.autograd.grad(loss_of(model, words, f), [*parameters.values()]) for f in (ours, pytorchs))
    for name, x, y in zip(parameters, a, b, strict=True):
        if not torch.allclose(x, y, atol=1e-5):
            raise SystemExit(f"the gradient of {name} is not PyTorch's")
    print(f"the gradients of {len(parameters)} parameters are PyTorch's")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = options.parse_args()

    torch.manual_seed(0)
    model = Model().to(given.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    first = last = 0.0
    for step in range(given.steps):
        words = torch.randint(WORDS, (BATCH, LENGTH), device=given.device)
        if step == 0:
            check_gradients(model, words)
        loss = loss_of(model, words, ours)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = first or loss.item(), loss.item()
    print(f"loss {first:.2f} at first, {last:.4f} after {given.steps} steps")
    if last > first / 2:
        raise SystemExit("nothing was learnt")


if __name__ == "__main__":
    main()
