"""`eintune report` and `eintune replay`: look again at what was measured, without measuring."""

from __future__ import annotations

import argparse

from eintune.search.options.command import Command, Usage, as_usage, path, positive

REPORT_HELP = "Writes a results folder's pictures and page again from its CSV and JSON, and prints what they say."
REPLAY_HELP = """\
Runs the search strategies over the candidates that a results folder holds, with the recorded times in place of a
device, and prints how soon each finds the best.
"""
REPLAY_EXAMPLES = """\
examples:
  eintune replay results/nvidia-h200/attention-b1-h32-s2048-d128-bf16
  eintune replay DIR --seeds 20
"""


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, metavar="DIR", help="a folder that `tune` wrote")


def _report(chosen: argparse.Namespace) -> int:
    from eintune.search.report.report import frame_of, write_report
    from eintune.search.report.summary import paragraph
    from eintune.search.text.tables import wrapped
    from eintune.search.tune.run_files import read_run

    run = read_run(chosen.folder)
    page = write_report(run, chosen.folder)
    print(f"{run.title}\non {run.machine['title']}, {run.started}\n")
    print("\n".join(wrapped(paragraph(run, frame_of(run)))))
    print(f"\n{page}")
    return 0


def _replay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, metavar="DIR", help="a folder that `tune` wrote")
    parser.add_argument(
        "--seeds", type=positive, default=10, metavar="N", help="repeats of random strategies; default: 10"
    )
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="points measured together; default: 1")


def _replay(chosen: argparse.Namespace) -> int:
    from eintune.search.text.tables import text_table
    from eintune.search.tune.replay import replay
    from eintune.search.tune.run_files import read_run

    run = read_run(chosen.folder)
    with as_usage():
        curves = replay(run, seeds=chosen.seeds, batch=chosen.batch)
    if not curves:
        raise Usage(f"{chosen.folder}: must hold at least 2 candidates that ran, but has fewer")
    ks = [k for k in (1, 2, 4, 8, 16, 32) if k <= len(next(iter(curves.values())))]
    rows = [[name, *(f"{curve[k - 1] * 100:.1f}%" for k in ks)] for name, curve in curves.items()]
    print(f"{run.title}: slower than the best after k measurements (mean of {chosen.seeds} seeds)")
    print(text_table(["strategy", *(f"k={k}" for k in ks)], rows, right=range(1, len(ks) + 1)))
    return 0


REPORT = Command("report", "write a results folder's page again", _report_options, _report, REPORT_HELP)
REPLAY = Command(
    "replay", "compare search strategies on recorded times", _replay_options, _replay, REPLAY_HELP, REPLAY_EXAMPLES
)
