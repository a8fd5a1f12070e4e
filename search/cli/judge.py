"""`eintune judge`: hold the cost model against recorded spaces that its fit has not seen."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from eintune.search.options.command import Command, Failure, as_usage, path
from eintune.search.options.files import check_writable

DESCRIPTION = """\
Reads recorded spaces (`eintune record`), fits the cost model to all but one, predicts the one left out, and does so
for each in turn. Prints how well it ranks and how far off it is beside what it should reach, and what falls short;
writes pictures, a CSV of all candidates and one page.
"""
EXAMPLES = """\
examples:
  eintune judge results/h200/spaces
  eintune judge results/h200/spaces --out /tmp/judged --machine h200
"""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "places", type=path, nargs="+", metavar="DIR", help="folders of recorded spaces, or single files of them"
    )
    parser.add_argument(
        "--machine", metavar="NAME", help="price for this machine; default: the one the spaces were recorded on"
    )
    parser.add_argument(
        "--out", type=path, metavar="DIR", help="where the files go; default: the first folder's parent"
    )


def _judge(chosen: argparse.Namespace) -> int:
    from eintune.costmodel.machines.machine import load_machine
    from eintune.search.evaluation.judging import judge, read_spaces
    from eintune.search.evaluation.judging_report import paragraph, text, write_judgement
    from eintune.search.evaluation.recorded_space import SpaceError
    from eintune.search.report.report import ReportError
    from eintune.search.text.tables import wrapped

    check_writable(chosen, "out")
    try:
        spaces = read_spaces(chosen.places)
    except SpaceError as error:
        raise Failure(str(error)) from error
    with as_usage():
        machine = load_machine(chosen.machine or spaces[0].space.machine)
    try:
        judgement = judge(spaces, machine)
    except SpaceError as error:
        raise Failure(str(error)) from error
    print(text(judgement))
    print("\n" + "\n".join(wrapped(paragraph(judgement))))
    try:
        written = write_judgement(judgement, spaces, chosen.out or Path(os.path.realpath(chosen.places[0])).parent)
    except ReportError as error:
        raise Failure(str(error)) from error
    print(f"\n{written}")
    return 0


JUDGE = Command("judge", "hold the cost model against recorded spaces", _options, _judge, DESCRIPTION, EXAMPLES)
