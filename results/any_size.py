"""The shipped winners beside the same kernels made for any size, interleaved: `python results/any_size.py OUT.json`.

At the sizes of each record, on a GPU: medians of 15 rounds by CUDA events, whether the results are equal to the bit,
and the largest error at five other sizes, against the definition in float64 (or why they are refused).
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.generate.emitters import emit
from eintune.kernels.launch.load import load
from eintune.kernels.reference.eager import DTYPES, run_eager
from eintune.kernels.store.cache import SHIPPED, Entry, read_entry
from eintune.search.measure.inputs import draw_inputs
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.lowering.lower import build_for_any_size, build_program
from eintune.space.schedule.any_size import for_any_size
from eintune.space.workloads.builtin import SHIPPED as DEFINITIONS

ROUNDS = 15
SECONDS = 0.004
"""That one round of one kernel takes."""
ELSEWHERE = (
    {"p": 77, "m": 77, "b": 2, "h": 3},
    {"p": 1, "m": 1000, "b": 1, "h": 2},
    {"p": 513, "m": 513, "b": 1, "h": 2},
    {"p": 3000, "m": 3000, "b": 1, "h": 1},
    {"p": 129, "m": 130, "b": 3, "h": 1},
)
Call = Callable[[], None]


def main() -> None:
    texts = {hashlib.sha256(str(d).encode()).hexdigest(): str(d) for d in DEFINITIONS.values()}
    rows = []
    for path in sorted(SHIPPED.glob("*.json")):
        entry = read_entry(path, "shipped")
        assert entry is not None, path
        rows.append(measured(entry, texts.get(entry.key.cascade, entry.record.cascade)))
        print(rows[-1], flush=True)
    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    found = {"machine": torch.cuda.get_device_name(), "versions": versions, "command": __doc__, "cases": rows}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")


def measured(entry: Entry, definition: str) -> dict[str, Any]:
    """One record's kernel, as it is and for any size."""
    key, record = entry.key, entry.record
    problem = Problem(key.workload, definition, dict(key.sizes), dict(key.dtypes), dict(key.params))
    cascade, schedule = Cascade.parse(record.cascade), for_any_size(record.schedule)
    exact = emit(build_program(cascade, problem, record.schedule), record.schedule)
    made = emit(build_for_any_size(cascade, problem, schedule), schedule)
    (one, first), (other, second) = (prepared(problem, k) for k in (exact, made.at(problem.sizes)))
    ms = interleaved([one, other])
    return {
        "record": entry.path.stem,
        "sizes": dict(key.sizes),
        "warps": record.schedule.warp_specialisation,
        "exact_ms": round(ms[0], 5),
        "any_size_ms": round(ms[1], 5),
        "ratio": round(ms[1] / ms[0], 4),
        "equal": all(torch.equal(first[n], second[n]) for n in first),
        "elsewhere": {str(sizes): error_at(problem, made, sizes) for sizes in ELSEWHERE},
    }


def prepared(problem: Problem, kernel: Kernel) -> tuple[Call, dict[str, torch.Tensor]]:
    """A call on random inputs, run once, and its outputs."""
    made = {
        a.name: torch.full(a.shape, torch.nan, dtype=DTYPES[a.dtype], device="cuda")
        for a in kernel.arguments
        if a.output
    }
    given = draw_inputs(problem, "cuda", 0) | made
    tensors = [given[a.name] for a in kernel.arguments]
    launch = load(kernel)
    launch(tensors)
    torch.cuda.synchronize()
    call = launch.bound(tensors)
    return lambda: call(tensors), made


def interleaved(calls: list[Call]) -> list[float]:
    """Milliseconds of each, the median of rounds in either order."""
    counts = []
    for call in calls:
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        counts.append(max(3, int(SECONDS / (time.perf_counter() - start))))
    found: list[list[float]] = [[] for _ in calls]
    for r in range(ROUNDS):
        for i in range(len(calls))[:: 1 if r % 2 else -1]:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(counts[i]):
                calls[i]()
            end.record()
            end.synchronize()
            found[i].append(start.elapsed_time(end) / counts[i])
        time.sleep(0.02)
    return [statistics.median(f) for f in found]


def error_at(problem: Problem, kernel: Kernel, sizes: dict[str, int]) -> float | str:
    """The largest error at other sizes of the ranks that the kernel leaves open; why not, where it refuses them."""
    free = {r for a in kernel.arguments for r in a.axes}
    here = problem.sizes | {r: n for r, n in sizes.items() if r in free}
    other = Problem(problem.workload, problem.cascade, here, problem.dtypes, problem.params)
    try:
        _, made = prepared(other, kernel.at(here))
    except ValueError as error:
        return str(error)
    exact = draw_inputs(other, "cuda", 0)
    exact = {n: t.double() if t.is_floating_point() else t for n, t in exact.items()}
    results = run_eager(other.definition, exact, here, other.params, torch.float64)
    return max(float((t.double() - results[n]).abs().max()) for n, t in made.items())


if __name__ == "__main__":
    main()
