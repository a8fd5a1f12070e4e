"""A judgement as text, files and one page: CSV, pictures, and one HTML file that holds it all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from eintune.search.report import page, plots
from eintune.search.report.accuracy import error_by, right
from eintune.search.report.report import png, write_files
from eintune.search.text.csv_files import csv_bytes
from eintune.search.text.formatting import milliseconds, plural
from eintune.search.text.tables import text_table

from .judging import (
    FOUND,
    NEAR,
    NEAR_RANK,
    RANK,
    TOP,
    WITHIN,
    JudgedTarget,
    Judgement,
    NamedSpace,
    Verdict,
    by_passes,
    median,
)
from .judging_plots import pictures

PAGE = "judged.html"
CANDIDATES = "judged.csv"
HEADER = [
    "left out", "candidates", "Spearman", f"within {NEAR:g}x", "of", "top 1", f"top {TOP}", "error", "bias", "unfitted",
]  # fmt: skip
CAPTIONS = {
    "judged-parity-problems": "Each candidate as the model predicted it, fitted to the other problems only.",
    "judged-parity-cascades": "The same points by the kind of cascade.",
    "judged-regret": "The model's first k candidates of a problem hold one this close to its best of all drawn.",
    "judged-passes": "Whether fewer passes win where the model says so, and by how much.",
    "judged-error": "Measured over predicted by the unit that the model says is busiest.",
    "judged-roofline": "Achieved rate over arithmetic intensity. Operations and bytes are the plans' own counts.",
}
LIMITS = (
    "Only the calibration is held out: the model's form and its constants were chosen with spaces of this kind in "
    "view. "
    "Regret is against the best of the candidates drawn, not of the whole legal space."
)


def verdict_cells(v: Verdict) -> list[str]:
    """One row of the table under HEADER."""
    slower = [f"{x * 100:.1f}%" for x in (v.top1, v.top8)]
    ranks = f"{v.spearman:.3f}", f"{v.near:.3f}", f"{v.near_count}"
    return [v.name, f"{v.count}", *ranks, *slower, f"{v.error:.3f}", f"{v.bias:.2f}", f"{v.before:.3f}"]


def summary_cells(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """The medians, and the targets below them."""

    def middle(name: str) -> float:
        return median([getattr(v, name) for v in verdicts])

    medians = [f"{middle('spearman'):.3f}", f"{middle('near'):.3f}", "", f"{middle('top1') * 100:.1f}%"]
    medians += [f"{middle('top8') * 100:.1f}%", f"{middle('error'):.3f}", f"{middle('bias'):.2f}"]
    aims = ["", f">= {RANK.least}", f">= {NEAR_RANK.least}", "", "", f"<= {WITHIN * 100:g}% in {FOUND.least * 100:g}%"]
    return [["median", "", *medians, f"{middle('before'):.3f}"], ["should be", *aims, "", "", ""]]


def text(judgement: Judgement) -> str:
    """What `eintune judge` prints."""
    rows = [verdict_cells(v) for v in judgement.verdicts]
    short = judgement.short()
    lines = [text_table(HEADER, [*rows, *summary_cells(judgement.verdicts)], right=range(1, len(HEADER))), ""]
    lines += [f"  {_met(t, value)} {t.name}: {value:.2f} (at least {t.least:.2f})" for t, value in judgement.reached()]
    lines += ["", "falls short:" if short else "nothing falls short of the targets, over all or in one problem"]
    return "\n".join([*lines, *(f"  {s}" for s in short)])


def _met(target: JudgedTarget, value: float) -> str:
    return "reached" if value >= target.least else "MISSED "


def paragraph(judgement: Judgement) -> str:
    """The judgement in one paragraph, computed from its data."""
    verdicts, ok = judgement.verdicts, right(judgement.rows)
    ranks, near = ([getattr(v, name) for v in verdicts] for name in ("spearman", "near"))
    found = sum(v.top8 <= WITHIN for v in verdicts)
    first = sum(v.top1 <= WITHIN for v in verdicts)
    typical = math.exp(median([v.error for v in verdicts])) - 1
    text = (
        f"{plural(len(ok), 'kernel')} of {plural(len(verdicts), 'problem')} ran and were right. Fitted to the other "
        f"problems, the model ranks those of an unseen one with a median correlation of {_spread(ranks)}, and those "
        f"within {NEAR:g} times the best with {_spread(near)}; its times are off by {typical * 100:.0f}% (one "
        f"standard deviation, median). Its first candidate is within 3% of the best drawn in {first} of "
        f"{len(verdicts)} problems, one of its first {TOP} in {found}."
    )
    return " ".join([text, _passes_words(judgement), _worst_words(judgement)])


def _spread(values: Sequence[float]) -> str:
    known = [v for v in values if not math.isnan(v)]
    return f"{median(known):.2f} ({min(known):.2f} to {max(known):.2f})" if known else "none (too few to say)"


def _passes_words(judgement: Judgement) -> str:
    table = by_passes(judgement.rows)
    won = table.loc[table.groupby("space")["measured"].idxmin(), "passes"]
    said = table.loc[table.groupby("space")["predicted"].idxmin(), "passes"]
    agree = int((won.to_numpy() == said.to_numpy()).sum())
    sentence = (
        f"The number of passes that the model prefers is the one that measured fastest in {agree} of "
        f"{plural(len(won), 'problem')}"
    )
    parts = [
        f"{plural(int(n), 'pass', 'passes')} took {g['measured'].median():.2f} times the time of the fewest "
        f"(the model says {g['predicted'].median():.2f})"
        for n, g in table[table["measured"] != 1.0].groupby("passes")
    ]
    return sentence + ("; in the median " + " and ".join(parts) if parts else "") + "."


def _worst_words(judgement: Judgement) -> str:
    worst = max(judgement.verdicts, key=lambda v: v.error)
    lean = "slower" if worst.bias > 1 else "faster"
    return (
        f"It is least sure of {worst.name} (error {worst.error:.2f}), whose kernels are "
        f"{abs(worst.bias - 1) * 100:.0f}% {lean} than predicted."
    )


def write_judgement(judgement: Judgement, spaces: Sequence[NamedSpace], directory: Path) -> Path:
    """Write the files into `directory` (made if missing) and return the page's path. Raises ReportError."""
    plots.style()
    images = {name: png(figure) for name, figure in pictures(judgement).items()}
    files = {
        CANDIDATES: csv_bytes(judgement.rows, "%.6g"),
        **{f"{name}.png": data for name, data in images.items()},
        PAGE: html(judgement, spaces, images).encode(),
    }
    write_files(files, directory)
    return directory / PAGE


def html(judgement: Judgement, spaces: Sequence[NamedSpace], images: Mapping[str, bytes]) -> str:
    """The page."""
    title = f"The cost model, judged on {plural(len(spaces), 'problem')} of the {judgement.machine['title']}"
    rows = [verdict_cells(v) for v in judgement.verdicts] + summary_cells(judgement.verdicts)
    short = judgement.short() or ["Nothing: every target is reached, in each problem and over all."]
    captioned = [(data, CAPTIONS[name], CAPTIONS[name]) for name, data in images.items()]
    return page.page(
        title,
        [
            page.heading(title, "Each problem is left out of the fit in turn, then predicted."),
            page.tiles(_tiles(judgement)),
            page.lead(paragraph(judgement)),
            page.section("Each problem, left out", page.table(HEADER, rows, range(1, len(HEADER)))),
            page.section("What falls short", page.items(short), page.lead(LIMITS)),
            page.section("Pictures", page.pictures(captioned)),
            page.section("Whether fewer passes win", _passes(judgement.rows)),
            page.section("Error by limiting unit", _errors(judgement)),
            page.section("The spaces", _spaces(spaces)),
            page.section("Calibration fitted to all of them", _calibration(judgement)),
        ],
    )


def _tiles(judgement: Judgement) -> dict[str, str]:
    return {f"{t.name} (at least {t.least:.2f})": f"{value:.2f}" for t, value in judgement.reached()}


def _errors(judgement: Judgement) -> Markup:
    table = error_by(judgement.rows, "predicted", "limiter")
    rows = [
        [str(r.limiter), f"{r.count}", f"{r.bias:.2f}", f"{r.typical_ratio:.2f}"] for r in table.itertuples(index=False)
    ]
    return page.table(["limited by", "count", "measured / predicted", "rms factor"], rows, (1, 2, 3))


def _passes(rows: pd.DataFrame) -> Markup:
    """By problem: which number of passes was fastest, which the model said, and what more cost over the fewest."""
    table = by_passes(rows)
    counts = sorted(table["passes"].unique())
    header = ["problem", "fastest", "the model says"]
    for n in counts[1:]:
        header += [f"{plural(int(n), 'pass', 'passes')} over {counts[0]}, measured", "predicted"]
    lines = []
    for space, group in table.groupby("space", sort=False):
        by = group.set_index("passes")
        won, said = (plural(int(by[name].idxmin()), "pass", "passes") for name in ("measured", "predicted"))
        there = [n if n in by.index else None for n in counts[1:]]
        ratios = [f"{by.loc[n, c]:.2f}x" if n else "-" for n in there for c in ("measured", "predicted")]
        lines.append([str(space), won, said, *ratios])
    return page.table(header, lines, range(3, len(header)))


def _spaces(spaces: Sequence[NamedSpace]) -> Markup:
    rows = []
    for name, s in ((n.name, n.space) for n in spaces):
        best = min(s.entries[i].measurement.seconds for i in s.ran)
        peers = ", ".join(f"{k} {milliseconds(v)}" for k, v in (s.peers or {}).items())
        drawn = f"{len(s.entries)} of {s.drawn_from:,}, seed {s.seed}"
        clocks = f"{min(s.clocks)} to {max(s.clocks)} MHz" if s.clocks else "-"
        failed = f"{len(s.entries) - len(s.ran)}"
        rows.append([name, drawn, failed, milliseconds(best), peers, clocks, s.started[:10]])
    header = ["problem", "drawn", "failed", "best", "others in the same run", "SM clock between batches", "recorded"]
    return page.table(header, rows, (2, 3), texts=(4,)) + page.lead(
        "Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(spaces[0].space.versions.items())) + "."
    )


def _calibration(judgement: Judgement) -> Markup:
    return page.table(["", ""], [[k, f"{v:.4g}"] for k, v in judgement.calibration.to_json().items()], (1,))
