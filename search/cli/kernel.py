"""`eintune plan` and `eintune kernel`: one candidate of a problem, as a loop plan or as a stand-alone file."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from eintune.search.options.command import (
    Command,
    Failure,
    Usage,
    add_cache,
    add_device,
    as_usage,
    cache_of,
    device_of,
    positive,
)
from eintune.search.options.graphs import add_problem_options, graph_problem
from eintune.search.options.problem import add_problem, emitter_of, posed_of

if TYPE_CHECKING:
    from eintune.search.tune.candidates import Candidate
    from eintune.search.tune.derivations import Variant
    from eintune.space.cascade.problem import Problem

PLAN_HELP = "Prints the loop plan of one candidate: every value, loop, segment and running value of its kernel."
KERNEL_HELP = """\
Prints the generated kernel of one candidate as a file that stands alone: it needs PyTorch (and Triton), not
Eintune, and checks itself against float64 when it is run. The model's first candidate; --candidate and --form choose
another. With FILE (a graph in any notation, docs/graphs.md) the kernel has that graph's own passes.
"""
EXAMPLES = """\
examples:
  eintune {name} --seq 2048 --heads 32
  eintune {name} --seq 2048 --heads 32 --machine h200 --candidate 2
  eintune {name} --seq 2048 --heads 32 --form 3-pass
  eintune {name} --workload rmsnorm_matmul --rows 4096
  eintune {name} attention_2pass.egg --sizes e=64,p=1024,m=1024,f=64{check}
"""
CHECK_SECONDS = 600.0


def options(parser: argparse.ArgumentParser) -> None:
    """A problem, and which candidate."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="a graph, in place of a workload")
    add_problem(parser)
    add_problem_options(parser.add_argument_group("the problem of FILE"))
    add_device(parser)
    add_cache(parser)
    parser.add_argument("--machine", metavar="NAME", help="price for this machine; default: this one")
    parser.add_argument("--candidate", type=positive, metavar="N", help="the model's N-th; default: the first")
    parser.add_argument("--form", metavar="TEXT", help="only cascades whose kind contains this text")


def kernel_options(parser: argparse.ArgumentParser) -> None:
    options(parser)
    parser.add_argument("--check", action="store_true", help="run it on random data and compare with float64; no file")


def chosen_candidate(chosen: argparse.Namespace) -> tuple[str, Problem, Candidate]:
    """The candidate that the options name: its title, its problem and itself."""
    from eintune.costmodel.machines.detect import detect_machine
    from eintune.costmodel.machines.machine import load_machine
    from eintune.search.tune.candidates import candidates

    cache = cache_of(chosen)
    with as_usage():
        machine = load_machine(chosen.machine) if chosen.machine else detect_machine(device_of(chosen))
        title, problem, every = _problem(chosen, "bf16" if machine.kind == "gpu" else "fp32", cache)
        variants = [v for v in every if (chosen.form or "").lower() in v.label.lower()]
        if not variants:
            kinds = ", ".join(v.label for v in every)
            raise Usage(f"--form must be part of one of: {kinds}; but got {chosen.form!r}")
        emitter = emitter_of(problem, machine.kind)
        found = candidates(variants, problem, machine, emitter)
    if not found.kept:
        reasons = ", ".join(f"{n} {why}" for why, n in found.left_out.items())
        raise Failure(f"no candidate is left on {machine.name}: {reasons}")
    place = chosen.candidate or 1
    if place > len(found.kept):
        raise Usage(f"--candidate must be from 1 to {len(found.kept)} here, but got {place}")
    return title, problem, found.kept[place - 1]


def _problem(chosen: argparse.Namespace, dtype: str, cache: Path) -> tuple[str, Problem, tuple[Variant, ...]]:
    """The problem, its title, and the cascades to choose from."""
    if chosen.file is not None:
        return graph_problem(chosen, dtype, cache)
    from eintune.search.tune.derivations import derivations
    from eintune.space.cascade.cascade import Cascade

    posed = posed_of(chosen, dtype)
    return posed.title, posed.problem, derivations(Cascade.parse(posed.problem.cascade), cache / "derived").variants


def _plan(chosen: argparse.Namespace) -> int:
    from eintune.search.text.formatting import milliseconds
    from eintune.search.text.schedules import schedule_text

    title, _, candidate = chosen_candidate(chosen)
    print(f"{title}\n{candidate.variant.label}; {schedule_text(candidate.schedule)}")
    print(f"predicted {milliseconds(candidate.estimate.seconds)}, limited by {candidate.estimate.limiter}\n")
    print(candidate.plan)
    return 0


def _kernel(chosen: argparse.Namespace) -> int:
    from eintune.kernels.generate.standalone import standalone

    title, problem, candidate = chosen_candidate(chosen)
    print(f"{title}: {candidate.variant.label}, {candidate.kernel.emitter}", file=sys.stderr)
    text = standalone(candidate.kernel, problem, problem.definition)
    if not chosen.check:
        print(text, end="")
        return 0
    return _checked(text, candidate.kernel.emitter)


AS_IT_IS = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
INTERPRETED = """
from eintune.kernels.launch.interpreter_fixes import mend
mend()
import runpy, sys
runpy.run_path(sys.argv[1], {'MENDED': True}, '__main__')
"""
"""The corrections to Triton's interpreter that all interpreted kernels get, and then the file."""


def _checked(text: str, emitter: str) -> int:
    """Run the file in a process of its own: on a GPU, by the interpreter for Triton without one, or on the CPU."""
    from eintune.costmodel.machines.probe import cuda_is_available
    from eintune.kernels.emit.kernel import ON_GPU

    interpreted = emitter in ON_GPU and not cuda_is_available()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.py"
        path.write_text(text, encoding="utf-8")
        environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if interpreted else {})}
        command = [sys.executable, "-P", "-c", INTERPRETED if interpreted else AS_IT_IS, str(path)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=CHECK_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"the check did not end within {CHECK_SECONDS:g} s") from None
    print(done.stdout, end="")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["its outputs differ from the definition"])[-1]
        raise Failure(f"the check failed: {last}")
    print(f"right{' (by the interpreter)' if interpreted else ''}")
    return 0


PLAN = Command(
    "plan", "the loop plan of one candidate", options, _plan, PLAN_HELP, EXAMPLES.format(name="plan", check="")
)
KERNEL = Command(
    "kernel",
    "a stand-alone file of one candidate",
    kernel_options,
    _kernel,
    KERNEL_HELP,
    EXAMPLES.format(name="kernel", check=" --check"),
)
