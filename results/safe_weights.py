"""What exact weights of enormous scores cost: `python results/safe_weights.py BEFORE.pkl OUT.json`.

The nine cases of the attention suite, each kernel in turns in one process: `before`, the shipped winner as generated
by the last commit before the largest score weighed exactly 1 (01d3eb1; BEFORE.pkl: a list of name, problem, kernel);
`after`, today's shipped winner at the same sizes; `served`, what a program gets, made for any size. Medians of the
ratios of the two kernels of each round, cool (60 ms idle before each turn) and hot (none), by CUDA events.
"""

from __future__ import annotations

import json
import pickle
import platform
import statistics
import sys
import time
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import triton
from any_size import prepared  # the file beside this one

from eintune.host.directories import cache_directory
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.serve.choices import make_kernel
from eintune.kernels.store.cache import SHIPPED, Key, Record, read_entry
from eintune.kernels.store.platform import platform_of
from eintune.search.bench.variants import served
from eintune.space.cascade.problem import Problem

ROUNDS = {"cool": 30, "hot": 40}
LAUNCHES = {"cool": 3, "hot": 10}
IDLE = 0.06


def main() -> None:
    rows = []
    for name, problem, before in pickle.loads(Path(sys.argv[1]).read_bytes()):
        rows.append({"case": name, **measured(problem, before)})
        print(rows[-1], flush=True)
    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    found = {"machine": torch.cuda.get_device_name(), "versions": versions, "command": __doc__, "cases": rows}
    Path(sys.argv[2]).write_text(json.dumps(found, indent=1) + "\n")


def measured(problem: Problem, before: Kernel) -> dict[str, Any]:
    record = shipped(problem)
    after = make_kernel(record.cascade, problem, record.schedule)
    chosen = served(problem, "cuda", cache_directory()).chosen
    assert chosen is not None
    kernels = {"before": before, "after": after, "served": chosen.kernel}
    made = {n: prepared(problem, k) for n, k in kernels.items()}
    calls = {n: call for n, (call, _) in made.items()}
    first = made["before"][1]
    off = {n: max(float((first[t] - o).abs().max()) for t, o in outputs.items()) for n, (_, outputs) in made.items()}
    return {heat: timed(calls, heat) for heat in ROUNDS} | {"largest_difference": off, "served": chosen.detail}


def shipped(problem: Problem) -> Record:
    """The record of a problem that comes with the package."""
    entries = [entry for path in sorted(SHIPPED.glob("*.json")) if (entry := read_entry(path, "shipped"))]
    wanted = Key.of(problem, platform_of("cuda"))
    same = attrgetter("cascade", "sizes", "dtypes", "params")
    (found,) = (entry.record for entry in entries if same(entry.key) == same(wanted))
    return found


def timed(calls: dict[str, Callable[[], None]], heat: str) -> dict[str, Any]:
    """Milliseconds, the median of all rounds, and the median over rounds of each one's ratio to `before`."""
    found: dict[str, list[float]] = {n: [] for n in calls}
    names = list(calls)
    for r in range(ROUNDS[heat]):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            if heat == "cool":
                torch.cuda.synchronize()
                time.sleep(IDLE)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(LAUNCHES[heat]):
                calls[name]()
            end.record()
            end.synchronize()
            found[name].append(start.elapsed_time(end) / LAUNCHES[heat])
    ratios = {n: statistics.median(x / b for x, b in zip(t, found["before"], strict=True)) for n, t in found.items()}
    return {
        "ms": {n: round(statistics.median(t), 5) for n, t in found.items()},
        "ratio": {n: round(r, 4) for n, r in ratios.items() if n != "before"},
    }


if __name__ == "__main__":
    main()
