"""`eintune definitions`: the table of definitions from papers, with the passes that they should have and have."""

from __future__ import annotations

import argparse

from eintune.host.files import write_named
from eintune.search.options.command import Command, Failure, Usage, add_quiet, begin, path
from eintune.search.options.files import check_writable

DESCRIPTION = """\
Derives definitions from papers and practice, checks the best form of each in float64, and runs it by both emitters,
Triton's kernel in Triton's interpreter. Says where the passes are not those that they should be. Nothing is measured on
a device.
"""
EXAMPLES = """\
examples:
  eintune definitions
  eintune definitions --only attention
  eintune definitions --markdown docs/definitions.md
"""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="TEXT", help="definitions whose name holds this text")
    parser.add_argument("--markdown", type=path, metavar="FILE", help="write the table here as Markdown")
    add_quiet(parser)


def _definitions(chosen: argparse.Namespace) -> int:
    check_writable(chosen, "markdown")
    progress = begin(chosen)
    from eintune.search.evaluation.definitions import definitions, measured, to_markdown

    try:
        from eintune.search.evaluation.growth import machine
    except ModuleNotFoundError as error:  # `resource`, which counts time of processes
        raise Failure(f"definitions needs a Unix, as Python has no {error.name} here") from error
    wanted = [d for d in definitions() if (chosen.only or "") in d.name]
    if not wanted:
        raise Usage(f"--only must be part of a definition's name, but got {chosen.only!r}")
    rows = []
    progress.become("derive")
    for i, row in enumerate(measured(wanted), 1):
        short = f"{row.passes} passes, should be {row.definition.passes}, {row.seconds:.2f} s"
        progress.stands(done=i, of=len(wanted), counted="derived, run and compared")
        progress.say(f"{i}/{len(wanted)} {row.definition.name}: {short}")
        for emitter, outcome in row.kernels.items():
            if isinstance(outcome, str):
                progress.say(f"  {emitter}: {outcome}")
        rows.append(row)
    page = to_markdown(rows, machine())
    if chosen.markdown:
        write_named(chosen.markdown, page.encode())
        print(chosen.markdown)
    else:
        print(page)
    return 0


DEFINITIONS = Command("definitions", "definitions and their passes", _options, _definitions, DESCRIPTION, EXAMPLES)
