"""Scores that are all one number, small or large, of which attention is the mean of the values.

`python results/equal_scores.py OUT.json`: the largest error over drawn numbers, of kernels whose loop keeps a running
maximum, on the GPU that is here.
"""

from __future__ import annotations

import json
import logging
import platform
import random
import sys
from pathlib import Path

import torch
import triton

import eintune

CASES = [((1, 4, 1000, 64), 40), ((1, 32, 2048, 128), 20)]


def main() -> None:
    eintune.configure(policy="own")  # what is timed or checked as ours is no library's kernel
    logging.getLogger("eintune").setLevel(logging.ERROR)
    torch.manual_seed(0)
    draw = random.Random(1)
    rows = [
        measured(shape, count, dtype, causal, draw)
        for dtype in (torch.float32, torch.bfloat16)
        for causal in (False, True)
        for shape, count in CASES
    ]
    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    command = "python results/equal_scores.py OUT.json"
    found = {"machine": torch.cuda.get_device_name(), "versions": versions, "command": command, "cases": rows}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")


def measured(
    shape: tuple[int, int, int, int], count: int, dtype: torch.dtype, causal: bool, draw: random.Random
) -> dict[str, object]:
    """The largest error, and at which score."""
    v = torch.randn(shape, device="cuda", dtype=dtype)
    length, dim = shape[2:]
    want = v.double().mean(2, keepdim=True).expand(shape)
    if causal:
        want = v.double().cumsum(2) / torch.arange(1, length + 1, device="cuda").double()[:, None]
    errors = []
    for _ in range(count):
        q, k = torch.zeros_like(v), torch.zeros_like(v)
        q[..., 0] = draw.uniform(1, 2) * 2.0 ** draw.randint(0, 13)
        k[..., 0] = draw.uniform(1, 2) * 2.0 ** draw.randint(0, 13) * draw.choice([1, -1])
        score = float(q[0, 0, 0, 0]) * float(k[0, 0, 0, 0]) * dim**-0.5
        off = (eintune.attention(q, k, v, causal=causal).double() - want).abs().max()
        errors.append((float(off.nan_to_num(9.0)), score))
    worst, score = max(errors)
    return {"shape": shape, "dtype": str(dtype)[6:], "causal": causal, "largest_error": worst, "at_score": score}


if __name__ == "__main__":
    main()
