"""`eintune bench --suite`: several problems in one run, each kept as soon as it is measured, one table at the end."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from eintune.search.options.bench_options import HANDFUL, VARIANTS, machine_of, options_of
from eintune.search.options.command import Usage, cache_of
from eintune.search.options.documents import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eintune.costmodel.machines.machine import Machine
    from eintune.search.bench.case import Options, Row
    from eintune.search.suites.run import SuiteResult
    from eintune.search.suites.suite import Stated, Suite
    from eintune.search.text.progress import Progress

UNSEEN = "unseen_"
"""How the names of drawn suites begin."""
CASES = "cases"
"""What a suite of --case options is called."""


def run_suites(chosen: argparse.Namespace, device: str, progress: Progress) -> int:
    """Run every suite that was asked for; the exit code."""
    planned = [(suite, _cases(suite, device), _options(chosen, suite, device)) for suite in _suites(chosen)]
    cache = cache_of(chosen)
    machine = machine_of(chosen, device, progress)
    limit = chosen.limit or math.inf
    wrong = False
    for suite, cases, how in planned:
        result = _run(chosen, suite, cases, how, machine, device, cache, progress, limit - progress.elapsed)
        wrong |= result.wrong
    return 1 if wrong else 0


def _suites(chosen: argparse.Namespace) -> list[Suite]:
    from eintune.search.suites.suite import Suite, load_suite
    from eintune.search.suites.unseen import unseen

    names = [*chosen.suite, *(VARIANTS if chosen.variants else ())]
    suites = [load_suite(name) for name in dict.fromkeys(names)]
    if chosen.case:
        suites.append(Suite(CASES, "Cases", tuple(chosen.case), ()))
    if chosen.unseen:
        suites.append(unseen(chosen.unseen, chosen.seed or 0))
    if chosen.json and len(suites) > 1:
        raise Usage(f"--json needs one suite, but got {len(suites)}")
    return suites


def _cases(suite: Suite, device: str) -> tuple[Stated, ...]:
    from eintune.search.suites.suite import stated

    return stated(suite.cases, "bf16" if device == "cuda" else "fp32")


def _options(chosen: argparse.Namespace, suite: Suite, device: str) -> Options:
    how = options_of(chosen, device)
    peers = how.peers if chosen.peers is not None or not suite.peers else suite.peers
    asked = chosen.cool or chosen.hot
    states = suite.states if suite.states and device == "cuda" and not asked else how.states
    handful, drawn = HANDFUL[device] if chosen.kinds else 0, suite.name.startswith(UNSEEN)
    return replace(how, peers=peers, states=states, handful=handful, served=drawn)


def _run(
    chosen: argparse.Namespace,
    suite: Suite,
    cases: Sequence[Stated],
    how: Options,
    machine: Machine,
    device: str,
    cache: Path,
    progress: Progress,
    limit: float,
) -> SuiteResult:
    from eintune.search.bench.text import HEADING, correctness_text, heading
    from eintune.search.suites.files import to_json, write
    from eintune.search.suites.run import run_suite
    from eintune.search.suites.text import suite_text
    from eintune.search.tune.provenance import machine_folder

    folder = chosen.results / machine_folder(machine.name, machine.title)
    begun = _begin(chosen, suite, cases, how, machine, device, folder, progress)
    print(f"{heading(HEADING)}\n{suite.title}; each against the definition in float64\n")

    def on_case(case: Stated, rows: Sequence[Row]) -> None:
        print(correctness_text(case.title, rows) + "\n", flush=True)

    def keep(result: SuiteResult, last: bool = False) -> None:
        with progress.stage("write"):
            write(result, folder)
            write_json(chosen, to_json(result), last=last)

    result = run_suite(
        cases, begun, how, machine, device, cache, progress=progress, limit=limit, keep=keep, on_case=on_case
    )
    if not result.cases:
        print(f"{suite.title}: no case was begun within --limit\n", flush=True)
        return result
    keep(result, last=True)
    print(suite_text(result) + "\n")
    print("\n".join(f"wrote {path}" for path in sorted(folder.glob(f"*{suite.name}*"))), flush=True)
    return result


def _begin(
    chosen: argparse.Namespace,
    suite: Suite,
    cases: Sequence[Stated],
    how: Options,
    machine: Machine,
    device: str,
    folder: Path,
    progress: Progress,
) -> SuiteResult:
    """A result without cases, or with those of an earlier run that may stand beside the new ones."""
    from eintune.kernels.store.platform import platform_of
    from eintune.search.suites.files import read
    from eintune.search.suites.run import SuiteResult, settings_of
    from eintune.search.tune.provenance import describe, versions

    new = SuiteResult(
        suite=suite,
        machine=describe(machine, cases[0].problem),
        versions=versions(platform_of(device)),
        settings=settings_of(how, suite),
        command=chosen.command_line,
        started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    before = read(folder, suite) if chosen.resume else None
    if before is None:
        return new
    if not new.agrees(before):
        progress.say("the earlier run had another machine, other versions or options: all cases are measured anew")
        return new
    names = {case.name for case in cases}
    return replace(new, cases=tuple(c for c in before.cases if c.name in names), started=before.started)
