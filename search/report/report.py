"""The report of a run: measurements as CSV, pictures as PNG, a summary as JSON, and one HTML page of it all."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from eintune.host.files import write_whole
from eintune.search.text.csv_files import csv_bytes
from eintune.search.text.formatting import against, milliseconds, plural
from eintune.search.text.plain_json import finite
from eintune.search.tune.run import COLUMNS, MEASUREMENTS, SUMMARY, Run, ran

from . import page, plots
from .accuracy import accuracy, error_by, right
from .summary import paragraph

PAGE = "report.html"
SHOWN = 40
"""Rows of the candidates' table on the page; the CSV has all."""

CAPTIONS = {
    "parity": "Each time as the model predicted it just before measuring, fitted to earlier ones only.",
    "error": "The same ratio by the unit that the model says is busiest.",
    "regret": "How good a pick the model's first k candidates hold, against drawing k at random.",
    "progress": "The trials in the order they were measured.",
    "roofline": "Achieved rate over arithmetic intensity. Operations and bytes are the plan's own counts.",
    "stages": "Wall time.",
}


class ReportError(OSError):
    """The report could not be written; the message names the place and the reason."""


def write_report(run: Run, directory: Path) -> Path:
    """Write the run into `directory` (made if missing) and return the page's path. Raises ReportError.

    Each file is written beside its place and renamed, so that a full disk leaves the old report whole.
    """
    frame = frame_of(run)
    images = {name: png(figure) for name, figure in _figures(run, frame).items()}
    files = {
        MEASUREMENTS: csv_bytes(frame),
        SUMMARY: (json.dumps(finite(run.to_json()), indent=1, allow_nan=False) + "\n").encode(),
        **{f"{name}.png": png for name, png in images.items()},
        PAGE: html(run, frame, images).encode(),
    }
    write_files(files, directory)
    return directory / PAGE


def write_files(files: Mapping[str, bytes], directory: Path) -> None:
    """Write files, by name, into `directory` (made if missing), each whole or not at all. Raises ReportError."""
    try:
        for name, data in files.items():
            write_whole(directory / name, data)
    except OSError as error:
        raise ReportError(f"the report cannot be written to {directory}: {error.strerror or error}") from None


def frame_of(run: Run) -> pd.DataFrame:
    """The rows as a table; numbers are numbers."""
    frame = pd.DataFrame(list(run.rows), columns=list(COLUMNS))
    for name, kind in COLUMNS.items():
        if kind is not str:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame


def html(run: Run, frame: pd.DataFrame, images: Mapping[str, bytes]) -> str:
    """The page."""
    return page.page(
        run.title,
        [
            page.heading(run.title, f"{run.machine['title']} · {run.started} · {run.command}"),
            page.tiles(_tiles(run, frame)),
            page.lead(paragraph(run, frame)),
            page.section("Against others, in the same run", _peers(run)),
            page.section("The winner", *_winner(run)),
            page.section("The model and the search", page.pictures(_captioned(images)), _accuracy(frame)),
            page.section("Error by limiting unit", _errors(frame)),
            page.section("Whether fewer passes win", _passes(frame)),
            page.section("Candidates", _candidates(run, frame)),
            page.section("The space", _space(run)),
            page.section("Machine and versions", _machine(run)),
        ],
    )


def _figures(run: Run, frame: pd.DataFrame) -> dict[str, Figure]:
    plots.style()
    figures: dict[str, Figure] = {}
    if len(right(frame)):
        look = plots.Look.of(frame)
        figures["parity"] = plots.parity(frame, look)
        figures["progress"] = plots.progress(frame, look, run.best_peer)
        figures["regret"] = plots.regret_at_k(frame)
        figures["error"] = plots.error_by_unit(frame, look)
        figures["roofline"] = plots.roofline(frame, look, run.machine)
    if run.stages:
        figures["stages"] = plots.stages(run.stages)
    return figures


def png(figure: Figure) -> bytes:
    """A picture as the bytes of a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _captioned(images: Mapping[str, bytes]) -> list[tuple[bytes, str, str]]:
    return [(png, CAPTIONS[name], CAPTIONS[name]) for name, png in images.items()]


def _tiles(run: Run, frame: pd.DataFrame) -> dict[str, str]:
    shown: dict[str, str] = {}
    if run.winner:
        seconds = float(run.winner["seconds"])
        shown["the winner"] = milliseconds(seconds)
        if run.best_peer:
            shown[f"of {run.best_peer[0]}'s speed"] = f"{run.best_peer[1] / seconds:.2f}x"
    fitted = accuracy(frame, "predicted")
    if math.isfinite(fitted.typical_ratio):
        shown["model's error, rms factor"] = f"{fitted.typical_ratio:.2f}"
    if math.isfinite(fitted.spearman):
        shown["rank correlation"] = f"{fitted.spearman:.2f}"
    shown["cascades derived"] = f"{len(run.space['cascades'])}"
    shown["measured, of all candidates"] = f"{len(frame)} / {run.space['candidates']:,}"
    shown["the whole run"] = f"{sum(run.stages.values()):.0f} s"
    return shown


def _peers(run: Run) -> Markup:
    rows = [
        [name, milliseconds(p.get("seconds")), _spread(p), _ratio(run, p), str(p.get("message") or "")]
        for name, p in run.peers.items()
    ]
    win: int | None = None
    if run.winner:
        mine = ["eintune", milliseconds(run.winner["seconds"]), _spread(run.winner), "1.00x", str(run.winner["label"])]
        rows, win = [mine, *rows], 0
    return page.table(["", "time", "20% to 80%", "speed against eintune", ""], rows, (1, 2, 3), win)


def _spread(row: Mapping[str, Any]) -> str:
    if not row.get("low") or not row.get("high"):
        return "-"
    return f"{milliseconds(row['low'])} to {milliseconds(row['high'])}"


def _ratio(run: Run, peer: Mapping[str, Any]) -> str:
    return f"{run.winner['seconds'] / peer['seconds']:.2f}x" if run.winner and ran(peer) else "-"


def _winner(run: Run) -> list[Markup]:
    if not run.winner:
        return [page.lead("No candidate ran and was right.")]
    verdict = against(float(run.winner["seconds"]), *run.best_peer) if run.best_peer else "no peer ran"
    stored = f"Stored in {run.winner['record']}." if run.winner.get("record") else "Not stored."
    doubt = f" Beware: {run.winner['doubt']}." if run.winner.get("doubt") else ""
    return [
        page.lead(f"{run.winner['label']}: {verdict}. Schedule: {run.winner['knobs']}. {stored}{doubt}"),
        page.code(str(run.winner.get("cascade_text", ""))),
    ]


def _accuracy(frame: pd.DataFrame) -> Markup:
    rows = []
    for name, column in (("before any measurement", "prior"), ("just before each", "predicted")):
        a = accuracy(frame, column)
        if a.count:
            regrets = [f"{a.regret[k] * 100:.1f}%" if k in a.regret else "-" for k in (1, 2, 4, 8, 16)]
            rows.append([name, f"{a.count}", f"{a.spearman:.3f}", f"{a.typical_ratio:.2f}", f"{a.bias:.2f}", *regrets])
    header = ["predictions", "count", "Spearman", "rms factor", "measured / predicted"]
    return page.table([*header, *(f"regret at {k}" for k in (1, 2, 4, 8, 16))], rows, range(1, 10))


def _errors(frame: pd.DataFrame) -> Markup:
    if right(frame).empty:
        return page.NOTHING
    table = error_by(frame, "predicted", "limiter")
    rows = [
        [str(r.limiter), f"{r.count}", f"{r.bias:.2f}", f"{r.typical_ratio:.2f}"] for r in table.itertuples(index=False)
    ]
    return page.table(["limited by", "count", "measured / predicted", "rms factor"], rows, (1, 2, 3))


def _passes(frame: pd.DataFrame) -> Markup:
    """The best of each number of passes, as measured and as predicted before any measurement."""
    ok = right(frame)
    if ok.empty:
        return page.NOTHING
    best = ok.groupby("passes").agg(seconds=("seconds", "min"), prior=("prior", "min"), count=("seconds", "size"))
    first = best.iloc[0]
    rows = [
        [
            plural(int(n), "pass", "passes"),
            f"{r['count']:.0f}",
            milliseconds(r["seconds"]),
            f"{r['seconds'] / first['seconds']:.2f}x",
            milliseconds(r["prior"]),
            f"{r['prior'] / first['prior']:.2f}x",
        ]
        for n, r in best.iterrows()
    ]
    header = ["", "measured", "best time", "over the fewest", "best predicted", "over the fewest"]
    agree = best["seconds"].idxmin() == best["prior"].idxmin()
    told = f"The fastest has {plural(int(best['seconds'].idxmin()), 'pass', 'passes')}, as the model said before."
    other = f"The model said {plural(int(best['prior'].idxmin()), 'pass', 'passes')} before."
    return page.table(header, rows, range(1, 6)) + page.lead(told if agree else f"{told.split(',')[0]}. {other}")


def _candidates(run: Run, frame: pd.DataFrame) -> Markup:
    ordered = frame.sort_values("seconds", na_position="last").head(SHOWN)
    compiled = bool(frame["registers"].notna().any())
    rows = [
        [
            str(r.label),
            str(r.knobs),
            milliseconds(r.prior),
            milliseconds(r.predicted),
            milliseconds(r.seconds) if r.status == "ok" else str(r.status),
            str(r.limiter),
            *(_compiled(r) if compiled else []),
        ]
        for r in ordered.itertuples(index=False)
    ]
    header = ["cascade", "schedule", "prior", "predicted", "measured", "limiter"]
    header += ["shared", "registers", "spills"] if compiled else []
    winner = run.winner.get("key")
    keys = ordered["key"].to_list()
    left = len(frame) - len(ordered)
    note = page.lead(f"{plural(left, 'more row')} in {MEASUREMENTS}.") if left else page.NOTHING
    win = keys.index(winner) if winner in keys else None
    return page.table(header, rows, (2, 3, 4, 6, 7, 8), win, texts=(0, 1)) + note


def _compiled(row: Any) -> list[str]:
    shared = "" if pd.isna(row.shared_bytes) else f"{row.shared_bytes / 1024:.0f} KiB"
    return [shared, *("" if pd.isna(n) else f"{n:.0f}" for n in (row.registers, row.spills))]


def _space(run: Run) -> Markup:
    left_out = run.space.get("left_out", {})
    reasons = page.table(
        ["left out because", "candidates"], [[k, f"{n:,}"] for k, n in left_out.items()], (1,), texts=(0,)
    )
    texts = [
        page.folded(f"{c['label']} ({plural(int(c['passes']), 'pass', 'passes')})", page.code(c["text"]))
        for c in run.space["cascades"]
    ]
    return reasons + page.NOTHING.join(texts)


def _machine(run: Run) -> Markup:
    items = {**{f"machine: {k}": v for k, v in run.machine.items()}, **run.versions}
    fitted = {f"calibration: {k}": f"{v:.4g}" for k, v in run.calibration.items()}
    rows = [[k, f"{v:.4g}" if isinstance(v, float) else str(v)] for k, v in {**items, **fitted}.items()]
    return page.folded("Show", page.table(["", ""], rows))
