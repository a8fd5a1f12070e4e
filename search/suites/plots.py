"""A suite's picture: how many times as fast as each peer we are, a line a case, a panel a state."""

from __future__ import annotations

import math

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from eintune.search.bench.case import STATES, WINNER
from eintune.search.report.plots import GREY, MARKS, style

from .run import SuiteResult
from .text import comparison, means, short_names

NARROW = 6.0
"""Axes that span less than this factor have ticks between the powers of two."""


def picture(result: SuiteResult) -> Figure:
    """Right of 1 we are faster. Peers that did not run have no mark."""
    style()
    points = _points(result)
    names = list(dict.fromkeys(points["variant"]))
    colours = dict(zip(names, sns.color_palette("colorblind", max(len(names), 1)), strict=False))
    marks = {name: MARKS[i % len(MARKS)] for i, name in enumerate(names)}
    states = [s for s in STATES if (points["state"] == s).any()] or ["interleaved"]
    cases = [case.name for case in result.cases]
    figure = Figure(figsize=(5.0 + 4.2 * len(states), 0.42 * len(cases) + 2.4), layout="constrained")
    panels = figure.subplots(1, len(states), squeeze=False, sharey=True)[0]
    for axes, state in zip(panels, states, strict=True):
        at = points[points["state"] == state]
        for name in names:
            one = at[at["variant"] == name]
            rows = [cases.index(c) for c in one["case"]]
            axes.plot(one["ratio"], rows, marks[name], color=colours[name], label=name, markersize=8, alpha=0.9)
        _dress(axes, result, state, points["ratio"].to_list(), cases)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncol=min(len(labels), 6), fontsize=9, frameon=False)
    figure.suptitle(f"{result.suite.title}, on {result.machine['title']}", fontsize=13, fontweight="bold")
    return figure


def _points(result: SuiteResult) -> pd.DataFrame:
    """Each peer's time over our winner's, where both ran."""
    frame = result.frame
    ran = frame[frame["status"] == "ok"]
    mine = ran[ran["variant"] == WINNER][["case", "state", "ms"]].rename(columns={"ms": "ours"})
    others = ran[ran["by"] != "eintune"].merge(mine, on=["case", "state"])
    return others.assign(ratio=others["ms"] / others["ours"])


def _dress(axes: Axes, result: SuiteResult, state: str, ratios: list[float], cases: list[str]) -> None:
    axes.axvline(1, color=GREY, linewidth=1.3)
    axes.set_xscale("log")
    low, high = min([1.0, *ratios]) / 1.15, max([1.0, *ratios]) * 1.15
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    short = short_names(cases)
    axes.set_yticks(range(len(cases)), [short[c] for c in cases], fontsize=9)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    mean = means(comparison(result)).get(state, {}).get("ratio", math.nan)
    told = f"\n{mean:.2f}x the best peer (geometric mean)" if math.isfinite(mean) else ""
    axes.set(xlabel="times as fast as the peer", title=f"{state}{told}")


def _ticks(low: float, high: float) -> list[float]:
    """Powers of two, with halves between where the axis is short, and every second or third where it is long."""
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    step = max(1, len(powers) // 5)
    ticks = [2.0**p for p in powers if p % step == 0]
    if high / low < NARROW:
        ticks += [1.5 * 2.0**p for p in range(min(powers, default=0) - 1, max(powers, default=0) + 1)]
    return sorted(t for t in ticks if low <= t <= high)
