"""A decoder's life on a GPU after `eintune warm`: `python results/decoder_life.py OUT.json`.

2,000 steps of one query over keys that grow by one, 32 heads with 8 of keys, the batch another every 100 steps: how
many kernels were compiled, what a call took beyond its kernel (the call with a synchronisation, less the same call
again, which finds everything ready), and the memory of the host.
"""

from __future__ import annotations

import json
import logging
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
import triton

import eintune
from eintune.kernels.launch.compiled_cache import compiled_folder

STEPS, FIRST, EVERY = 2000, 1000, 100
BATCHES = (1, 4, 16, 2, 8)
HEADS, KEY_HEADS, DIM = 32, 8, 128


def main() -> None:
    eintune.configure(policy="own")  # what is timed or checked as ours is no library's kernel
    logging.getLogger("eintune").setLevel(logging.ERROR)
    warmed = eintune.warm()
    folder = compiled_folder()
    before = _count(folder)
    shape = (max(BATCHES), KEY_HEADS, FIRST + STEPS, DIM)
    keys, values = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    queries = torch.randn(max(BATCHES), HEADS, 1, DIM, device="cuda", dtype=torch.bfloat16)
    beyond, memory, ready, wrong = [], [], [], 0.0
    for step in range(STEPS):
        b, m = BATCHES[step // EVERY % len(BATCHES)], FIRST + step
        q, k, v = queries[:b], keys[:b, :, :m].contiguous(), values[:b, :, :m].contiguous()
        first, o = _seconds(q, k, v)
        again, _ = _seconds(q, k, v)
        beyond.append(first - again)
        ready.append(again)
        if step % EVERY == EVERY - 1:
            exact = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), enable_gqa=True)
            wrong = max(wrong, float((o.float() - exact).abs().max()))
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    ordered, slowest = sorted(beyond), sorted(range(STEPS), key=lambda i: -beyond[i])[:12]
    found = {
        "machine": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()},
        "command": "python results/decoder_life.py OUT.json",
        "warmed": {"kernels": warmed.compiled, "seconds": round(warmed.seconds, 2), "failed": list(warmed.failed)},
        "steps": STEPS,
        "compiled_during_the_steps": _count(folder) - before,
        "ms_beyond_the_kernel": {
            "first_call": round(beyond[0] * 1e3, 3),
            "median": round(statistics.median(beyond) * 1e3, 3),
            "99%": round(ordered[int(0.99 * STEPS)] * 1e3, 3),
            "longest_after_the_first": round(max(beyond[1:]) * 1e3, 3),
            "over_1_ms": sum(s > 1e-3 for s in beyond[1:]),
            "the_longest": [(i, round(beyond[i] * 1e3, 2)) for i in slowest],
        },
        "ms_of_a_call_that_is_ready": round(statistics.median(ready) * 1e3, 3),
        "largest_error": wrong,
        "host_memory_mib_every_100_steps": [n // 1024 for n in memory],
    }
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _seconds(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[float, torch.Tensor]:
    torch.cuda.synchronize()
    started = time.perf_counter()
    o = eintune.attention(q, k, v)
    torch.cuda.synchronize()
    return time.perf_counter() - started, o


def _count(folder: Path | None) -> int:
    return 0 if folder is None else sum(1 for _ in folder.rglob("*.cubin"))


if __name__ == "__main__":
    main()
