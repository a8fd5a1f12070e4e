"""`eintune plan` and `eintune kernel`: one candidate of a problem, as a loop plan or as a stand-alone file."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .cli_options import (
    Command,
    Failure,
    Usage,
    add_cache,
    add_device,
    add_problem,
    as_usage,
    cache_of,
    device_of,
    emitter_of,
    positive,
    problem_of,
    title_of,
)

if TYPE_CHECKING:
    from ..space.schedule import Problem
    from .candidates import Candidate

PLAN_HELP = "Prints the loop plan of one candidate: every value, loop, segment and running value of its kernel."
KERNEL_HELP = """\
Prints the generated kernel of one candidate as a file that stands alone: it needs PyTorch (and Triton), not
Eintune, and checks itself against float64 when it is run. The stored winner if there is one, else the model's
first; --rank and --cascade choose another.
"""
EXAMPLES = """\
examples:
  eintune {name} --seq 2048 --heads 32
  eintune {name} --seq 2048 --heads 32 --emitter triton --machine h200 --rank 2
  eintune {name} --seq 2048 --heads 32 --cascade 3-pass
"""


def options(parser: argparse.ArgumentParser) -> None:
    """A problem, and which candidate."""
    add_problem(parser)
    add_device(parser)
    add_cache(parser)
    parser.add_argument("--machine", metavar="NAME", help="price for this machine; default: this one")
    parser.add_argument("--rank", type=positive, default=None, metavar="N", help="the model's N-th candidate")
    parser.add_argument("--cascade", metavar="TEXT", help="only cascades whose kind contains this text")


def chosen_candidate(chosen: argparse.Namespace) -> tuple[str, Problem, Candidate]:
    """The candidate that the options name: its title, its problem and itself."""
    from ..costmodel.machine import detect_machine, load_machine
    from .candidates import candidates
    from .derivations import derivations

    cache = cache_of(chosen)
    with as_usage():
        machine = load_machine(chosen.machine) if chosen.machine else detect_machine(device_of(chosen))
        dtype = "bf16" if machine.kind == "gpu" else "fp32"
        problem = problem_of(chosen, dtype)
        from ..space.cascade import Cascade

        derived = derivations(Cascade.parse(problem.cascade), cache / "derived")
        variants = [v for v in derived.variants if (chosen.cascade or "").lower() in v.label.lower()]
        if not variants:
            kinds = ", ".join(v.label for v in derived.variants)
            raise Usage(f"--cascade must be part of one of: {kinds}; but got {chosen.cascade!r}")
        emitter = emitter_of(problem, machine.kind)
        found = candidates(variants, problem, machine, emitter)
    if not found.kept:
        reasons = ", ".join(f"{n} {why}" for why, n in found.left_out.items())
        raise Failure(f"no candidate is left on {machine.name}: {reasons}")
    rank = chosen.rank or 1
    if rank > len(found.kept):
        raise Usage(f"--rank must be from 1 to {len(found.kept)} here, but got {rank}")
    return title_of(chosen, dtype), problem, found.kept[rank - 1]


def _plan(chosen: argparse.Namespace) -> int:
    from .candidates import schedule_text
    from .words import milliseconds

    title, _, candidate = chosen_candidate(chosen)
    print(f"{title}\n{candidate.variant.label}; {schedule_text(candidate.schedule)}")
    print(f"predicted {milliseconds(candidate.estimate.seconds)}, limited by {candidate.estimate.limiter}\n")
    print(candidate.plan)
    return 0


def _kernel(chosen: argparse.Namespace) -> int:
    from ..kernels.standalone import standalone
    from ..space.cascade import Cascade

    title, problem, candidate = chosen_candidate(chosen)
    print(f"{title}: {candidate.variant.label}, {candidate.kernel.emitter}", file=sys.stderr)
    print(standalone(candidate.kernel, problem, Cascade.parse(problem.cascade)), end="")
    return 0


PLAN = Command("plan", "the loop plan of one candidate", options, _plan, PLAN_HELP, EXAMPLES.format(name="plan"))
KERNEL = Command(
    "kernel", "a stand-alone file of one candidate", options, _kernel, KERNEL_HELP, EXAMPLES.format(name="kernel")
)
