"""Pictures of a judgement: one function a picture, each returning a Figure."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from eintune.search.report.accuracy import random_regret, regret, right
from eintune.search.report.plots import GREY, HEIGHT, WIDTH, Look, error_by_unit, legend_below, parity, roofline

from .judging import Judgement, by_passes

KS = (1, 2, 4, 8, 16, 32)
RANDOM = "drawn at random (mean)"


def pictures(judgement: Judgement) -> dict[str, Figure]:
    """By file name without its ending."""
    rows = judgement.rows
    problems = rows.assign(label=rows["space"])
    return {
        "judged-parity-problems": parity(problems, Look.of(problems), "by problem"),
        "judged-parity-cascades": parity(rows, Look.of(rows), "by cascade"),
        "judged-regret": regret_by_problem(rows),
        "judged-passes": passes(rows),
        "judged-error": error_by_unit(rows, Look.of(rows)),
        "judged-roofline": roofline(problems, Look.of(problems), judgement.machine),
    }


def regret_by_problem(rows: pd.DataFrame) -> Figure:
    """How much slower than the best of its space the best of the model's first k is, and of k drawn at random."""
    points = []
    for name, frame in right(rows).groupby("space"):
        for k in (k for k in KS if k <= len(frame)):
            points.append({"k": k, "regret": 100 * regret(frame, "predicted", k), "space": str(name)})
            points.append({"k": k, "regret": 100 * random_regret(frame, k), "space": RANDOM})
    table = pd.DataFrame(points).groupby(["space", "k"], as_index=False).mean()
    look = Look.of(table[table["space"] != RANDOM].rename(columns={"space": "label"}))
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.axhline(3, color=GREY, linewidth=1, linestyle="--", label="3%")
    drawn = table[table["space"] == RANDOM]
    axes.plot(drawn["k"], drawn["regret"], color="#111111", linewidth=2, linestyle=":", label=RANDOM)
    sns.lineplot(
        data=table[table["space"] != RANDOM],
        x="k",
        y="regret",
        hue="space",
        style="space",
        markers=look.marks,
        palette=look.colours,
        ax=axes,
    )
    axes.set(xscale="log", xlabel="candidates measured, k", ylabel="slower than the best, %", title="Regret at k")
    axes.set_yscale("symlog", linthresh=3)
    ks = [k for k in KS if k in set(table["k"])]
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.set_yticks([0, 1, 3, 10, 30, 100, 300], ["0", "1", "3", "10", "30", "100", "300"])
    axes.set_ylim(bottom=-0.3)
    axes.minorticks_off()
    legend_below(figure, axes)
    return figure


def passes(rows: pd.DataFrame) -> Figure:
    """The best of each number of passes over the best of the fewest: measured and predicted, by problem."""
    table = by_passes(rows).melt(["space", "passes"], ["measured", "predicted"], "which", "times")
    table["bar"] = table["passes"].map(lambda n: f"{n} pass{'es' if n > 1 else ''}") + ", " + table["which"]
    colours = dict(zip(sorted(table["bar"].unique()), sns.color_palette("Paired"), strict=False))
    count = table["space"].nunique()
    figure = Figure(figsize=(WIDTH, max(2.6, 0.46 * count + 1.0)), layout="constrained")
    axes = figure.subplots()
    sns.barplot(data=table, y="space", x="times", hue="bar", hue_order=list(colours), palette=colours, ax=axes)
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set(xlabel="best time over the best of one pass", ylabel="", title="What more passes cost")
    legend_below(figure, axes, 3)
    return figure
