"""Pictures of a judgement: one function a picture, each returning a Figure."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .accuracy import random_regret, regret, right
from .judging import Judgement, by_passes
from .plots import GREY, Look, error_by_unit, parity

KS = (1, 2, 4, 8, 16, 32)


def pictures(judgement: Judgement) -> dict[str, Figure]:
    """By file name without its ending."""
    rows = judgement.rows
    problems = rows.assign(label=rows["space"])
    return {
        "judged-parity-problems": parity(problems, Look.of(problems)),
        "judged-parity-cascades": parity(rows, Look.of(rows)),
        "judged-regret": regret_by_problem(rows),
        "judged-passes": passes(rows),
        "judged-error": error_by_unit(problems, Look.of(problems)),
    }


def regret_by_problem(rows: pd.DataFrame) -> Figure:
    """How much slower than the best of its space the best of the model's first k is, and of k drawn at random."""
    points = []
    for name, frame in right(rows).groupby("space"):
        for k in (k for k in KS if k <= len(frame)):
            points.append({"k": k, "regret": 100 * regret(frame, "predicted", k), "space": str(name)})
            points.append({"k": k, "regret": 100 * random_regret(frame, k), "space": "drawn at random (mean)"})
    table = pd.DataFrame(points).groupby(["space", "k"], as_index=False).mean()
    look = Look.of(table.rename(columns={"space": "label"}))
    figure = Figure(figsize=(7.0, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(3, color=GREY, linewidth=1, linestyle="--", label="3%")
    sns.lineplot(
        data=table, x="k", y="regret", hue="space", style="space", markers=look.marks, palette=look.colours, ax=axes
    )
    axes.set(xscale="log", xlabel="candidates measured, k", ylabel="slower than the best, %", title="Regret at k")
    axes.set_yscale("symlog", linthresh=3)
    ks = [k for k in KS if k in set(table["k"])]
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.set_yticks([0, 1, 3, 10, 30, 100, 300], ["0", "1", "3", "10", "30", "100", "300"])
    axes.set_ylim(bottom=-0.3)
    axes.minorticks_off()
    _legend(figure)
    return figure


def passes(rows: pd.DataFrame) -> Figure:
    """The best of each number of passes over the best of the fewest: measured and predicted, by problem."""
    table = by_passes(rows).melt(["space", "passes"], ["measured", "predicted"], "which", "times")
    table["bar"] = table["passes"].map(lambda n: f"{n} pass{'es' if n > 1 else ''}") + ", " + table["which"]
    colours = dict(zip(sorted(table["bar"].unique()), sns.color_palette("Paired"), strict=False))
    count = table["space"].nunique()
    figure = Figure(figsize=(7.0, max(3.2, 0.62 * count + 1.6)), layout="constrained")
    axes = figure.subplots()
    sns.barplot(data=table, y="space", x="times", hue="bar", hue_order=list(colours), palette=colours, ax=axes)
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set(xlabel="best time over the best of one pass", ylabel="", title="What more passes cost")
    _legend(figure, 3)
    return figure


def _legend(figure: Figure, columns: int = 2) -> None:
    axes = figure.axes[0]
    handles, labels = axes.get_legend_handles_labels()
    if (own := axes.get_legend()) is not None:
        own.remove()
    figure.legend(handles, labels, loc="outside lower center", ncol=columns, fontsize=9, frameon=False)
