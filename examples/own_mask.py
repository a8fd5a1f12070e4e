"""A mask and a score of your own: what looks back in strides, with a bias by distance that is clipped.

    python examples/own_mask.py --length 256

A query sees the 32 keys before it, and of those before that every 16th; the scores get a bias from a table over
distances, which ends at 24. Both are functions, and none is ever a matrix in memory. The same functions are given as
FlexAttention's call, and both results are compared with PyTorch's attention under the whole matrix.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention

import eintune

HEADS, HEAD_DIM, NEAR, STRIDE, FARTHEST = 4, 32, 32, 16, 24


def strided(b, h, p, m):
    """What a query sees; the keys of every stride are found by a remainder."""
    return (m <= p) & ((p - m < NEAR) | (m % STRIDE == 0))


def biased(table: Tensor):
    """A score function that reads a table over heads and distances."""

    def score_mod(score, b, h, p, m):
        return score + table[h, (p - m).clamp(min=0, max=FARTHEST)]

    return score_mod


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--length", type=int, default=256)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = options.parse_args()

    torch.manual_seed(0)
    n, device = given.length, given.device
    q, k, v = (torch.randn(2, HEADS, n, HEAD_DIM, device=device) for _ in range(3))
    table = torch.randn(HEADS, FARTHEST + 1, device=device)

    ours = eintune.attention(q, k, v, mask_mod=strided, score_mod=biased(table))
    blocks = create_block_mask(strided, None, None, n, n, device=device)
    theirs = eintune.flex_attention(q, k, v, score_mod=biased(table), block_mask=blocks)

    p, m = torch.arange(n, device=device)[:, None], torch.arange(n, device=device)
    seen = strided(0, 0, p, m)
    bias = table[:, (p - m).clamp(0, FARTHEST)].masked_fill(~seen, -torch.inf)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    for name, found in {"attention": ours, "flex_attention": theirs}.items():
        error = (found - expected).abs().max().item()
        print(f"{name}: off by at most {error:.1e}")
        if error > 1e-4:
            raise SystemExit(f"{name} is not what PyTorch computes")
    print(f"{seen.float().mean():.0%} of all pairs are seen")


if __name__ == "__main__":
    main()
