"""Attention's backward beside its peers, interleaved: `python results/backward.py OUT.json [SECONDS] [CASE …]`.

All cases are tuned first, four at a time (`tune --backward`, SECONDS for each kernel). Then the backward alone, as a
CUDA graph of `torch.autograd.grad` (FlashAttention-4's as calls, queued eight at a time), cool (a pause after each
round) and hot (none), medians of rounds; the forward likewise; whether 100 repeats are the same bits beside a second
stream's load; and the largest difference from a float32 backward. Peers: PyTorch's cuDNN and flash kernels,
FlashAttention-4 with and without `deterministic`, FlexAttention's two backends; what is not installed, or refuses a
case, says so. Each case is measured in a process of its own; one that a peer ends is measured again without
FlashAttention-4, then without FlexAttention's backend by it.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import eintune

ROUNDS = 12
REPEATS = 100
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One shape: batch, query heads, key heads, length, head dim; options of `eintune.attention`."""

    batch: int
    heads: int
    kv_heads: int
    length: int
    dim: int
    options: dict[str, Any] = field(default_factory=dict)

    def command(self, seconds: str) -> list[str]:
        flags = [f"--{n}" if x is True else f"--{n}={x}" for n, x in self.options.items()]
        sizes = {"batch": self.batch, "heads": self.heads, "kv-heads": self.kv_heads, "seq": self.length}
        numbers = [x for n, v in (sizes | {"head-dim": self.dim}).items() for x in (f"--{n}", str(v))]
        effort = ["--backward", "--wrt", "Q,K,V", "--no-peers", "--budget", seconds]
        return [sys.executable, "-m", "eintune", "tune", *numbers, *flags, *effort]


CASES = {
    "full": Case(4, 32, 32, 2048, 128),
    "causal": Case(4, 32, 32, 2048, 128, {"causal": True}),
    "full-d64": Case(4, 32, 32, 2048, 64),
    "causal-d64": Case(4, 32, 32, 2048, 64, {"causal": True}),
    "long": Case(1, 32, 32, 8192, 128, {"causal": True}),
    "grouped": Case(4, 32, 8, 4096, 128, {"causal": True}),
    "window": Case(4, 32, 32, 2048, 128, {"causal": True, "window": 1024}),
    "softcap": Case(4, 32, 32, 2048, 128, {"causal": True, "softcap": 30.0}),
    "alibi": Case(4, 32, 32, 2048, 128, {"causal": True, "alibi": "standard"}),
}


ALONE = "--measure"
"""Measures a case in this process: its name, and the peers to leave out."""


def main() -> None:
    eintune.configure(policy="own")  # what is timed or checked as ours is no library's kernel
    if sys.argv[1] == ALONE:
        print(json.dumps(measured(CASES[sys.argv[2]], without=tuple(sys.argv[3:]))))
        return
    out, seconds, *names = [*sys.argv[1:], *(["12"] if len(sys.argv) < 3 else [])]
    names = names or [*CASES]
    rows: dict[str, Any] = {}

    def tune(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(CASES[name].command(seconds), capture_output=True, text=True)

    with ThreadPoolExecutor(4) as others:
        # the first alone, as it probes the machine for all
        tuned = [tune(names[0]), *others.map(tune, names[1:])]
    for name, done in zip(names, tuned, strict=True):
        rows[name] = {"tuned": done.stdout.splitlines()[-8:]}
        rows[name] |= {"failed": done.stderr[-2000:]} if done.returncode else _apart(name)
        print(name, json.dumps(rows[name]), flush=True)
        versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
        found = {"machine": torch.cuda.get_device_name(), "versions": versions, "command": __doc__, "cases": rows}
        Path(out).write_text(json.dumps(found, indent=1) + "\n")


def _apart(name: str) -> dict[str, Any]:
    """`measured`, in a process of its own."""
    for without in ((), ("fa4", "fa4-deterministic"), ("fa4", "fa4-deterministic", "flex-flash")):
        command = [sys.executable, __file__, ALONE, name, *without]
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.returncode:
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found
    return {"failed": done.stderr[-2000:]}


def measured(case: Case, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Milliseconds of each, and what ours is worth."""
    generator = torch.Generator("cuda").manual_seed(0)

    def drawn(heads: int) -> Tensor:
        shape = (case.batch, heads, case.length, case.dim)
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16).requires_grad_()

    q, k, v = drawn(case.heads), drawn(case.kv_heads), drawn(case.kv_heads)
    cotangent = torch.randn_like(q)
    graphs: dict[str, Callable[[], None]] = {}
    forwards: dict[str, Callable[[], None]] = {}
    gradients: dict[str, tuple[Tensor, ...]] = {}
    refused: dict[str, str] = {}
    for name, attend in attends(case).items():
        if name in without:
            refused[name] = "it ended the process before"
            continue
        recorded = _calls if name.startswith("fa4") else _graph
        try:
            graphs[name], gradients[name] = recorded(lambda attend=attend: _backward(attend, q, k, v, cotangent))
            forwards[name], _ = recorded(lambda attend=attend: _forward(attend, q, k, v))
        except Exception as error:  # a peer that is not here, or not for this case
            refused[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            graphs.pop(name, None)
    if "eintune" not in graphs:
        return {"refused": refused}
    exact = _exact(case, q, k, v, cotangent)
    off = {name: _largest(g, exact) for name, g in gradients.items()}
    return {
        "backward_ms": {heat: interleaved(graphs, pause) for heat, pause in (("cool", 0.1), ("hot", 0.0))},
        "forward_ms": {heat: interleaved(forwards, pause) for heat, pause in (("cool", 0.1), ("hot", 0.0))},
        "largest_difference": off,
        "same_bits": _same_bits(attends(case)["eintune"], q, k, v, cotangent),
        "refused": refused,
    }


def _backward(attend: Attend, q: Tensor, k: Tensor, v: Tensor, cotangent: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    made = attend(q, k, v)
    return lambda: torch.autograd.grad(made, (q, k, v), cotangent, retain_graph=True)


def _forward(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    @torch.no_grad()
    def call() -> tuple[Tensor, ...]:
        return (attend(q, k, v),)

    return call


def _graph(prepare: Callable[[], Callable[[], tuple[Tensor, ...]]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call = prepare()
        for _ in range(3):
            made = call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            made = call()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay, made


def _calls(prepare: Callable[[], Callable[[], tuple[Tensor, ...]]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    call = prepare()
    for _ in range(3):
        made = call()
    torch.cuda.synchronize()

    return lambda: (call(), None)[1], made


def interleaved(calls: dict[str, Callable[[], None]], pause: float) -> dict[str, float]:
    """The median of rounds, in either order, of about 10 ms each."""
    names, found = list(calls), {n: list[float]() for n in calls}
    for r in range(ROUNDS):
        for name in names[:: 1 if r % 2 else -1]:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(8):
                calls[name]()
            end.record()
            end.synchronize()
            found[name].append(start.elapsed_time(end) / 8)
            time.sleep(pause)
    return {n: round(statistics.median(f), 5) for n, f in found.items()}


def attends(case: Case) -> dict[str, Attend]:
    """Ours and the peers, each as it is called."""
    causal, grouped = bool(case.options.get("causal")), case.heads != case.kv_heads
    ours = {n: True if n == "alibi" else x for n, x in case.options.items()}
    found: dict[str, Attend] = {"eintune": lambda q, k, v: eintune.attention(q, k, v, **ours)}

    def pytorchs(backend: SDPBackend) -> Attend:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

        return attend

    if not set(case.options) - {"causal"}:
        found["cudnn"] = pytorchs(SDPBackend.CUDNN_ATTENTION)
        found["sdpa-flash"] = pytorchs(SDPBackend.FLASH_ATTENTION)
    if "alibi" not in case.options:
        found["fa4"] = _flash(case, deterministic=False)
        found["fa4-deterministic"] = _flash(case, deterministic=True)
    for backend in ("TRITON", "FLASH"):
        found[f"flex-{backend.lower()}"] = _flex(case, backend)
    return found


def _flash(case: Case, deterministic: bool) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from flash_attn.cute import flash_attn_func

        window = (case.options["window"] - 1, 0) if "window" in case.options else (None, None)
        made = flash_attn_func(
            *(t.transpose(1, 2) for t in (q, k, v)), causal=bool(case.options.get("causal")), window_size=window,
            softcap=case.options.get("softcap", 0.0), deterministic=deterministic,
        )  # fmt: skip
        return (made[0] if isinstance(made, tuple) else made).transpose(1, 2)

    return attend


def _flex(case: Case, backend: str) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    options, slopes = case.options, 2.0 ** (-8.0 / case.heads * torch.arange(1, case.heads + 1, device="cuda"))

    def seen(b: Any, h: Any, p: Any, m: Any) -> Any:
        return (m <= p) & (p - m < options["window"]) if "window" in options else m <= p

    def score(s: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
        if "softcap" in options:
            return options["softcap"] * torch.tanh(s / options["softcap"])
        return s + slopes[h] * (m - p)

    mask = create_block_mask(seen, None, None, case.length, case.length) if options.get("causal") else None
    changed = score if {"softcap", "alibi"} & set(options) else None
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(
        q, k, v, changed, mask, enable_gqa=case.heads != case.kv_heads, kernel_options={"BACKEND": backend}
    )


def _exact(case: Case, q: Tensor, k: Tensor, v: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    """In float32, of the first batch and key head."""
    group = case.heads // case.kv_heads
    wide = [t[:1, :n].detach().float().requires_grad_() for t, n in ((q, group), (k, 1), (v, 1))]
    score = wide[0] @ wide[1].mT * case.dim**-0.5
    p, m = torch.arange(case.length, device="cuda")[:, None], torch.arange(case.length, device="cuda")
    if "softcap" in case.options:
        score = case.options["softcap"] * torch.tanh(score / case.options["softcap"])
    if "alibi" in case.options:
        score = score + 2.0 ** (-8.0 / case.heads) * (m - p)
    if case.options.get("causal"):
        score = score.masked_fill(m > p, -torch.inf)
    if "window" in case.options:
        score = score.masked_fill(p - m >= case.options["window"], -torch.inf)
    return torch.autograd.grad(torch.softmax(score, -1) @ wide[2], wide, cotangent[:1, :group].float())


def _largest(made: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> list[float]:
    return [
        float((g[:1, : e.shape[1]].float() - e).abs().max() / e.abs().max()) for g, e in zip(made, exact, strict=True)
    ]


def _same_bits(attend: Attend, q: Tensor, k: Tensor, v: Tensor, cotangent: Tensor) -> bool:
    """Beside products on a second stream."""
    call = _backward(attend, q, k, v, cotangent)
    first, other = call(), torch.cuda.Stream()
    load = torch.randn(4096, 4096, device="cuda")
    for _ in range(REPEATS):
        with torch.cuda.stream(other):
            load @ load
        if not all(map(torch.equal, call(), first)):
            return False
    return True


if __name__ == "__main__":
    main()
