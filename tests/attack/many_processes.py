"""Many processes on one cache: they store, load, look for neighbours, clear, and call; some are forked, some killed.

    python tests/attack/many_processes.py --processes 16 --operations 1000 --seed 0

prints what became of it, as JSON, and ends with 1 where a process saw a record that nobody stored, got a wrong answer,
met an error or did not end, or where the cache is not whole afterwards.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import eintune
from eintune.kernels.serve import attention as runtime
from eintune.kernels.serve import modified_attention as modified
from eintune.kernels.serve.choices import make_kernel
from eintune.kernels.store.cache import Cache, Key, Record, read_entry
from eintune.kernels.store.platform import platform_of
from eintune.kernels.store.portfolio import (
    MeasuredPoint,
    Portfolio,
    PortfolioKernel,
    load_portfolio,
    portfolio_entries,
    portfolio_key,
    read_portfolios,
    store_portfolio,
)
from eintune.space.schedule.space import schedules
from eintune.space.workloads.attention import attention_problem

TIMES = (1e-3, 2e-3, 5e-4)
"""Seconds that portfolios here say."""
FORKS = 3
"""Processes that each started process forks, besides being one itself."""
LENGTHS = (3, 5, 8, 12, 16, 24)
WEIGHTS = {
    "portfolio": 4,
    "portfolios": 8,
    "store": 30,
    "load": 30,
    "neighbours": 8,
    "call": 20,
    "first_call": 8,
    "compiled": 3,
    "clear": 1,
}


class Records:
    """What may be stored: for each of a few keys, the definition under a few schedules."""

    def __init__(self) -> None:
        self.known: dict[Key, list[Record]] = {}
        for n in LENGTHS:
            problem = attention_problem(
                batch=1, heads=1, kv_heads=1, seq=n, kv_seq=n, head_dim=8, value_dim=8, dtype="fp32"
            )
            every = schedules(problem.definition, problem, "torch")[:3]
            made = [
                Record(problem.cascade, s, make_kernel(problem.cascade, problem, s).digest, 1e-3, 1e-3, 1e-3)
                for s in every
            ]
            self.known[Key.of(problem, platform_of("cpu"))] = made

    def holds(self, key: Key, record: Record | None) -> bool:
        """Whether this is nothing, or what somebody may have stored."""
        return record is None or record.digest in {r.digest for r in self.known[key]}


class Worker:
    """One process's operations."""

    def __init__(self, seed: int, records: Records) -> None:
        self.random, self.records, self.cache = random.Random(seed), records, Cache()
        self.generator = torch.Generator().manual_seed(seed)
        self.keys = list(records.known)
        self.text = records.known[self.keys[0]][0].cascade

    def store(self) -> None:
        key = self.random.choice(self.keys)
        self.cache.store(key, self.random.choice(self.records.known[key]))

    def load(self) -> None:
        key = self.random.choice(self.keys)
        found = self.cache.load(key)
        assert self.records.holds(key, found), f"a record that nobody stored: {found}"

    def neighbours(self) -> None:
        for entry in self.cache.neighbours(self.random.choice(self.keys)):
            assert entry.shipped or self.records.holds(entry.key, entry.record), f"nobody stored {entry}"

    def portfolio(self) -> None:
        """Kernels of records, as measured at a few of their sizes."""
        place = portfolio_key(self.keys[0])
        records = [r for key in self.keys for r in self.records.known[key] if r.cascade == self.text]
        kernels = list(dict.fromkeys(PortfolioKernel(r.cascade, r.schedule) for r in self.random.choices(records, k=3)))
        points = [
            MeasuredPoint(key.sizes, {n: self.random.choice(TIMES) for n in range(len(kernels))})
            for key in self.random.sample(self.keys, 2)
        ]
        before = load_portfolio(self.cache, place) or Portfolio(place, (), ())
        store_portfolio(self.cache, before.with_points(kernels, points))

    def portfolios(self) -> None:
        """What is there is what somebody stored."""
        every = {r.schedule for records in self.records.known.values() for r in records}
        for entry in portfolio_entries(self.cache, self.random.choice(self.keys)):
            if not entry.shipped:
                known = entry.record.cascade == self.text and entry.record.schedule in every
                assert known and entry.record.seconds in TIMES, f"nobody stored {entry}"

    def call(self) -> None:
        q = torch.randn(1, 1, self.random.choice(LENGTHS), 8, generator=self.generator)
        want = torch.softmax(q.double() @ q.double().mT / 8**0.5, -1) @ q.double()
        torch.testing.assert_close(eintune.attention(q, q, q).double(), want, rtol=1e-4, atol=1e-4)
        slope = self.random.random()
        made = eintune.attention(q, q, q, score_mod=lambda s, b, h, p, m: s * slope)
        want = torch.softmax(q.double() @ q.double().mT / 8**0.5 * slope, -1) @ q.double()
        torch.testing.assert_close(made.double(), want, rtol=1e-4, atol=1e-4)

    def first_call(self) -> None:
        """As of a process that has just started: the cache is asked again."""
        for table in (runtime._ready, modified._ready, modified._served):
            table.clear()
        self.call()

    def compiled(self) -> None:
        a, b = (torch.randn(4, self.random.randint(1, 5), generator=self.generator) for _ in range(2))
        made = eintune.compile("Zm,n = Ak,m * Bk,n")(a, b)
        torch.testing.assert_close(made, a.mT @ b, rtol=1e-4, atol=1e-4)

    def clear(self) -> None:
        self.cache.clear()

    def run(self, operations: int) -> Counter[str]:
        counts: Counter[str] = Counter()
        for name in self.random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=operations):
            started = time.monotonic()
            getattr(self, name)()
            counts[name] += 1
            counts["slowest, ms"] = max(counts["slowest, ms"], int(1000 * (time.monotonic() - started)))
        return counts


def worked(folder: Path, number: int, seed: int, operations: int, records: Records) -> None:
    """Do the operations, and leave what became of them in a file: a process that was killed leaves none."""
    (folder / f"pid-{number}").write_text(str(os.getpid()))
    try:
        result: dict[str, Any] = dict(Worker(seed + number, records).run(operations))
    except Exception as error:
        result = {"fault": f"{type(error).__name__}: {error}"[:400], "where": traceback.format_exc()[-2000:]}
    result["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    (folder / f"result-{number}").write_text(json.dumps(result))


def mother(folder: Path, first: int, seed: int, operations: int, forks: int) -> None:
    """A process that forks others, once it has made calls itself, and does as they do."""
    records = Records()
    Worker(seed + 10_000 + first, records).call()
    children = []
    for number in range(first + 1, first + 1 + forks):
        child = os.fork()
        if not child:
            worked(folder, number, seed, operations, records)
            sys.exit(0)  # as any process ends: its parent goes on
        children.append(child)
    worked(folder, first, seed, operations, records)
    for child in children:
        os.waitpid(child, 0)


# ---- the whole


def attacked(processes: int, operations: int, kills: int, seed: int, limit: float) -> dict[str, Any]:
    """Start all, kill some, and look at what is left."""
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place) / "results", Path(place) / "cache"
        folder.mkdir()
        env = {**os.environ, "EINTUNE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", __file__, "--operations", str(operations), "--seed", str(seed)]
        command += ["--folder", str(folder)]
        mothers = []
        for first in range(0, processes, FORKS + 1):
            of_this = ["--mother", str(first), "--forks", str(min(FORKS, processes - first - 1))]
            mothers.append(subprocess.Popen([*command, *of_this], env=env))
        killed = _killed(folder, processes, kills, random.Random(seed), mothers, limit)
        codes = [m.wait() for m in mothers]
        return _table(folder, cache, processes, killed, codes)


def _killed(
    folder: Path, processes: int, kills: int, chance: random.Random, mothers: list[Any], limit: float
) -> list[int]:
    """The numbers of the processes that were killed at some moment, none of which started others."""
    end = time.monotonic() + limit
    left = chance.sample([n for n in range(processes) if n % (FORKS + 1)], kills)
    killed = []
    while any(m.poll() is None for m in mothers):
        if time.monotonic() > end:
            for m in mothers:
                m.kill()
            break
        if left and (folder / f"pid-{left[0]}").exists() and chance.random() < 0.2:
            number = left.pop(0)
            if not (folder / f"result-{number}").exists():
                os.kill(int((folder / f"pid-{number}").read_text()), signal.SIGKILL)
                killed.append(number)
        time.sleep(0.05)
    return killed


def _table(folder: Path, cache: Path, processes: int, killed: list[int], codes: list[int]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    faults = [f"a process ended with {code}" for code in codes if code]
    for number in range(processes):
        path = folder / f"result-{number}"
        if not path.exists():
            faults += [] if number in killed else [f"process {number} did not end"]
            continue
        result = json.loads(path.read_text())
        faults += [f"process {number}: {result[n]}" for n in ("fault", "where") if n in result]
        for name, value in result.items():
            if isinstance(value, int):
                counts[name] = max(counts[name], value) if name in ("slowest, ms", "peak MiB") else counts[name] + value
    files = list((cache / "records").glob("*.json"))
    kept = list((cache / "portfolios").glob("*.json"))
    faults += [f"{path.name} is not whole" for path in files if read_entry(path) is None]
    faults += [f"{path.name} is not whole" for path in kept if not read_portfolios(path.parent).get(path)]
    rest = [p for p in cache.rglob("*") if p.is_file() and p.suffix == ".tmp"]
    if len(rest) > len(killed):
        faults.append(f"{len(rest)} temporary files are left by {len(killed)} killed processes")
    return {"processes": processes, "killed": len(killed), **counts, "temporary files": len(rest), "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for all of it")
    parser.add_argument("--mother", type=int)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--forks", type=int, default=FORKS)
    o = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("eintune").setLevel(logging.CRITICAL)
    torch.set_num_threads(1)
    if o.mother is not None:
        mother(o.folder, o.mother, o.seed, o.operations, o.forks)
        return 0
    table = attacked(o.processes, o.operations, o.kills, o.seed, o.limit)
    print(json.dumps(table))
    return 1 if table["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
