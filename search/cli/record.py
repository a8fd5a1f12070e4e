"""`eintune record`: draw candidates of one problem at random, good and bad, measure them, and keep what came of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from eintune.search.options.command import (
    Command,
    Failure,
    add_cache,
    add_device,
    add_quiet,
    begin,
    cache_of,
    device_of,
    path,
    positive,
)
from eintune.search.options.files import check_writable
from eintune.search.options.problem import add_problem, emitter_of, posed_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eintune.costmodel.machines.machine import Machine
    from eintune.search.evaluation.recorded_space import RecordedSpace
    from eintune.search.measure.measurement import Measurement
    from eintune.search.text.progress import Progress
    from eintune.search.tune.candidates import Candidate
    from eintune.space.cascade.problem import Problem
    from eintune.space.workloads.workload import Posed

DESCRIPTION = """\
Draws candidates uniformly from all legal ones of a problem, measures each, and writes one compressed file: times and
their spread, resources as compiled, failures, clocks, versions, the command. A tuner measures what its model likes,
which cannot judge the model; these can (`eintune judge`).
"""
EXAMPLES = """\
examples:
  eintune record --seq 2048 --heads 32 --out results/h200/spaces
  eintune record --seq 1000 --heads 16 --batch 2 --causal --count 150 --seed 1
"""
BATCH = 50
"""Candidates that take turns with each other."""


def _options(parser: argparse.ArgumentParser) -> None:
    add_problem(parser)
    group = parser.add_argument_group("the draw")
    group.add_argument("--count", type=positive, default=150, metavar="N", help="candidates; default: 150")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw; default: 0")
    add_device(group)
    output = parser.add_argument_group("what is kept and printed")
    add_cache(output)
    output.add_argument(
        "--out", type=path, default=Path("."), metavar="DIR", help="where the file goes; default: the current directory"
    )
    add_quiet(output)


def _record(chosen: argparse.Namespace) -> int:
    check_writable(chosen, "out", "cache")
    progress = begin(chosen)
    from eintune.costmodel.machines.detect import detect_machine
    from eintune.search.evaluation.recorded_space import save

    device = device_of(chosen)
    dtype = "bf16" if device == "cuda" else "fp32"
    posed = posed_of(chosen, dtype)
    emitter_of(posed.problem, "gpu" if device == "cuda" else "cpu")
    cache = cache_of(chosen)
    machine = detect_machine(device)
    space = _measured(chosen, posed, machine, device, cache, progress)
    name = posed.folder.removeprefix("attention-")
    path = chosen.out / f"{name}.json.gz"
    save(space, path)
    print(f"{posed.title}\n{_summary(space)}\n{path}")
    return 0


def _measured(
    chosen: argparse.Namespace, posed: Posed, machine: Machine, device: str, cache: Path, progress: Progress
) -> RecordedSpace:
    from datetime import UTC, datetime

    from eintune.kernels.store.platform import platform_of
    from eintune.search.evaluation.recorded_space import RecordedSpace, entries_of
    from eintune.search.measure.clocks import sm_clock
    from eintune.search.measure.measurer import Measurer
    from eintune.search.measure.policy import Policy
    from eintune.search.peers.tuning import tuning_peers
    from eintune.search.text.progress import WORDS
    from eintune.search.tune.provenance import versions

    problem = posed.problem
    started = datetime.now(UTC).isoformat(timespec="seconds")
    drawn, legal = _sample(chosen, problem, machine, device, cache, progress)
    clocks: list[int] = []
    # bad candidates are many and slow: few rounds each
    policy = Policy(rounds=(3, 12), minor_rounds=3, effort=0.3)
    with progress.stage("measure"), Measurer(problem, device, policy) as measurer:
        measured = 0

        def measure(asked: Sequence[Candidate]) -> list[Measurement]:
            nonlocal measured
            progress.stands(done=measured, of=len(drawn))
            measured += len(asked)
            return measurer.measure([c.kernel for c in asked])

        measurer.progress = lambda stage, done, of: progress.doing(f"{WORDS.get(stage, stage)}: {done} of {of}")
        cascades, entries = entries_of(
            drawn,
            measure,
            BATCH,
            between=lambda: clocks.extend(sm_clock(device)),
        )
        clocks.extend(sm_clock(device))
        compared = measurer.compare([], tuning_peers(posed, device))
    return RecordedSpace(
        problem=problem,
        machine=machine.name,
        seed=chosen.seed,
        drawn_from=legal,
        cascades=cascades,
        entries=entries,
        versions=versions(platform_of(device)),
        command=chosen.command_line,
        started=started,
        clocks=tuple(clocks),
        peers={name: m.seconds for name, m in compared.items() if m.status == "ok"},
    )


def _sample(
    chosen: argparse.Namespace, problem: Problem, machine: Machine, device: str, cache: Path, progress: Progress
) -> tuple[list[Candidate], int]:
    """The candidates to measure, and the number of legal ones that they are drawn from. Raises Failure for none."""
    from eintune.search.evaluation.recorded_space import draw
    from eintune.search.tune.derivations import derivations

    emitter = "triton" if device == "cuda" else "torch"
    with progress.stage("plan"):
        variants = derivations(problem.definition, cache / "derived").variants
        drawn, legal = draw(variants, problem, machine, emitter, chosen.count, chosen.seed)
    if not drawn:
        raise Failure(f"no legal candidate on {machine.title}: nothing to record")
    progress.say(f"{len(drawn)} of {legal:,} legal candidates drawn")
    return drawn, legal


def _summary(space: RecordedSpace) -> str:
    from collections import Counter

    from eintune.search.text.formatting import milliseconds

    counts = Counter(e.measurement.status for e in space.entries)
    best = min((space.entries[i].measurement.seconds for i in space.ran), default=None)
    statuses = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    drawn = f"{len(space.entries)} drawn of {space.drawn_from:,} legal (seed {space.seed})"
    return f"{drawn}: {statuses}; best {milliseconds(best)}"


RECORD = Command("record", "measure candidates drawn at random", _options, _record, DESCRIPTION, EXAMPLES)
