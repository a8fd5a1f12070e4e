"""What the benchmark commands have in common: options, the machine, the peers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .command import Usage, as_usage

if TYPE_CHECKING:
    from eintune.costmodel.machines.machine import Machine
    from eintune.search.bench.case import Options, State
    from eintune.search.text.progress import Progress


VARIANTS = ("variants", "chains", "decode")
"""The suites of what libraries do not ship as it stands."""
TRIALS = {"cuda": 24, "cpu": 8}
"""Candidates of a small search, where no winner is stored."""
HANDFUL = {"cuda": 4, "cpu": 2}
"""Of each kind, how many schedules are measured to choose one."""


def options_of(chosen: argparse.Namespace, device: str) -> Options:
    from eintune.search.bench.case import Options
    from eintune.search.tune.tune import EFFORT, Effort

    batch = EFFORT[device].batch
    effort = Effort(trials=chosen.trials or TRIALS[device], seconds=chosen.budget, batch=batch)
    return Options(
        states=_states(chosen, device),
        peers=_peers(chosen),
        warmup=chosen.warmup,
        iters=chosen.iters,
        handful=HANDFUL[device],
        effort=None if chosen.no_tune else effort,
        turns=chosen.turns,
    )


def _states(chosen: argparse.Namespace, device: str) -> tuple[State, ...]:
    from eintune.search.bench.case import usual_states

    both: tuple[State, ...] = ("cool", "hot")
    asked: tuple[State, ...] = tuple(s for s in both if getattr(chosen, s))
    return asked or usual_states(device)


def _peers(chosen: argparse.Namespace) -> tuple[str, ...]:
    from eintune.search.peers.peers import PEERS

    names = [n.strip() for n in ("all" if chosen.peers is None else chosen.peers).split(",")]
    if names == ["all"]:
        names = list(PEERS)
    elif names == ["none"]:
        names = []
    for name in names:
        if name not in PEERS:
            raise Usage(f"--peers must be all, none, or of {', '.join(PEERS)}, but got {name!r}")
    return tuple(n for n in dict.fromkeys(names) if not (chosen.skip_eager and n == "eager"))


def machine_of(chosen: argparse.Namespace, device: str, progress: Progress) -> Machine:
    from eintune.costmodel.machines.detect import detect_machine
    from eintune.costmodel.machines.machine import load_machine

    with as_usage(), progress.stage("machine"):
        machine = load_machine(chosen.machine) if chosen.machine else detect_machine(device)
    if machine.kind != ("gpu" if device == "cuda" else "cpu"):
        raise Usage(
            f"--machine must be of the measured device's kind ({device}), but {machine.name} is a {machine.kind}"
        )
    progress.say(machine.title)
    return machine
