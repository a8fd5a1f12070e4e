"""`warm`: compile what is stored, ahead of the programs that need it."""

from __future__ import annotations

import argparse

from eintune.search.options.command import (
    Command,
    Failure,
    Usage,
    add_cache,
    add_quiet,
    add_version,
    as_usage,
    begin,
    cache_of,
)
from eintune.search.options.documents import add_json, write_json
from eintune.search.options.files import check_writable
from eintune.search.text.formatting import plural

DESCRIPTION = """\
Compiles the kernels of all records and portfolios that `tune` stored or that come with Eintune, so that no program
waits for a compiler. They are kept in the cache directory, which may be copied, together with the key, to other
machines with the same GPU and versions.
"""
EXAMPLES = """\
examples:
  eintune warm                       for the GPU of this machine
  eintune warm --machine h200        for one that need not be here
exit codes: 0, 1 where a kernel does not compile, 2 for wrong usage
"""


def options(parser: argparse.ArgumentParser) -> None:
    """The options of `warm`."""
    parser.add_argument(
        "--machine", metavar="NAME", help="compile for this machine (h200, h100, …); default: this one's"
    )
    parser.add_argument("--workload", metavar="NAME", help="of this workload only; default: all")
    add_json(parser)
    add_quiet(parser)
    add_cache(parser)
    add_version(parser)


def action(chosen: argparse.Namespace) -> int:
    """Compile, and say what there is."""
    from eintune.space.workloads.builtin import WORKLOADS

    if chosen.workload is not None and chosen.workload not in WORKLOADS:
        names = ", ".join(WORKLOADS)
        raise Usage(f"--workload must be one of {names}, but got {chosen.workload!r}")
    check_writable(chosen, "json")
    progress = begin(chosen)
    from eintune.kernels.serve.warm import warm

    with progress.stage("compile"), as_usage():
        made = warm(chosen.workload, machine=chosen.machine, cache=cache_of(chosen), progress=progress.say)
    where = made.folder or "Triton's own cache"  # which the environment names, or the folder is not this user's alone
    loaded = f", {made.loaded} of them loaded here" if made.loaded else ""
    print(
        f"{plural(made.compiled, 'kernel')} compiled for {made.architecture}{loaded} in {where} ({made.seconds:.1f} s)"
    )
    told = {
        "architecture": made.architecture,
        "compiled": made.compiled,
        "loaded": made.loaded,
        "failed": list(made.failed),
        "folder": None if made.folder is None else str(made.folder),
        "seconds": made.seconds,
    }
    write_json(chosen, told)
    if made.failed:
        raise Failure(f"{plural(len(made.failed), 'kernel')} did not compile: {made.failed[0]}")
    return 0


WARM = Command("warm", "compile what is stored ahead of programs", options, action, DESCRIPTION, EXAMPLES)
