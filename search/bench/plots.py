"""The benchmark's picture: time, and share of the machine's matrix ceiling, against sequence length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator, PercentFormatter

from eintune.search.report.plots import MARKS, plain_ticks, style

from .case import STATES, WINNER
from .sweep import Result

SHADES = {"1": "Greens", "2": "Oranges", "3": "Reds"}
"""Our kinds by their passes: greens, oranges, reds."""
PEERS = "blend:#00b4c8,#2f6fdb,#3b3fa8,#8e44ad,#d6279f"
"""Peers: from blue to violet, dashed, so that none looks like one of ours."""


@dataclass(frozen=True)
class PlotLine:
    """How a variant is drawn."""

    colour: Any
    mark: str
    dash: str
    width: float


def lines_of(frame: pd.DataFrame) -> dict[str, PlotLine]:
    """One line style a variant that ran: the winner black, our kinds solid and coloured by passes, peers dashed."""
    ran = set(frame[frame["status"] == "ok"]["variant"])
    names = {by: [n for n in dict.fromkeys(group["variant"]) if n in ran] for by, group in frame.groupby("by")}
    kinds = [n for n in names.get("eintune", []) if n != WINNER]
    found: dict[str, PlotLine] = {}
    if WINNER in names.get("eintune", []):
        found[WINNER] = PlotLine("#111111", "*", "-", 2.6)
    for passes, shade in SHADES.items():
        same = [k for k in kinds if f" {passes}-pass" in k]
        colours = sns.color_palette(shade, len(same) + 2)[1:-1]
        found |= {k: PlotLine(colours[i], MARKS[i], "-", 1.7) for i, k in enumerate(same)}
    rest = [k for k in kinds if k not in found]
    found |= {k: PlotLine("#888888", MARKS[i % len(MARKS)], "-", 1.7) for i, k in enumerate(rest)}
    peers = names.get("peer", [])
    colours = sns.color_palette(PEERS, len(peers))
    found |= {p: PlotLine(colours[i], MARKS[i % len(MARKS)], "--", 1.4) for i, p in enumerate(peers)}
    return found


def picture(frame: pd.DataFrame, result: Result) -> Figure:
    """Two panels a state: milliseconds, and the share of the measured matrix rate."""
    style()
    states = result.options.states
    lines = lines_of(frame)
    figure = Figure(figsize=(13.5, 5.2 * len(states) + 1.0), layout="constrained")
    panels = figure.subplots(len(states), 2, squeeze=False)
    for (left, right), state in zip(panels, states, strict=True):
        ran = frame[(frame["state"] == state) & (frame["status"] == "ok")]
        _draw(left, ran, "ms", lines)
        _draw(right, ran, "share_of_ceiling", lines)
        told = "" if states == ("interleaved",) else f", {state}"
        left.set(yscale="log", ylabel="milliseconds", title=f"Time{told}")
        plain_ticks(left, y_only=True)
        right.set(
            ylabel=f"of {_rate(float(result.machine['matrix_flops']))}, the matrix rate",
            title=f"Share of the matrix ceiling{told}",
        )
        right.set_ylim(bottom=0)
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        for axes in (left, right):
            _lengths(axes, result)
    title = f"{result.setting.title}, on {result.machine['title']}"
    told = "\n".join(f"{s}: {STATES[s]}" for s in states if s != "interleaved")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    figure.supxlabel(told, fontsize=10)
    handles, labels = panels[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", fontsize=9, frameon=False)
    return figure


def _rate(flops: float) -> str:
    return f"{flops / 1e12:.3g} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.3g} GFLOP/s"


def _draw(axes: Axes, frame: pd.DataFrame, column: str, lines: dict[str, PlotLine]) -> None:
    for name, line in lines.items():
        points = frame[frame["variant"] == name].sort_values("seq")
        axes.plot(
            points["seq"],
            points[column],
            line.dash,
            color=line.colour,
            marker=line.mark,
            linewidth=line.width,
            markersize=11 if name == WINNER else 6,
            label=name,
            alpha=0.95,
            zorder=3 if name == WINNER else 2,
        )


def _lengths(axes: Axes, result: Result) -> None:
    axes.set(xscale="log", xlabel="sequence length")
    axes.xaxis.set_major_locator(FixedLocator(list(result.setting.lengths)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
