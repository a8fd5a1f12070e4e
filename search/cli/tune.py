"""`tune`: find the fastest kernel for a computation at one size, keep it, and say what it is worth."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eintune.search.options.command import (
    Command,
    Failure,
    Usage,
    add_cache,
    add_device,
    add_quiet,
    add_version,
    as_usage,
    begin,
    cache_of,
    device_of,
    path,
    positive,
    seconds,
)
from eintune.search.options.documents import add_json, write_json
from eintune.search.options.files import check_writable
from eintune.search.options.problem import add_problem, emitter_of, flag_of, given_of, names, posed_of, training_posed
from eintune.search.text import streams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eintune.costmodel.counts.estimate import Resources
    from eintune.costmodel.machines.machine import Machine
    from eintune.search.measure.measurer import Measurer
    from eintune.search.text.progress import Progress
    from eintune.search.tune.candidates import Candidate
    from eintune.search.tune.deriver import Deriver
    from eintune.search.tune.tune import TuneResult
    from eintune.space.workloads.workload import Posed

DESCRIPTION = """\
Derives every way of computing a workload (attention, unless --workload names another) from its naive definition,
predicts which are fast on this machine, generates and measures those, and keeps the fastest for
`eintune.attention` and `eintune.compile`. With a CUDA GPU the kernels are Triton; without one the same plans run
as tiled PyTorch on the CPU.
"""
EXAMPLES = """\
examples:
  tune --seq 2048 --heads 32                       head dim 128, batch 1, bf16 on a GPU and fp32 on a CPU
  tune --seq 4096 --heads 32 --kv-heads 8 --causal
  tune --seq 1 --kv-seq 8192 --heads 32 --kv-heads 8 --batch 16
  tune --seq 512,2048,8192 --heads 32        one portfolio for several sizes; --seq 128:16384 is each doubling
  tune --seq 2048 --heads 32 --causal --window 256 --softcap 30 --alibi      modifiers combine freely
  tune --workload layernorm --rows 8192 --cols 4096                            --list-workloads has them all
  tune --cascade mine.edge --sizes p=4096,m=1024 --params eps=1e-5              a definition of your own
  tune --seq 2048 --heads 32 --causal --backward     a training step: the forward and each kernel of its gradient
  tune --seq 2048 --heads 32 --plan-only --machine h200   ranking and exact resources, without a GPU
exit codes: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C (the same command then goes on)
"""


def options(parser: argparse.ArgumentParser) -> None:
    """The options of `tune`."""
    add_problem(parser, several=True)
    group = parser.add_argument_group("the search")
    group.add_argument(
        "--set",
        metavar="FILE",
        help="tune every case of a suite (a TOML file with `cases`, or a built-in one's name) into portfolios",
    )
    group.add_argument(
        "--backward",
        action="store_true",
        help="tune a training step: the forward with what its gradient wants, and each kernel of that",
    )
    group.add_argument(
        "--wrt",
        type=names,
        metavar="INPUTS",
        help="with --backward: the inputs that have gradients, such as Q,K,V; default: all floating ones",
    )
    add_device(group)
    group.add_argument(
        "--trials", type=positive, metavar="N", help="candidates to measure; default: 64 on a GPU, 24 on a CPU"
    )
    group.add_argument(
        "--budget",
        type=seconds,
        metavar="SECONDS",
        help="start no new batch after this; default: 75 on a GPU, 100 on a CPU",
    )
    group.add_argument("--plan-only", action="store_true", help="stop before measuring: the ranking, exact resources")
    group.add_argument(
        "--machine", metavar="NAME", help="price for this machine (h200, h100, a100, cpu, …); default: this one"
    )
    group.add_argument(
        "--top", type=positive, default=8, metavar="N", help="rows to show, and to compile with --plan-only; default: 8"
    )
    group.add_argument("--sampler", default="mixed", metavar="NAME", help="mixed, model, tpe or random; default: mixed")
    group.add_argument(
        "--retune", "--force", action="store_true", dest="retune", help="search again although a winner is stored"
    )
    group.add_argument(
        "--no-peers",
        action="store_true",
        help="time no library beside the kernels (FlexAttention compiles for seconds)",
    )
    output = parser.add_argument_group("what is kept and printed")
    add_cache(output)
    output.add_argument(
        "--results", type=path, default=Path("results"), metavar="DIR", help="where the report goes; default: ./results"
    )
    add_json(output)
    add_quiet(output)
    add_version(output)


def action(chosen: argparse.Namespace) -> int:
    """Plan, answer from the cache, or search."""
    check_writable(chosen, "json")
    machine_kind, several = _named_kind(chosen), _several(chosen)
    definition = "" if several else posed_of(chosen, "fp32").problem.cascade  # wrong usage is said first, in one line
    progress = begin(chosen)
    _check_sampler(chosen)
    if chosen.plan_only:
        device = device_of(chosen) if chosen.machine is None else "cpu"
        dtype = _dtype(machine_kind or _kind(device))
        if chosen.backward:
            every = training_posed(chosen, dtype)
            plans = [{"gives": gives, **_plan_only(chosen, posed, device, progress)} for gives, posed in every]
            write_json(chosen, {"kernels": plans})
        else:
            write_json(chosen, _plan_only(chosen, posed_of(chosen, dtype), device, progress))
        return 0
    cache = cache_of(chosen)
    if chosen.backward:
        return _tune_training(chosen, machine_kind, cache, progress)
    if several:
        return _tune_sets(chosen, machine_kind, cache, progress)
    from eintune.search.tune.deriver import Deriver

    with Deriver(definition, cache / "derived", fresh=chosen.retune) as deriver:
        if _any_device_will_do(chosen):
            deriver.start()
        device = device_of(chosen)  # loads PyTorch
        _check_kind(chosen, machine_kind, device)
        posed = posed_of(chosen, _dtype(_kind(device)))
        emitter_of(posed.problem, _kind(device))
        if not chosen.retune and _answered(chosen, posed, device, cache):
            return 0
        return _search_alone(chosen, posed, device, deriver, cache, progress)


def _several(chosen: argparse.Namespace) -> bool:
    """Whether more than one point is stated. Raises Usage where that cannot be."""
    several = _stated_several(chosen)
    if chosen.wrt and not chosen.backward:
        raise Usage("--wrt says which inputs have gradients: it goes with --backward")
    if several and chosen.backward:
        raise Usage(f"--backward tunes a training step at one size, but got {several[0]}")
    if several and chosen.plan_only:
        raise Usage(f"--plan-only ranks plans at one size, but got {several[0]}")
    if chosen.set is not None and len(several) > 1:
        raise Usage(f"--set states its cases itself, but got {several[1]} too")
    return bool(several)


def _stated_several(chosen: argparse.Namespace) -> list[str]:
    """The options that state more than one point; beside --set, all that state a problem."""
    given = given_of(chosen)
    if chosen.set is not None:
        others = {**given, **({"workload": 1} if chosen.workload else {}), **({"cascade": 1} if chosen.cascade else {})}
        return ["--set", *map(flag_of, others)]
    return [f"{flag_of(n)} with {len(v)} sizes" for n, v in given.items() if isinstance(v, tuple)]


def _tune_sets(chosen: argparse.Namespace, machine_kind: str | None, cache: Path, progress: Progress) -> int:
    from eintune.search.sets.command import points_of, tune_sets

    points_of(chosen, "fp32")  # wrong usage is said at once
    check_writable(chosen, "cache")
    device = device_of(chosen)
    _check_kind(chosen, machine_kind, device)
    return tune_sets(chosen, device, _machine(chosen, device, progress), cache, progress, _dtype(_kind(device)))


def _tune_training(chosen: argparse.Namespace, machine_kind: str | None, cache: Path, progress: Progress) -> int:
    """Tune the forward and each stage of the backward, one after the other."""
    from eintune.search.report.training_text import training_json, training_text
    from eintune.search.tune.deriver import Deriver
    from eintune.search.tune.stored import stored

    check_writable(chosen, "cache")
    device = device_of(chosen)
    _check_kind(chosen, machine_kind, device)
    steps = training_posed(chosen, _dtype(_kind(device)))
    document, chosen.json = chosen.json, None
    for _, posed in steps:
        if chosen.retune or not _answered(chosen, posed, device, cache):
            with Deriver(posed.problem.cascade, cache / "derived", fresh=chosen.retune) as deriver:
                if code := _search_alone(chosen, posed, device, deriver, cache, progress):
                    return code
        print(flush=True)
    entries = [(gives, stored(posed.problem, device, cache)) for gives, posed in steps]
    print(training_text(posed_of(chosen, _dtype(_kind(device))).title, entries))
    chosen.json = document
    write_json(chosen, training_json(entries))
    return 0


def _check_kind(chosen: argparse.Namespace, machine_kind: str | None, device: str) -> None:
    if machine_kind not in (None, _kind(device)):
        raise Usage(
            f"--machine must be of the measured device's kind ({device}), but {chosen.machine} is a "
            f"{machine_kind}; add --plan-only to price for a machine that is not here"
        )


def _kind(device: str) -> str:
    return "gpu" if device == "cuda" else "cpu"


def _dtype(kind: str) -> str:
    return "fp32" if kind == "cpu" else "bf16"


def _any_device_will_do(chosen: argparse.Namespace) -> bool:
    """Whether the options are right on any device: then work may begin before it is known which there is."""
    return chosen.device != "cuda" and chosen.machine is None and chosen.dtype != "fp64"


def _named_kind(chosen: argparse.Namespace) -> str | None:
    from eintune.costmodel.machines.machine import load_machine

    if chosen.machine is None:
        return None
    with as_usage():
        return load_machine(chosen.machine).kind


def _check_sampler(chosen: argparse.Namespace) -> None:
    from eintune.search.study.samplers import strategy

    with as_usage():
        strategy(chosen.sampler)


def _machine(chosen: argparse.Namespace, device: str, progress: Progress) -> Machine:
    from eintune.costmodel.machines.detect import detect_machine
    from eintune.costmodel.machines.machine import load_machine

    with as_usage():
        if chosen.machine is not None:
            return load_machine(chosen.machine)
        with progress.stage("machine"):
            machine = detect_machine(device)
            progress.say(f"{machine.title}: {machine.hbm_bytes_per_second / 1e9:,.0f} GB/s")
            return machine


# ---- without measuring


def _plan_only(chosen: argparse.Namespace, posed: Posed, device: str, progress: Progress) -> dict[str, Any]:
    """Print the ranking, and give it as data."""
    from eintune.search.report.tune_text import plan_json, plan_text
    from eintune.search.tune.tune import plan_candidates

    cache = cache_of(chosen)
    machine = _machine(chosen, device, progress)
    if machine.grid is not None:
        return _plan_cores(chosen, posed, machine, progress)
    emitter = emitter_of(posed.problem, machine.kind)
    with as_usage():
        planned = plan_candidates(posed.problem, machine, emitter, cache=cache, fresh=chosen.retune, progress=progress)
    if not planned.space.kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in planned.space.left_out.items())
        raise Failure(f"no candidate is left on {machine.name}: {reasons}")
    exact = _compiled(planned.space.kept[: chosen.top], machine, progress) if emitter == "triton" else []
    print(plan_text(posed.title, planned, chosen.top, exact))
    return plan_json(planned, chosen.top, exact)


def _plan_cores(chosen: argparse.Namespace, posed: Posed, machine: Machine, progress: Progress) -> dict[str, Any]:
    from eintune.search.report.core_text import core_json, core_text
    from eintune.search.tune.core_plans import core_plans
    from eintune.search.tune.tune import derived_forms

    with as_usage():
        derived = derived_forms(posed.problem, cache_of(chosen), chosen.retune, progress)
        with progress.stage("price"):
            plans = core_plans(derived.variants, posed.problem, machine)
    if not plans.kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in plans.left_out.items())
        raise Failure(f"no plan fits a core of {machine.name}: {reasons}")
    print(core_text(posed.title, plans, len(derived.variants), chosen.top))
    return core_json(plans, chosen.top)


def _compiled(top: Sequence[Candidate], machine: Machine, progress: Progress) -> list[Resources | str]:
    """Exact resources of the first candidates, or why the compiler gives none."""
    from eintune.costmodel.counts.estimate import Resources
    from eintune.kernels.launch.compile_pool import compile_many

    with progress.stage("compile"):
        progress.say(f"compiling {len(top)} for {machine.architecture}, which need not be here")
        found = compile_many([c.kernel for c in top], machine.architecture)
    return [r if isinstance(r, Resources) else f"{r.status}: {r.message.splitlines()[0]}" for r in found]


# ---- from the cache


def _answered(chosen: argparse.Namespace, posed: Posed, device: str, cache: Path) -> bool:
    from eintune.search.tune.stored import stored

    entry = stored(posed.problem, device, cache)
    if entry is None:
        return False
    from eintune.search.report.tune_text import record_text

    print(record_text(posed.title, entry.key, entry.record, entry.path))
    whose = {"whose": entry.whose, "path": str(entry.path)}
    write_json(chosen, {"cached": True, **whose, "key": entry.key.to_json(), "record": entry.record.to_json()})
    return True


# ---- the search


def _search_alone(
    chosen: argparse.Namespace, posed: Posed, device: str, deriver: Deriver, cache: Path, progress: Progress
) -> int:
    """Search, unless another process does: then wait for it, and read what it found."""
    from eintune.search.tune.one_search import only_search
    from eintune.search.tune.stored import key_of

    with only_search(cache, key_of(posed.problem, device), progress.say) as waited:
        if waited and not chosen.retune and _answered(chosen, posed, device, cache):
            return 0
        deriver.start()
        return _search(chosen, posed, device, deriver, cache, progress)


def _search(
    chosen: argparse.Namespace, posed: Posed, device: str, deriver: Deriver, cache: Path, progress: Progress
) -> int:
    from eintune.kernels.store.files import CacheWriteError
    from eintune.search.measure.measurer import MeasureError, Measurer

    check_writable(chosen, "results", "cache")
    if device == "cpu":
        with progress.stage("derive"):
            deriver.result()  # this machine may be about to be probed: nothing else runs on it then
    machine = _machine(chosen, device, progress)
    try:
        with progress.stage("prepare"), Measurer(posed.problem, device, meanwhile=_load_report) as measurer:
            # its processes start, and one draws the inputs, while this one loads what it searches with
            result = _tuned(chosen, posed, measurer, deriver, machine, cache, progress)
    except MeasureError as error:
        raise Failure(str(error)) from error
    except CacheWriteError as error:
        raise Failure(str(error.strerror)) from error
    return _told(chosen, posed, result, progress)


def _tuned(
    chosen: argparse.Namespace,
    posed: Posed,
    measurer: Measurer,
    deriver: Deriver,
    machine: Machine,
    cache: Path,
    progress: Progress,
) -> TuneResult:
    from eintune.search.peers.tuning import tuning_peers
    from eintune.search.tune.finals import NothingWorked
    from eintune.search.tune.tune import EFFORT, tune

    effort = EFFORT[measurer.device]
    effort = replace(effort, trials=chosen.trials or effort.trials, seconds=chosen.budget or effort.seconds)
    try:
        return tune(
            posed.problem,
            measurer,
            machine=machine,
            cache=cache,
            effort=effort,
            peers=() if chosen.no_peers else tuning_peers(posed, measurer.device),
            fresh=chosen.retune,
            deriver=deriver,
            sampler=chosen.sampler,
            title=posed.title,
            command=chosen.command_line,
            progress=progress,
        )
    except NothingWorked as error:
        raise Failure(str(error)) from error


def _told(chosen: argparse.Namespace, posed: Posed, result: TuneResult, progress: Progress) -> int:
    """The result, at once; then the report, which takes a moment to draw, and where it is."""
    from eintune.search.report.tune_text import report_text, result_text
    from eintune.search.tune.provenance import machine_folder

    machine = result.planned.machine
    folder = chosen.results / machine_folder(machine.name, machine.title) / posed.folder
    page, complaint = None, ""
    try:
        print(result_text(result, chosen.top), flush=True)
    except BrokenPipeError:  # whoever read it has gone (`| head`)
        streams.abandon(sys.stdout)
    finally:
        from eintune.search.report.report import ReportError, write_report

        with progress.stage("report"):
            try:
                page = write_report(result.run, folder)
            except ReportError as error:
                complaint = str(error)
        write_json(chosen, {"cached": False, **result.run.to_json()})
    print(report_text(page))
    if complaint:
        raise Failure(f"{complaint}; the winner is stored")
    return 0


def _load_report() -> None:
    """Tables and pictures take long to load: time that there is while this process waits for others."""
    with contextlib.suppress(ImportError):  # said where the report is written
        importlib.import_module("eintune.search.report.report")


TUNE = Command("tune", "find the fastest kernel and keep it", options, action, DESCRIPTION, EXAMPLES)
