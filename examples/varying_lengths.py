"""Serve attention at lengths as they come: one call each, a growing cache, and packed into one call.

    python examples/varying_lengths.py --requests 8

Each way is compared with PyTorch's attention. What was not tuned runs by a kernel that is made for any size: the first
call of a kind takes a while, and at other lengths only those for which another schedule is better.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import eintune

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 32


def drawn(*axes: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values; axes: before heads and length, heads are put in."""
    *batch, queries, keys = axes
    shapes = ((HEADS, queries), (KV_HEADS, keys), (KV_HEADS, keys))
    q, k, v = (torch.randn(*batch, *shape, HEAD_DIM, device=device) for shape in shapes)
    return q, k, v


def check(name: str, found: Tensor, expected: Tensor) -> None:
    if not torch.allclose(found, expected, atol=1e-4):
        raise SystemExit(f"{name} is not what PyTorch computes")


def one_by_one(lengths: list[int], device: str) -> list[float]:
    """Prompts of any length. Returns the seconds of each call."""
    took = []
    for n in lengths:
        q, k, v = drawn(1, n, n, device=device)
        began = time.perf_counter()
        o = eintune.attention(q, k, v, causal=True)
        took.append(time.perf_counter() - began)
        check(f"length {n}", o, scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
    return took


def growing(steps: int, device: str) -> list[float]:
    """One query against a cache that is longer by one at each step."""
    took = []
    q, k, v = drawn(1, 1, 64 + steps, device=device)
    for n in range(64, 64 + steps):
        began = time.perf_counter()
        o = eintune.attention(q, k[:, :, :n], v[:, :, :n])
        took.append(time.perf_counter() - began)
        check(f"step {n}", o, scaled_dot_product_attention(q, k[:, :, :n], v[:, :, :n], enable_gqa=True))
    return took


def packed(lengths: list[int], device: str) -> float:
    """All prompts in one call, one after another, without padding. Returns its seconds."""
    parts = [drawn(n, n, device=device) for n in lengths]
    q, k, v = (torch.cat([part[i].transpose(0, 1) for part in parts]) for i in range(3))  # (total, heads, head dim)
    ends = torch.tensor([0, *lengths], device=device).cumsum(0)
    began = time.perf_counter()
    o = eintune.varlen_attention(q, k, v, ends, causal=True)
    took = time.perf_counter() - began
    for first, last, (a, b, c) in zip(ends[:-1], ends[1:], parts, strict=True):
        expected = scaled_dot_product_attention(a[None], b[None], c[None], is_causal=True, enable_gqa=True)[0]
        check("a packed sequence", o[first:last].transpose(0, 1), expected)
    return took


def said(seconds: list[float]) -> str:
    first, *others = seconds
    return f"the first took {first:.2f} s, the others {median(others) * 1e3:.2f} ms in the median"


@torch.inference_mode()
def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--requests", type=int, default=8)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = options.parse_args()

    torch.manual_seed(0)
    lengths = torch.randint(20, 300, (given.requests,)).tolist()
    shown = f"{len(lengths)} prompts of {min(lengths)} to {max(lengths)} tokens"
    print(f"{shown} are right: {said(one_by_one(lengths, given.device))}")
    print(f"16 steps of a growing cache are right: {said(growing(16, given.device))}")
    print(f"{len(lengths)} packed prompts are right: one call, {packed(lengths, given.device):.2f} s")


if __name__ == "__main__":
    main()
