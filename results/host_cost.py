"""What an eager call costs the host, beside PyTorch's: `python results/host_cost.py OUT.json`.

Calls one after the other, of kernels that take the GPU less time than the host takes to launch them; the quickest of
many rounds, in microseconds a call. `ready` is `eintune.warm` first: what the first call of a process and the first
at another length take then, in milliseconds, waiting included.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch.nn.functional import scaled_dot_product_attention

import eintune

CALLS, ROUNDS = 200, 50
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((1, 8, 512, 64), (1, 8, 512, 64), {}),
    "causal": ((1, 8, 512, 64), (1, 8, 512, 64), {"causal": True}),
    "grouped": ((1, 8, 512, 128), (1, 2, 512, 128), {}),
    "decode": ((1, 32, 1, 128), (1, 8, 1024, 128), {}),
    "window": ((1, 8, 512, 128), (1, 8, 512, 128), {"causal": True, "window": 128}),
}


def main() -> None:
    eintune.configure(policy="own")  # what is timed or checked as ours is no library's kernel
    logging.getLogger("eintune").setLevel(logging.ERROR)
    warmed = eintune.warm("attention")
    first: dict[str, float] = {}
    us: dict[str, dict[str, float]] = {}
    for name, (of_q, of_k, given) in CASES.items():
        q, k, v = (torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in (of_q, of_k, of_k))
        first[name] = _once(lambda q=q, k=k, v=v, given=given: eintune.attention(q, k, v, **given))
        longer = [torch.cat([t, t[:, :, :1]], 2).contiguous() for t in (k, v)]
        query = q if of_q[2] == 1 else torch.cat([q, q[:, :, :1]], 2).contiguous()
        first[f"{name}, another length"] = _once(
            lambda q=query, k=longer[0], v=longer[1], given=given: eintune.attention(q, k, v, **given)
        )
        peer = {"is_causal": "causal" in given, "enable_gqa": of_q[1] != of_k[1]}
        us[name] = {
            "eintune": _each(lambda q=q, k=k, v=v, given=given: eintune.attention(q, k, v, **given)),
            "sdpa": _each(lambda q=q, k=k, v=v, peer=peer: scaled_dot_product_attention(q, k, v, **peer)),
        }
    found = {
        "machine": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()},
        "command": "python results/host_cost.py OUT.json",
        "warmed": {"kernels": warmed.compiled, "loaded": warmed.loaded, "seconds": round(warmed.seconds, 2)},
        "us_a_call": us,
        "ms_of_a_first_call": first,
    }
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _each(call: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, (time.perf_counter() - started) / CALLS)
    return round(best * 1e6, 2)


def _once(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return round((time.perf_counter() - started) * 1e3, 3)


if __name__ == "__main__":
    main()
