"""What a suite comes to: a line a case and state, and the geometric means; as text, and as rows for files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eintune.search.bench.case import STATES, WINNER
from eintune.search.bench.text import heading, wrapped
from eintune.search.text.tables import text_table

from .run import SuiteResult

MEAN = "geometric mean"


def comparison(result: SuiteResult) -> pd.DataFrame:
    """Per case and state: `ms` of ours, the best peer, `ratio` to it (above 1: ours is faster), `against` (the better
    of the suite's named peers) and the ratio to it, and the share of the copy's speed where one was timed."""
    lines = []
    frame = result.frame
    for case in result.cases:
        for state in _states(frame):
            at = frame[(frame["case"] == case.name) & (frame["state"] == state)]
            lines.append({"case": case.name, "state": state, **_compared(at, result.suite.against)})
    return pd.DataFrame(lines)


def _states(frame: pd.DataFrame) -> list[str]:
    return [s for s in STATES if len(frame) and (frame["state"] == s).any()]


def _compared(at: pd.DataFrame, against: Sequence[str]) -> dict[str, Any]:
    ran = at[at["status"] == "ok"]
    mine = _fastest(ran[ran["variant"] == WINNER])
    peer = _fastest(ran[ran["by"] == "peer"])
    named = _fastest(ran[(ran["by"] == "peer") & ran["variant"].isin(list(against))])
    ceiling = _fastest(ran[ran["by"] == "ceiling"])
    return {
        "ms": mine[1],
        "best_peer": peer[0],
        "best_peer_ms": peer[1],
        "ratio": peer[1] / mine[1],
        "against": named[0],
        "against_ms": named[1],
        "against_ratio": named[1] / mine[1],
        "share_of_copy": ceiling[1] / mine[1],
    }


def _fastest(rows: pd.DataFrame) -> tuple[str, float]:
    if rows.empty:
        return "", math.nan
    first = rows.loc[rows["ms"].idxmin()]
    return str(first["variant"]), float(first["ms"])


def means(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By state the geometric mean of each ratio over the cases that have it."""
    found: dict[str, dict[str, float]] = {}
    for state, group in table.groupby("state", sort=False):
        found[str(state)] = {name: geometric(list(group[name])) for name in ("ratio", "against_ratio", "share_of_copy")}
    return found


def geometric(ratios: Sequence[float]) -> float:
    """The geometric mean of those that are numbers; NaN where none is."""
    logs = [math.log(r) for r in ratios if math.isfinite(r) and r > 0]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def suite_text(result: SuiteResult) -> str:
    """The tables, a state each, and what did not run."""
    parts = [heading(result.suite.title.upper()), f"on {result.machine['title']}", ""]
    if not result.cases:
        return "\n".join([*parts, "no case was measured"])
    table = comparison(result)
    for state, group in table.groupby("state", sort=False):
        parts += [_state_text(result, str(state), group), ""]
    parts += _absent(result)
    return "\n".join(parts).rstrip()


def _state_text(result: SuiteResult, state: str, table: pd.DataFrame) -> str:
    named, copied = bool(result.suite.against), bool(table["share_of_copy"].notna().any())
    short = short_names([case.name for case in result.cases])
    rows = [[short[r["case"]], *_cells(r, named, copied)] for r in table.to_dict("records")]
    average = means(table)[state]
    end = [MEAN, "", "", "", _times(average["ratio"])]
    end += ["", _times(average["against_ratio"])] if named else []
    end += [_share(average["share_of_copy"])] if copied else []
    least = ["least", "", "", "", _times(float(table["ratio"].min()))]
    least += ["", _times(float(table["against_ratio"].min()))] if named else []
    least += [_share(float(table["share_of_copy"].min()))] if copied else []
    header = ["case", "ours, ms", "best peer", "its ms", "we are"]
    header += ["or", "we are"] if named else []
    header += ["of the copy"] if copied else []
    right = [1, 3, 4] + ([6] if named else []) + ([len(header) - 1] if copied else [])
    title = f"{state}: {STATES[state]}" if state in STATES else state
    return f"{title}\n" + text_table(header, [*rows, end, least], right=right, widest={2: 18, 5: 18})


def _cells(row: Mapping[str, Any], named: bool, copied: bool) -> list[str]:
    cells = [_ms(row["ms"]), str(row["best_peer"]) or "-", _ms(row["best_peer_ms"])]
    cells += [_times(row["ratio"])]
    cells += [str(row["against"]) or "-", _times(row["against_ratio"])] if named else []
    return cells + ([_share(row["share_of_copy"])] if copied else [])


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the parts that all of them begin with (of several; a single one stays whole)."""
    split = [name.split("-") for name in names]
    common = 0
    while len(names) > 1 and all(len(s) > common + 1 and s[: common + 1] == split[0][: common + 1] for s in split):
        common += 1
    return {name: "-".join(parts[common:]) for name, parts in zip(names, split, strict=True)}


def _ms(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _times(value: float) -> str:
    return f"{value:.2f}x" if math.isfinite(value) else "-"


def _share(value: float) -> str:
    return f"{value * 100:.0f}%" if math.isfinite(value) else "-"


def _absent(result: SuiteResult) -> list[str]:
    """What did not run, each reason once, with the cases if these are not all."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for case in result.cases:
        for name, reason in case.missing.items():
            reasons.setdefault((name, reason), []).append(case.name)
        first = {row["variant"]: row for row in reversed(case.rows) if row["status"] != "ok"}
        for row in first.values():
            reasons.setdefault((row["variant"], f"{row['status']}: {row['message']}"), []).append(case.name)
    lines = []
    for (name, reason), cases in reasons.items():
        some = "" if len(cases) == len(result.cases) else f" at {', '.join(cases)}"
        lines.append(wrapped(f"  {name}{some}: ", reason))
    return ["did not run, or was wrong", *lines, ""] if lines else []
