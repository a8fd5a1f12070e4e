"""How good the model's predictions were, as numbers computed from measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

KS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Accuracy:
    """count: candidates that ran and were right. spearman: rank correlation of predicted and measured seconds
    (NaN under 3). typical_ratio: exp of the rms of ln(measured / predicted): 1.2 reads "within 20%".
    bias: geometric mean of measured / predicted. regret: by k, how much slower than the best measured the best of the
    model's first k is (0.05: 5%)."""

    count: int
    spearman: float
    typical_ratio: float
    bias: float
    regret: dict[int, float]


def right(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that were measured and right."""
    return frame[frame["status"] == "ok"] if len(frame) else frame


def accuracy(frame: pd.DataFrame, column: str) -> Accuracy:
    """The accuracy of the predictions in `column` ("prior": before any measurement; "predicted": just before
    each)."""
    ok = right(frame)
    if ok.empty:
        return Accuracy(0, math.nan, math.nan, math.nan, {})
    logs = (ok["seconds"] / ok[column]).map(math.log)
    return Accuracy(
        count=len(ok),
        spearman=spearman(ok[column], ok["seconds"]),
        typical_ratio=math.exp(math.sqrt(float((logs**2).mean()))),
        bias=math.exp(float(logs.mean())),
        regret={k: regret(ok, column, k) for k in KS if k <= len(ok)},
    )


def spearman(a: pd.Series, b: pd.Series) -> float:
    """Rank correlation, ties averaged. NaN for fewer than 3 pairs."""
    return float(a.rank().corr(b.rank())) if len(a) >= 3 else math.nan


def regret(ok: pd.DataFrame, column: str, k: int) -> float:
    """How much slower the best of the first k by `column` is than the best of all; 0 if it is the best."""
    first = ok.nsmallest(k, column)["seconds"].min()
    return float(first / ok["seconds"].min() - 1)


def random_regret(ok: pd.DataFrame, k: int) -> float:
    """The expected regret of k candidates drawn at random without replacement: what a model must beat."""
    times = ok["seconds"].sort_values().to_list()
    n = len(times)
    total = math.comb(n, k)
    expected = sum(t * math.comb(n - i - 1, k - 1) for i, t in enumerate(times) if n - i - 1 >= k - 1) / total
    return float(expected / times[0] - 1)


def error_by(frame: pd.DataFrame, column: str, by: str) -> pd.DataFrame:
    """Count, bias (geometric mean of measured / predicted) and typical ratio of each group."""
    ok = right(frame)
    logs = (ok["seconds"] / ok[column]).map(math.log)
    groups = logs.groupby(ok[by])
    table = pd.DataFrame({"count": groups.size(), "bias": groups.mean().map(math.exp)})
    table["typical_ratio"] = groups.apply(lambda g: math.exp(math.sqrt(float((g**2).mean()))))
    return table.reset_index()
