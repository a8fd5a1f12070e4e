"""The report's pictures: seaborn on a table of trials, one function a picture, each returning a Figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from .accuracy import random_regret, regret, right

MARKS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "*", "p", "h")
GREY = "#666666"


def style() -> None:
    """Seaborn's look for all pictures; colours are distinct for colour-blind readers. No label is mathematics."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette="colorblind",
        rc={"axes.titleweight": "bold", "axes.titlesize": 12, "text.parse_math": False},
    )


WIDTH, HEIGHT = 5.6, 4.2
"""Inches, without the legend: so small that letters can still be read where a page is as narrow as a phone."""
LINE = 0.19
"""Inches of a line of the legend."""
LONG = 34
"""Characters of a label above which a legend has one column."""
MANY = 300
"""Points above which marks are small and transparent."""


def _figure(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


@dataclass(frozen=True)
class Look:
    """One colour and one mark a cascade, the same in every picture of a report."""

    colours: dict[str, Any]
    marks: dict[str, str]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Look:
        labels = sorted(frame["label"].astype(str).unique())
        colours = sns.color_palette("colorblind" if len(labels) <= 10 else "husl", len(labels))
        marks = {label: MARKS[i % len(MARKS)] for i, label in enumerate(labels)}
        return cls(dict(zip(labels, colours, strict=True)), marks)


def _scatter(axes: Axes, frame: pd.DataFrame, x: str, y: str, look: Look) -> None:
    there = [label for label in look.marks if (frame["label"] == label).any()]
    sns.scatterplot(
        data=frame,
        x=x,
        y=y,
        hue="label",
        hue_order=there,
        style="label",
        style_order=there,
        markers=look.marks,
        palette=look.colours,
        s=18 if len(frame) > MANY else 60,
        alpha=0.6 if len(frame) > MANY else 0.9,
        linewidth=0.2 if len(frame) > MANY else 0.8,
        ax=axes,
    )


def legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """The legend under the picture, in as many columns as its labels leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    if (own := axes.get_legend()) is not None:
        own.remove()
    if not handles:
        return
    ncol = 1 if max(map(len, labels)) > LONG else columns
    figure.set_figheight(figure.get_figheight() + LINE * math.ceil(len(labels) / ncol))
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncol=ncol, fontsize=9, frameon=False, columnspacing=1.2
    )
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D):
            handle.set_alpha(1.0)
            handle.set_markersize(min(float(handle.get_markersize()), 8.0))


def parity(frame: pd.DataFrame, look: Look, by: str = "") -> Figure:
    """Predicted (just before measuring) against measured milliseconds, by cascade; on the diagonal is right."""
    ok = right(frame)
    points = pd.DataFrame(
        {"predicted, ms": ok["predicted"] * 1e3, "measured, ms": ok["seconds"] * 1e3, "label": ok["label"]}
    )
    figure, axes = _figure()
    low = float(points[["predicted, ms", "measured, ms"]].min().min()) * 0.8
    high = float(points[["predicted, ms", "measured, ms"]].max().max()) * 1.25
    line = np.array([low, high])
    axes.fill_between(line, line / 1.25, line * 1.25, color=GREY, alpha=0.12, linewidth=0, label="within 25%")
    axes.plot(line, line, color=GREY, linewidth=1, label="predicted = measured")
    _scatter(axes, points, "predicted, ms", "measured, ms", look)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set(title=f"Predicted against measured{by and ', ' + by}")
    axes.set_aspect("equal")
    plain_ticks(axes)
    legend_below(figure, axes)
    return figure


def error_by_unit(frame: pd.DataFrame, look: Look) -> Figure:
    """measured / predicted by the unit that the model says limits the candidate."""
    ok = right(frame)
    points = pd.DataFrame(
        {"ratio": ok["seconds"] / ok["predicted"], "limited by": ok["limiter"].astype(str), "label": ok["label"]}
    ).sort_values("limited by")
    figure, axes = _figure()
    axes.axhspan(1 / 1.25, 1.25, color=GREY, alpha=0.12, linewidth=0)
    axes.axhline(1, color=GREY, linewidth=1)
    with _always_the_same():
        sns.stripplot(
            data=points, x="limited by", y="ratio", hue="label", palette=look.colours, ax=axes, **_dots(len(points))
        )
    sns.pointplot(
        data=points,
        x="limited by",
        y="ratio",
        ax=axes,
        estimator="median",
        errorbar=("pi", 50),
        linestyle="none",
        marker="_",
        markersize=30,
        markeredgewidth=2.2,
        color="#111111",
        err_kws={"linewidth": 2.0, "zorder": 9},
        zorder=10,
        label="median, middle half",
    )
    spread = max(2.0, float(np.exp(np.abs(np.log(points["ratio"])).max())) * 1.1)
    axes.set(yscale="log", ylim=(1 / spread, spread), ylabel="measured / predicted", title="Error by limiting unit")
    plain_ticks(axes, y_only=True)
    legend_below(figure, axes)
    return figure


@contextmanager
def _always_the_same() -> Iterator[None]:
    """Seaborn jitters points by NumPy's global generator: the same data must give the same picture."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)


def _dots(count: int) -> dict[str, float]:
    return {"size": 3, "jitter": 0.28, "alpha": 0.5} if count > MANY else {"size": 7, "jitter": 0.18}


def regret_at_k(frame: pd.DataFrame) -> Figure:
    """How much slower than the best measured is the best of the model's first k."""
    ok = right(frame)
    ks = list(range(1, len(ok) + 1))
    columns = {
        "model before any measurement": [regret(ok, "prior", k) for k in ks],
        "model as re-fitted": [regret(ok, "predicted", k) for k in ks],
        "drawn at random (expected)": [random_regret(ok, k) for k in ks],
    }
    points = pd.DataFrame({"k": ks, **columns}).melt("k", var_name="ranking", value_name="regret")
    points["regret"] *= 100
    figure, axes = _figure()
    sns.lineplot(
        data=points, x="k", y="regret", hue="ranking", style="ranking", markers=True, dashes=False, ax=axes, alpha=0.85
    )
    axes.set(xlabel="candidates measured, k", ylabel="slower than the best, %", title="Regret at k")
    axes.set_ylim(bottom=-0.02 * max(float(points["regret"].max()), 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, axes)
    return figure


def progress(frame: pd.DataFrame, look: Look, peer: tuple[str, float] | None) -> Figure:
    """Each trial in the order it was measured, the best so far, and the fastest peer."""
    figure, axes = _figure()
    points = frame.assign(trial=range(1, len(frame) + 1), ms=frame["seconds"].astype(float) * 1e3)
    ok = right(points)
    best = ok.assign(best=ok["ms"].cummin())
    axes.step(best["trial"], best["best"], where="post", color="#222222", linewidth=1.5, label="best so far")
    _scatter(axes, ok, "trial", "ms", look)
    failed = points[points["status"] != "ok"]
    if len(failed):
        top = float(ok["ms"].max()) if len(ok) else 1.0
        axes.plot(failed["trial"], [top * 1.15] * len(failed), "x", color="#b22222", label="failed")
    if peer is not None:
        axes.axhline(peer[1] * 1e3, color="#b22222", linestyle="--", linewidth=1.2, label=peer[0])
    axes.set(xlabel="trial", ylabel="milliseconds", yscale="log", title="The search")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_ticks(axes, y_only=True)
    legend_below(figure, axes)
    return figure


def roofline(frame: pd.DataFrame, look: Look, machine: Mapping[str, Any]) -> Figure:
    """Floating-point rate against arithmetic intensity, under the machine's ceilings."""
    ok = right(frame)
    flops = ok["tensor_flops"].astype(float) + ok["fma_flops"].astype(float)
    points = pd.DataFrame(
        {
            "intensity": flops / ok["hbm_bytes"].astype(float).clip(lower=1),
            "rate": flops / ok["seconds"].astype(float) / 1e12,
            "label": ok["label"],
        }
    )
    figure, axes = _figure()
    bandwidth = float(machine["hbm_bytes_per_second"]) / 1e12
    speed = f"{bandwidth:.3g} TB/s" if bandwidth >= 1 else f"{bandwidth * 1e3:.3g} GB/s"
    roofs = {"matrix rate": float(machine["matrix_flops"]) / 1e12}
    if machine["fma_flops"] != machine["matrix_flops"]:
        roofs["FMA rate"] = float(machine["fma_flops"]) / 1e12
    x = np.geomspace(
        min(float(points["intensity"].min()), 1.0) / 2,
        max(float(points["intensity"].max()), 2 * max(roofs.values()) / bandwidth) * 2,
        200,
    )
    for (name, roof), dash in zip(roofs.items(), ("-", "--"), strict=False):
        axes.plot(
            x, np.minimum(x * bandwidth, roof), dash, color=GREY, linewidth=1.3, label=f"{name}, {roof:.3g} TFLOP/s"
        )
    _scatter(axes, points, "intensity", "rate", look)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="floating-point operations per byte of main memory",
        ylabel="TFLOP/s",
        title=f"Roofline, {machine['title']} ({speed})",
    )
    plain_ticks(axes)
    legend_below(figure, axes)
    return figure


def stages(seconds: Mapping[str, float]) -> Figure:
    """Where the wall time of the run went."""
    table = pd.DataFrame({"stage": list(seconds), "seconds": list(seconds.values())})
    figure, axes = _figure(WIDTH, 0.42 * len(table) + 1.3)
    sns.barplot(data=table, y="stage", x="seconds", ax=axes, color="#4c72b0", width=0.65)
    for i, value in enumerate(table["seconds"]):
        axes.text(value, i, f" {value:.2f} s", va="center", fontsize=9)
    axes.set(title="Time of each stage", xlabel="seconds", ylabel="")
    axes.margins(x=0.14)
    return figure


def plain_ticks(axes: Axes, y_only: bool = False) -> None:
    """Plain numbers (0.2, 5, 100) on logarithmic axes, also between the powers of ten where these are few."""
    for axis in (axes.yaxis,) if y_only else (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        narrow = math.log10(max(high, 1e-30) / max(low, 1e-30)) < 2.5
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
