"""`eintune bench`: our kernels beside everybody else's, checked first, then timed; one command makes each table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from eintune.search.options.bench_options import VARIANTS, machine_of, options_of
from eintune.search.options.command import (
    Command,
    Failure,
    Usage,
    add_cache,
    add_device,
    add_quiet,
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
from eintune.search.options.problem import add_dtype, add_some_options, emitter_of, flag_of, given_of

if TYPE_CHECKING:
    from eintune.costmodel.machines.machine import Machine
    from eintune.search.bench.case import Options
    from eintune.search.bench.sweep import Result, Setting
    from eintune.search.text.progress import Progress


DESCRIPTION = """\
Checks every variant against float64, then times all of them in one run: the tuned winner, each derived kind of
kernel (one, two and three passes) under its best schedule, and the peers: eager PyTorch, SDPA's backends,
torch.compile, FlexAttention and, where it is installed, FlashAttention-4. Writes a table, a picture and the machine
and versions it was made with. A library's kernel is never counted as ours.
"""
EXAMPLES = """\
examples:
  eintune bench --heads 32 --head-dim 64 --seq 256:2048 --skip-eager --warmup 10 --iters 100
  eintune bench --heads 32 --kv-heads 8 --head-dim 128 --seq 4096 --batch 4 --causal
  eintune bench --heads 4 --seq 128,256 --device cpu --peers sdpa --no-tune
  eintune bench --suite attention --limit 500        nine cases in one table; --resume goes on with what is left
  eintune bench --variants                           what libraries do not ship as it stands
  eintune bench --unseen 100 --seed 1                what is served where nothing was tuned
  eintune bench --case "--heads 8 --seq 512" --case "--heads 8 --seq 512 --causal" --peers sdpa
The device's state: with --cool it idles for 0.25 s before each turn of a variant, with --hot it runs the same kernel
for 0.5 s; each has tables of its own. Without either, a GPU is timed in both; on a CPU all variants take turns.
exit codes: 0, 1 where one of our kernels failed, 2 for wrong usage, 130 for Ctrl-C
"""
LENGTHS = (256, 512, 1024, 2048)
STATED = {
    "seq": "queries and keys a head, several as 256,512 or 256:2048; default: 256:2048",
    "heads": "query heads; default: 32",
    "kv_heads": "default: as many as --heads",
    "head_dim": "default: 64",
    "batch": "default: 1",
    "causal": "key m is seen by query p where m <= p",
}
"""The options of the problem, and what is said of them here."""


def options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench`."""
    _add_problem(parser.add_argument_group("the problem"))
    _add_variants(parser.add_argument_group("the variants"))
    _add_suites(parser.add_argument_group("several problems in one run (in place of the problem above)"))
    _add_timing(parser.add_argument_group("the timing"))
    _add_output(parser.add_argument_group("what is kept and printed"))


def _add_problem(group: argparse._ArgumentGroup) -> None:
    add_some_options(group, STATED, several=("seq",))
    add_dtype(group)


def _add_variants(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--skip-eager", action="store_true", help="without eager PyTorch, whose scores fill memory")
    group.add_argument(
        "--peers", metavar="NAMES", help="all, none, or names with commas; default: all, or the suite's own"
    )
    group.add_argument("--no-tune", action="store_true", help="no small search where no winner is stored")
    group.add_argument("--trials", type=positive, metavar="N", help="of that search; default: 24 on a GPU, 8 on a CPU")
    group.add_argument("--budget", type=seconds, default=30.0, metavar="SECONDS", help="of that search; default: 30")


def _add_suites(suites: argparse._ArgumentGroup) -> None:
    suites.add_argument(
        "--suite", action="append", default=[], metavar="NAME", help="a TOML file, or one that comes with the package"
    )
    suites.add_argument(
        "--case", action="append", default=[], metavar="OPTIONS", help="a problem as `tune` takes it, in one argument"
    )
    suites.add_argument(
        "--variants", action="store_true", help=f"the same as {' '.join(f'--suite {n}' for n in VARIANTS)}"
    )
    suites.add_argument(
        "--unseen",
        type=positive,
        metavar="N",
        help="N drawn shapes of attention, each by what a program gets that never called `tune`",
    )
    suites.add_argument("--seed", type=_count, metavar="N", help="of that draw; default: 0")
    suites.add_argument("--kinds", action="store_true", help="each derived kind of kernel too, not the winner only")
    suites.add_argument(
        "--limit", type=seconds, metavar="SECONDS", help="after which no new case starts; default: none"
    )
    suites.add_argument("--resume", action="store_true", help="keep the cases that the result files hold already")


def _add_timing(group: argparse._ArgumentGroup) -> None:
    add_device(group)
    group.add_argument("--machine", metavar="NAME", help="price for this machine; default: this one")
    group.add_argument("--warmup", type=_count, default=10, metavar="N", help="untimed calls; default: 10")
    group.add_argument(
        "--iters",
        type=positive,
        default=100,
        metavar="N",
        help="samples of a variant, at most (4 s of them); default: 100",
    )
    group.add_argument(
        "--turns", type=positive, default=5, metavar="N", help="of each variant in a state of the device; default: 5"
    )
    group.add_argument("--cool", action="store_true", help="time with the device idle before each turn")
    group.add_argument("--hot", action="store_true", help="time with the device hot from the same kernel")


def _add_output(output: argparse._ArgumentGroup) -> None:
    add_cache(output)
    output.add_argument(
        "--results", type=path, default=Path("results"), metavar="DIR", help="where the files go; default: ./results"
    )
    add_json(output)
    add_quiet(output)


def _count(text: str) -> int:
    return 0 if text == "0" else positive(text)


def action(chosen: argparse.Namespace) -> int:
    """Check, time, print, write."""
    _check_apply(chosen)
    check_writable(chosen, "results", "json", "cache")
    progress = begin(chosen)
    from eintune.search.peers.peers import missing_peers

    device = device_of(chosen)
    if _has_suites(chosen):
        from .suite import run_suites

        return run_suites(chosen, device, progress)
    setting, how = _setting(chosen, device), options_of(chosen, device)
    missing = missing_peers(how.peers, device)
    cache = cache_of(chosen)
    machine = machine_of(chosen, device, progress)
    result = _run(chosen, setting, how, missing, machine, cache, progress)
    _report(chosen, machine, result)
    return 1 if result.wrong else 0


def _has_suites(chosen: argparse.Namespace) -> bool:
    return bool(chosen.suite or chosen.case or chosen.variants or chosen.unseen)


def _check_apply(chosen: argparse.Namespace) -> None:
    """Raises Usage for options that would say nothing here."""
    of_suites = ("kinds", "limit", "resume")
    if _has_suites(chosen):
        if given := [flag_of(n) for n in (*given_of(chosen), *(["dtype"] if chosen.dtype else []))]:
            raise Usage(f"a suite's cases state their problems themselves, but got {', '.join(given)} too")
    elif given := [flag_of(n) for n in of_suites if getattr(chosen, n)]:
        raise Usage(f"{given[0]} is of --suite, --case, --variants and --unseen, but got none of these")
    if chosen.seed is not None and not chosen.unseen:
        raise Usage("--seed is of --unseen, but got no --unseen")


def _setting(chosen: argparse.Namespace, device: str) -> Setting:
    from eintune.search.bench.sweep import Setting

    given = given_of(chosen)
    lengths, heads = given.get("seq", LENGTHS), given.get("heads", 32)
    setting = Setting(
        lengths=lengths if isinstance(lengths, tuple) else (lengths,),
        heads=heads,
        kv_heads=given.get("kv_heads", heads),
        head_dim=given.get("head_dim", 64),
        batch=given.get("batch", 1),
        dtype=chosen.dtype or ("bf16" if device == "cuda" else "fp32"),
        causal="causal" in given,  # from either corner: there are as many keys as queries
        device=device,
    )
    with as_usage():
        for length in setting.lengths:
            emitter_of(setting.problem(length), "gpu" if device == "cuda" else "cpu")
    return setting


def _run(
    chosen: argparse.Namespace,
    setting: Setting,
    how: Options,
    missing: dict[str, str],
    machine: Machine,
    cache: Path,
    progress: Progress,
) -> Result:
    from eintune.kernels.store.files import CacheWriteError
    from eintune.kernels.store.platform import platform_of
    from eintune.search.bench.case import Row
    from eintune.search.bench.files import write
    from eintune.search.bench.sweep import Result, bench, summary
    from eintune.search.bench.text import HEADING, correctness_text, heading
    from eintune.search.measure.measurer import MeasureError
    from eintune.search.tune.provenance import describe, versions

    print(f"{heading(HEADING)}\n{setting.title}; each against the definition in float64\n")
    empty = Result(
        setting=setting,
        options=how,
        machine=describe(machine, setting.problem(setting.lengths[0])),
        versions=versions(platform_of(setting.device)),
        command=chosen.command_line,
        started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        rows=(),
        missing=missing,
        notes={},
    )

    def so_far(rows: Sequence[Row], notes: Mapping[int, str]) -> Result:
        return replace(empty, rows=tuple(rows), notes=dict(notes), stages=dict(progress.stages))

    def on_rows(rows: Sequence[Row], notes: Mapping[int, str]) -> None:
        length = rows[-1].length
        made = [r for r in rows if r.length == length]
        print(correctness_text(f"length {length}", made) + "\n", flush=True)
        progress.say(f"length {length}: {summary(made)}")
        with progress.stage("write"):  # an interrupted run leaves what it measured
            write(so_far(rows, notes), _folder(chosen, machine))

    try:
        with progress.stage("bench"):
            rows, notes = bench(setting, how, machine, cache, progress=progress, on_rows=on_rows)
    except (MeasureError, CacheWriteError) as error:
        raise Failure(str(error.strerror if isinstance(error, CacheWriteError) else error)) from error
    progress.become("write")
    return so_far(rows, notes)


def _folder(chosen: argparse.Namespace, machine: Machine) -> Path:
    from eintune.search.tune.provenance import machine_folder

    folder: Path = chosen.results / machine_folder(machine.name, machine.title)
    return folder


def _report(chosen: argparse.Namespace, machine: Machine, result: Result) -> None:
    from eintune.search.bench.files import to_json, write
    from eintune.search.bench.text import times_text

    print(times_text(result), flush=True)
    paths = write(result, _folder(chosen, machine))
    print("\n" + "\n".join(f"wrote {path}" for path in paths))
    write_json(chosen, to_json(result))


HELP = "time our kernels beside everybody else's"
BENCH = Command("bench", HELP, options, action, DESCRIPTION, EXAMPLES)
