"""`eintune growth`: what deriving costs, from workloads to long chains."""

from __future__ import annotations

import argparse
import os

from eintune.host.files import write_named
from eintune.search.options.command import Command, Failure, Usage, add_quiet, begin, path, positive
from eintune.search.options.files import check_writable
from eintune.search.options.sizes import several_sizes

DESCRIPTION = """\
Derives every workload, attention with each three of its modifiers, and chains of 6 to 48 operators; prints the size
of each e-graph, the seconds of each stage and the memory. Nothing is measured on a device.
"""
EXAMPLES = """\
examples:
  eintune growth
  eintune growth --csv results/cpu/growth.csv
  eintune growth --only chain --lengths 6,12,96
"""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="TEXT", help="rows whose group and name hold this text")
    parser.add_argument(
        "--combined", type=positive, default=3, metavar="N", help="modifiers at a time; default: %(default)s"
    )
    parser.add_argument("--lengths", type=several_sizes, metavar="N", help="of the chains; default: 6:48")
    parser.add_argument("--csv", type=path, metavar="FILE", help="also keep all rows here")
    add_quiet(parser)


def _growth(chosen: argparse.Namespace) -> int:
    check_writable(chosen, "csv")
    progress = begin(chosen)
    try:
        from eintune.search.evaluation.growth import LENGTHS, MODIFIERS, measure, tasks, to_csv, to_text
    except ModuleNotFoundError as error:  # `resource`, which counts memory and time of processes
        raise Failure(f"growth needs a Unix, as Python has no {error.name} here") from error
    if chosen.combined > len(MODIFIERS):
        raise Usage(f"--combined must be at most {len(MODIFIERS)}, but got {chosen.combined}")
    lengths = (chosen.lengths,) if isinstance(chosen.lengths, int) else chosen.lengths
    wanted = [t for t in tasks(chosen.combined, lengths or LENGTHS) if (chosen.only or "") in f"{t.group} {t.name}"]
    if not wanted:
        raise Usage(f"--only must be part of a row's group or name, but got {chosen.only!r}")
    load, rows = os.getloadavg()[0], []
    progress.become("derive")
    for i, row in enumerate(measure(wanted), 1):
        progress.stands(done=i, of=len(wanted), counted="derived")
        progress.say(f"{i}/{len(wanted)} {row.group} {row.name}: {row.cpu:.2f} s")
        rows.append(row)
    print(to_text(rows))
    if chosen.csv:
        write_named(chosen.csv, to_csv(rows, chosen.command_line, load).encode())
        print(f"\n{chosen.csv}")
    return 1 if any(r.error for r in rows) else 0


GROWTH = Command("growth", "what deriving costs", _options, _growth, DESCRIPTION, EXAMPLES)
