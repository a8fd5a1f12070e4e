"""Running a suite: case after case, each kept as soon as it is there; one that fails is a result, never the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from eintune.costmodel.machines.machine import Machine
from eintune.host.notices import one_line
from eintune.search.bench.case import WINNER, Case, Found, Options, Row, State, measure_case
from eintune.search.measure.measurement import Measurement
from eintune.search.peers.copy_ceiling import copy_peer, least_bytes
from eintune.search.peers.peers import missing_peers, peers_of
from eintune.search.text.progress import Progress
from eintune.search.text.standing import Standing

from .suite import Stated, Suite


@dataclass(frozen=True)
class CaseResult:
    """One case as kept. rows: plain data, see `lines`. missing: peers that cannot run here at all, and why. clocks:
    MHz by state. seconds: wall time of all of it."""

    name: str
    title: str
    text: str
    rows: tuple[Mapping[str, Any], ...]
    missing: Mapping[str, str]
    note: str
    clocks: Mapping[State, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class SuiteResult:
    """A suite so far. machine: as `tune.describe` has it. settings: everything that must agree for cases of two runs
    to stand in one table."""

    suite: Suite
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    command: str
    started: str
    cases: tuple[CaseResult, ...] = ()
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a variant, case and state."""
        return pd.DataFrame([row for case in self.cases for row in case.rows])

    def agrees(self, other: SuiteResult) -> bool:
        """Whether the other's cases may stand in this table."""
        mine, theirs = ((r.machine["name"], dict(r.versions), dict(r.settings)) for r in (self, other))
        return mine == theirs

    @property
    def wrong(self) -> bool:
        """Whether one of our own kernels failed, or had no kernel at all."""
        return any(row["by"] == "eintune" and row["status"] != "ok" for case in self.cases for row in case.rows)


Keep = Callable[[SuiteResult], None]
OnCase = Callable[[Stated, Sequence[Row]], None]


def run_suite(
    cases: Sequence[Stated],
    begun: SuiteResult,
    options: Options,
    machine: Machine,
    device: str,
    cache: Path,
    *,
    progress: Progress,
    limit: float = math.inf,
    keep: Keep = lambda result: None,
    on_case: OnCase = lambda case, rows: None,
) -> SuiteResult:
    """Measure the cases that `begun` lacks; `keep` gets the result after each. limit: seconds after which no new case
    starts."""
    result, started = begun, time.monotonic()
    done = {case.name for case in begun.cases}
    for number, case in enumerate(cases, 1):
        if case.name in done:
            progress.say(f"{case.name}: kept from an earlier run")
            continue
        if time.monotonic() - started > limit:
            progress.say(f"{limit:g} s are over: {len(cases) - number + 1} cases are left (--resume goes on)")
            break
        progress.standing = Standing(number - 1, len(cases), "cases done")
        progress.say(f"case {number} of {len(cases)}: {case.title}")
        made = _measure(case, result.suite, options, machine, device, cache, progress, on_case)
        result = replace(result, cases=(*result.cases, made), stages=dict(progress.stages))
        keep(result)
    return result


def _measure(
    case: Stated,
    suite: Suite,
    options: Options,
    machine: Machine,
    device: str,
    cache: Path,
    progress: Progress,
    on_case: OnCase,
) -> CaseResult:
    started = time.monotonic()
    missing = missing_peers(options.peers, device)
    try:
        peers, refused = peers_of(case.problem, case.about, [n for n in options.peers if n not in missing])
        missing |= refused
        peers += [copy_peer()] if suite.copy else []
        found = measure_case(Case(case.problem, tuple(peers)), options, machine, device, cache, progress)
    except Exception as error:  # whatever it is, the other cases are still worth measuring
        failed = Measurement("", "run-error", message=one_line(error))
        found = Found((Row(0, WINNER, True, options.states[0], failed, math.nan),), f"not measured: {failed.message}")
        progress.say(found.note)
    if not any(r.ours for r in found.rows):
        none = Measurement("", "run-error", message=found.note)
        found = replace(found, rows=(*found.rows, Row(0, WINNER, True, options.states[0], none, math.nan)))
    on_case(case, found.rows)
    rows = tuple(line for row in found.rows for line in [_line(case, row, found.rows)])
    took = round(time.monotonic() - started, 1)
    return CaseResult(case.name, case.title, case.text, rows, missing, found.note, {**found.clocks}, took)


def _line(case: Stated, row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    from eintune.search.bench.files import figures

    at = [r for r in rows if r.state == row.state]
    moved = least_bytes(case.problem)
    return {
        "case": case.name,
        "variant": row.variant,
        "by": "eintune" if row.ours else "ceiling" if row.ceiling else "peer",
        "state": row.state,
        **figures(row, at),
        "gbytes_per_second": moved / row.seconds / 1e9 if row.seconds > 0 else math.nan,
        "detail": row.detail,
        "message": row.measurement.message,
    }


def settings_of(options: Options, suite: Suite) -> dict[str, Any]:
    """What must agree, as plain data."""
    data = asdict(options)
    del data["effort"]
    return {name: list(v) if isinstance(v, tuple) else v for name, v in {**data, "copy": suite.copy}.items()}
