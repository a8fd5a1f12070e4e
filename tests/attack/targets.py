"""What reads files: for each kind a valid one, what it holds, and a use of whatever is found in its place.

A use returns quietly with a right answer, or raises the one-line error of its kind; everything else is a fault.
"""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eintune.costmodel.machines import probe
from eintune.costmodel.machines.machine import MachineError, load_machine, parse_machine
from eintune.host.data import BadData, from_toml
from eintune.host.files import read_whole
from eintune.kernels.launch.load import load as load_kernel
from eintune.kernels.serve.choices import choices, make_kernel
from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.exchange import BadArchive, contents, packed, take_in
from eintune.kernels.store.kept_forms import FOLDER, Kept, forms_of, keep, kept_path, read_kept
from eintune.kernels.store.peers import PeerTime
from eintune.kernels.store.platform import platform_of
from eintune.kernels.store.portfolio import (
    MeasuredPoint,
    Portfolio,
    PortfolioKernel,
    portfolio_key,
    store_portfolio,
)
from eintune.search.evaluation.recorded_space import SpaceError, load
from eintune.search.measure.measurement import Measurement
from eintune.search.options.command import Usage
from eintune.search.study.samplers import strategy
from eintune.search.study.study import StopRule, Study, Trial
from eintune.search.suites.suite import load_suite
from eintune.search.text.faults import JournalError, RunError
from eintune.search.tune.run import MEASUREMENTS, SUMMARY
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.einsum import CascadeError
from eintune.space.operators.formats import read as read_computation
from eintune.space.schedule.space import default_schedule
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.builtin import logsumexp

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "h200"
CPU = torch.device("cpu")

PEERS = {"sdpa": PeerTime(1e-3, 9e-4, 1.1e-3, "torch 9", 1e-7, 1e-6, 2e-7), "eager": PeerTime(2e-3)}


@dataclass(frozen=True)
class Target:
    """path: of the file. data: what it holds, where it is JSON. use: reads what is there; says: the errors that are its
    one line; pack: from JSON text to the file; craft: makes a file that is wrong in a way of its own."""

    path: Path
    data: Any
    use: Callable[[], object]
    says: tuple[type[Exception], ...] = ()
    pack: Callable[[bytes], bytes] = bytes
    craft: Callable[[random.Random], bytes] | None = None


def record(folder: Path) -> Target:
    """A record in the user's cache, before a shipped one that is right: a call is served, and right."""
    problem = posed(Attention(), {"b": 1, "h": 2, "p": 64, "m": 96, "e": 16, "f": 16}, "fp32", {"scale": 0.25})
    text = forms_of(problem.cascade, folder)[0]
    schedule = default_schedule(Cascade.parse(text), problem, "torch")
    key = Key.of(problem, platform_of(CPU))
    made = Record(text, schedule, make_kernel(text, problem, schedule).digest, 1e-3, 1e-3, 1e-3, peers=PEERS)
    shipped = Cache(folder / "shipped", None)
    shipped.store(key, made)
    path = Cache(folder / "own", None).store(key, made)
    q, k, v = torch.randn(1, 2, 64, 16), torch.randn(1, 2, 96, 16), torch.randn(1, 2, 96, 16)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.25)

    def use() -> None:
        cache = Cache(folder / "own", shipped.records)
        choice = next(choices(problem, CPU, "rows", cache))
        tensors = {"Q": q, "K": k, "V": v, "AV": torch.full_like(want, math.nan)}
        load_kernel(choice.kernel)([tensors[a.name] for a in choice.kernel.arguments])
        torch.testing.assert_close(tensors["AV"], want)
        assert "stored winner" in choice.notice
        assert all(e.record.seconds > 0 for e in cache.entries())

    return Target(path, json.loads(path.read_bytes()), use)


CONDITIONS = ("|m| <= 50", "|m| < 70", "m <= 60", "p < 50", "e <= 12", "m <= p + 90", "h < 9")
FACTORS = ("1.00000000001", "1.5", "0", "scale", "e^(0.0000000001)")


def wrong(text: str, draw: random.Random) -> str:
    """A form with something changed that a cascade may hold."""
    lines = text.splitlines()
    at = draw.randrange(len(lines) - 1)
    left, _, right = lines[at].partition(" = ")
    match draw.randrange(5):
        case 0:
            right = f"where({draw.choice(CONDITIONS)}, {right}, {draw.choice(('0.001', '0', '1', '-inf'))})"
        case 1:
            right = f"({right}) * {draw.choice(FACTORS)}"
        case 2:
            right = f"{right} {draw.choice('+-')} 0.0000000000{draw.randrange(1, 10)}"
        case 3:
            one, two = draw.sample(("Q", "K", "V", "scale", "max", "min", "/", "*", "m", "p", "e", "f"), 2)
            right = right.replace(one, two)
        case _:
            right = right.replace("m max", "m min").replace("e^", "log")
    return "\n".join([*lines[:at], f"{left} = {right}", *lines[at + 1 :]])


def cascade(folder: Path) -> Target:
    """A record whose cascade is a wrong one, with its own right digest."""
    base = record(folder)
    problem = posed(Attention(), {"b": 1, "h": 2, "p": 64, "m": 96, "e": 16, "f": 16}, "fp32", {"scale": 0.25})
    forms = forms_of(problem.cascade, folder)

    def craft(draw: random.Random) -> bytes:
        for _ in range(50):
            try:
                made = Cascade.parse(wrong(draw.choice(forms), draw))
                schedule = default_schedule(made, problem, "torch")
                digest = make_kernel(str(made), problem, schedule).digest
            except (ValueError, KeyError, IndexError, NotImplementedError):
                continue
            fields = {"cascade": str(made), "schedule": schedule.to_json(), "digest": digest}
            return json.dumps({**base.data, "record": {**base.data["record"], **fields}}).encode()
        raise AssertionError("no wrong cascade has a kernel")

    return Target(base.path, base.data, base.use, craft=craft)


def portfolio(folder: Path) -> Target:
    """A user's portfolio: a call at sizes that nothing is stored for is right, whatever serves it."""
    problem = posed(Attention(), {"b": 1, "h": 2, "p": 64, "m": 96, "e": 16, "f": 16}, "fp32", {"scale": 0.25})
    text = forms_of(problem.cascade, folder)[0]
    schedule = default_schedule(Cascade.parse(text), problem, "torch")
    key = Key.of(problem, platform_of(CPU))
    found = Portfolio(
        portfolio_key(key), (PortfolioKernel(text, schedule),), (MeasuredPoint(key.sizes, {0: 1e-3}, PEERS),)
    )
    path = store_portfolio(Cache(folder / "own", None), found)
    q, k, v = torch.randn(1, 2, 70, 16), torch.randn(1, 2, 90, 16), torch.randn(1, 2, 90, 16)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.25)
    there = posed(Attention(), {"b": 1, "h": 2, "p": 70, "m": 90, "e": 16, "f": 16}, "fp32", {"scale": 0.25})

    def use() -> None:
        choice = next(choices(there, CPU, "rows", Cache(folder / "own", None)))
        tensors = {"Q": q, "K": k, "V": v, "AV": torch.full_like(want, math.nan)}
        load_kernel(choice.kernel)([tensors[a.name] for a in choice.kernel.arguments])
        torch.testing.assert_close(tensors["AV"], want)

    return Target(path, json.loads(path.read_bytes()), use)


def portfolio_cascade(folder: Path) -> Target:
    """A portfolio with a form that is a wrong one, and faster than anything."""
    base = portfolio(folder)
    text = base.data["kernels"][0]["cascade"]

    def craft(draw: random.Random) -> bytes:
        kernels = [{**base.data["kernels"][0], "cascade": wrong(text, draw)}]
        points = [{**base.data["points"][0], "seconds": {"0": 1e-12}}]
        return json.dumps({**base.data, "kernels": kernels, "points": points}).encode()

    return Target(base.path, base.data, base.use, craft=craft)


def exported(folder: Path) -> Target:
    """An exported cache: each thing that comes in is what went out, or a line."""
    record(folder)
    portfolio(folder)
    own = folder / "own"
    before = contents(own).held
    path = folder / "mine.zip"
    path.write_bytes(packed(before))
    went_out = {h.path: h.raw for h in before}

    def use() -> None:
        into = Cache(folder / "other", None)
        into.clear()
        found = contents(path)
        assert all("\n" not in line for line in found.refused)
        taken = take_in(into, found.held)
        assert len(taken.written) + len(taken.kept) == len(found.held) and not taken.refused
        assert all(went_out[h.path] == h.raw for h in found.held)

    def craft(draw: random.Random) -> bytes:
        raw = bytearray(packed(before))
        for _ in range(draw.choice((1, 4, 40))):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        return bytes(raw[: draw.choice((len(raw), draw.randrange(len(raw))))])

    return Target(path, None, use, (BadArchive, OSError), craft=craft)


def derived(folder: Path) -> Target:
    """Kept forms: those that were kept, or none."""
    text, forms = str(logsumexp()), Kept(("Lp = log(SDp)", "Lp = Xp"), True)
    keep(folder / FOLDER, text, forms)
    path = kept_path(folder / FOLDER, text)

    def use() -> None:
        assert read_kept(folder / FOLDER, text) in (None, forms)

    return Target(path, json.loads(path.read_bytes()), use)


def machine(folder: Path) -> Target:
    """A probed machine: what is used of it prices."""
    measured = {
        "cores": 4, "tensor_flops": {"fp32": 1e11, "bf16": 1e11}, "fma_flops": 1e11, "hbm_bytes_per_second": 1e10,
        "l2_bytes_per_second": 9e10, "l2_bytes": 2**20, "special_per_clock": 4.0, "operator_seconds": 1e-6,
        "title": "A CPU",
    }  # fmt: skip
    path = folder / "machine.json"
    probe._store(path, {"version": probe.PROBE_VERSION, "key": "cpu", "measured": measured})

    def use() -> None:
        found = probe._load(path, "cpu")
        made = load_machine("cpu").with_measured(found or {})
        rates = (made.special_rate, made.fma_flops, made.hbm_bytes_per_second, *dict(made.tensor_flops).values())
        assert all(0 < rate < math.inf for rate in rates) and made.title.isprintable()

    return Target(path, json.loads(path.read_bytes()), use)


def description(folder: Path) -> Target:
    """A machine's TOML."""
    path = folder / "h200.toml"
    path.write_bytes((ROOT / "costmodel" / "machines" / "h200.toml").read_bytes())

    def use() -> None:
        made = parse_machine("h200", from_toml(read_whole(path, 2**20), dict[str, Any]))
        assert 0 < made.special_rate < math.inf

    return Target(path, None, use, (MachineError, BadData, OSError))


def space(folder: Path) -> Target:
    """A recorded space."""
    path = folder / "space.json.gz"
    data = json.loads(gzip.decompress((RESULTS / "spaces" / "b4-h16-s512-d64.json.gz").read_bytes()))
    data["entries"] = data["entries"][:12]
    path.write_bytes(gzip.compress(json.dumps(data).encode()))

    def use() -> None:
        found = load(path)
        assert len(found.works()) == len(found.entries)

    return Target(path, data, use, (SpaceError, OSError), gzip.compress)


@dataclass(frozen=True)
class Point:
    key: str
    group: str
    knobs: dict[str, str]
    shape: str = ""


POINTS = [Point(f"{a}-{b}", a, {"a": a, "b": b}) for a in "xyz" for b in "uvw"]


def _study(path: Path) -> Study[Point]:
    return Study(POINTS, journal=path, name="made-up", strategy=strategy("mixed"))


def _measured(points: Any) -> list[Measurement]:
    return [Measurement(p.key, "ok", 1e-3 + ord(p.key[0]) * 1e-6, 1e-3, 1.2e-3) for p in points]


def _refit(trials: Any) -> Callable[[Point], float]:
    return lambda p: 1e-3


def journal(folder: Path) -> Target:
    """A study's journal, with six of nine points measured: it goes on."""
    path = folder / "journal.jsonl"
    _study(path).run(_measured, _refit, StopRule(trials=6, batch=3, until_sure=False))
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    def pack(text: bytes) -> bytes:
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return b"".join(json.dumps(line).encode() + b"\n" for line in data) if isinstance(data, list) else text

    def use() -> None:
        study = _study(path)
        outcome = study.run(_measured, _refit, StopRule(trials=9, batch=3, until_sure=False))
        assert all(isinstance(t, Trial) and t.measurement.message.isprintable() for t in outcome.trials)

    return Target(path, lines, use, (JournalError,), pack)


def results(name: str) -> Callable[[Path], Target]:
    """One of the files of a results folder: read, put into words and into a page."""

    def make(folder: Path) -> Target:
        from eintune.search.report import report
        from eintune.search.report.summary import paragraph
        from eintune.search.tune.replay import recorded
        from eintune.search.tune.run_files import read_run

        source = RESULTS / "attention-b1-h32-s2048-d128-bf16"
        for file in (SUMMARY, MEASUREMENTS):
            (folder / file).write_bytes((source / file).read_bytes())

        def use() -> None:
            run = read_run(folder)
            frame = report.frame_of(run)
            page = report.html(run, frame, {})
            assert "\x1b" not in page and "\x1b" not in paragraph(run, frame)
            recorded(run)

        path = folder / name
        data = json.loads(path.read_bytes()) if name == SUMMARY else None
        return Target(path, data, use, (RunError,))

    return make


def pictures(folder: Path) -> Target:
    """The same with its pictures, which take a second."""
    from eintune.search.report import report
    from eintune.search.tune.run_files import read_run

    made = results(SUMMARY)(folder)
    return Target(made.path, made.data, lambda: report.write_report(read_run(folder), folder / "out"), made.says)


def suite(folder: Path) -> Target:
    """A suite that a user states."""
    path = folder / "mine.toml"
    path.write_bytes((ROOT / "search" / "suites" / "attention.toml").read_bytes())
    return Target(path, None, lambda: load_suite(str(path)), (Usage, OSError))


def suite_result(folder: Path) -> Target:
    """What an interrupted benchmark left."""
    from eintune.search.suites.files import read
    from eintune.search.suites.text import comparison, means

    path = folder / "benchmark_chains.json"
    path.write_bytes((RESULTS / "benchmark_chains.json").read_bytes())

    def use() -> None:
        found = read(folder, load_suite("chains"))
        if found is not None:
            table = comparison(found)
            means(table)
            found.frame.to_csv()

    return Target(path, json.loads(path.read_bytes()), use, (Usage,))


def graph(folder: Path) -> Target:
    """A serialised e-graph."""
    nodes = {
        "q": {"op": "Input", "children": ["s"], "eclass": "q", "cost": 1.0},
        "s": {"op": '"Q"', "children": [], "eclass": "s", "cost": 0.0},
        "m": {"op": "M_exp_m", "children": ["q"], "eclass": "m", "cost": 1.0, "subsumed": False},
        "r": {"op": "R_add_m", "children": ["m"], "eclass": "r", "cost": 1.0},
    }
    data = {"nodes": nodes, "root_eclasses": ["r"], "class_data": {"r": {"let": "$Z", "type": "Op"}}}
    path = folder / "graph.json"
    path.write_text(json.dumps(data))
    return Target(path, data, lambda: read_computation(path), (CascadeError, OSError))


TARGETS: dict[str, tuple[Callable[[Path], Target], int]] = {
    "record": (record, 800),
    "record's cascade": (cascade, 300),
    "portfolio": (portfolio, 300),
    "portfolio's cascade": (portfolio_cascade, 100),
    "journal": (journal, 300),
    "recorded space": (space, 300),
    "summary": (results(SUMMARY), 300),
    "measurements": (results(MEASUREMENTS), 200),
    "pictures": (pictures, 60),
    "probed machine": (machine, 300),
    "machine's description": (description, 150),
    "derived forms": (derived, 300),
    "exported cache": (exported, 400),
    "suite": (suite, 100),
    "suite's result": (suite_result, 150),
    "graph": (graph, 200),
}
"""By kind: what makes the target, and how many files the whole run puts in its place."""
