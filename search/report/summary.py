"""What a run found, in words and numbers that are computed from its data."""

from __future__ import annotations

import math

import pandas as pd

from eintune.search.text.formatting import against, milliseconds, plural
from eintune.search.tune.run import Run

from .accuracy import Accuracy, accuracy, random_regret, right


def paragraph(run: Run, frame: pd.DataFrame) -> str:
    """The run in one paragraph."""
    ok = right(frame)
    sentences = [_searched(run, frame)]
    if run.winner:
        sentences.append(_winner(run))
    if len(ok):
        sentences.append(_model(accuracy(frame, "prior"), accuracy(frame, "predicted"), ok))
    sentences.append(f"The search stopped because {run.stopped}." if run.stopped else "")
    return " ".join(s for s in sentences if s)


def _searched(run: Run, frame: pd.DataFrame) -> str:
    space = run.space
    text = (
        f"From the definition {plural(len(space['cascades']), 'cascade')} were derived; with the schedules these are "
        f"{plural(space['candidates'], 'candidate')}, of which the model left {space['kept']:,} to be tried; "
        f"{len(frame)} of them {'was' if len(frame) == 1 else 'were'} measured"
    )
    failed = frame[frame["status"] != "ok"]["status"].value_counts()
    if len(failed):
        text += " (" + ", ".join(f"{count} {status}" for status, count in failed.items()) + ")"
    return text + "."


def _winner(run: Run) -> str:
    seconds = float(run.winner["seconds"])
    text = f"The fastest is the {run.winner['label']} cascade at {milliseconds(seconds)}"
    if run.best_peer:
        text += f", {against(seconds, *run.best_peer)}"
    if run.winner.get("doubt"):
        text += f" (beware: {run.winner['doubt']})"
    return text + "."


def _model(prior: Accuracy, fitted: Accuracy, ok: pd.DataFrame) -> str:
    text = (
        f"Over {plural(prior.count, 'right candidate')} the model's times before any measurement were off by a factor "
        f"of {prior.typical_ratio:.2f} (rms), and just before each was measured by {fitted.typical_ratio:.2f}"
    )
    if math.isfinite(prior.spearman):
        text += f"; the rank correlations are {prior.spearman:.2f} and {fitted.spearman:.2f}"
    k = max(prior.regret)
    k = 4 if 4 in prior.regret else k
    text += (
        f". The best of the model's first {k} was {prior.regret[k] * 100:.1f}% slower than the best of all, where "
        f"{k} drawn at random are {random_regret(ok, k) * 100:.1f}% slower on average"
        if prior.regret[k] > 0
        else f". The best of all was among the model's first {k}"
    )
    return text + "."
