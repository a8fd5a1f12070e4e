"""Search strategies over recorded times: which finds the best soonest, without a device."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eintune.search.measure.measurement import Measurement
from eintune.search.study.samplers import STRATEGIES, Knobs
from eintune.search.study.study import StopRule, Study

from .run import Run


@dataclass(frozen=True)
class Recorded:
    """One measured candidate of a recorded run."""

    key: str
    group: str
    knobs: Knobs
    prior: float
    measurement: Measurement

    @property
    def shape(self) -> str:
        """Tiles and warps."""
        return ", ".join(text for name, text in self.knobs.items() if name == "warps" or text.split()[-1].isdigit())


def recorded(run: Run) -> list[Recorded]:
    """The candidates of a run, with their knobs read back from the schedule's line. Failures too."""
    found = []
    for row in run.rows:
        knobs = {"cascade": str(row["cascade"]), **_knobs(str(row["knobs"]))}
        seconds, low, high = (_number(row.get(name)) for name in ("seconds", "low", "high"))
        measurement = Measurement(str(row["key"]), str(row["status"]), seconds, low, high)
        found.append(Recorded(str(row["key"]), str(row["cascade"]), knobs, float(row["prior"]), measurement))
    return found


def _knobs(text: str) -> dict[str, str]:
    """ "p grid 128, m loop 64, 4 warps, segmented" as a dictionary."""
    parts = [part.split() for part in text.split(", ") if part]
    return {(p[-1] if p[0].isdigit() else p[0]): " ".join(p) for p in parts}


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def replay(run: Run, *, seeds: int, batch: int = 1) -> dict[str, list[float]]:
    """Mean regret after each measurement, by strategy; empty where fewer than 2 candidates ran."""
    points = _comparable(recorded(run))
    times = {p.key: p.measurement for p in points}
    ran = [p.measurement.seconds for p in points if p.measurement.status == "ok"]
    if len(ran) < 2:
        return {}
    curves: dict[str, list[float]] = {}
    for name in STRATEGIES:
        runs = [_curve(points, times, name, seed, batch, min(ran)) for seed in range(1 if name == "model" else seeds)]
        curves[name] = [statistics.fmean(at) for at in zip(*runs, strict=True)]
    return curves


def _comparable(points: Sequence[Recorded]) -> list[Recorded]:
    """Points that all have every knob, and whose knobs differ: others cannot be told apart by a sampler."""
    names = sorted({name for p in points for name in p.knobs})
    whole = [replace(p, knobs={name: p.knobs.get(name, "") for name in names}) for p in points]
    return list({tuple(p.knobs.values()): p for p in whole}.values())


def _curve(
    points: Sequence[Recorded], times: Mapping[str, Measurement], name: str, seed: int, batch: int, best: float
) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        study = Study(
            points, journal=Path(folder) / "journal", name="replay", strategy=STRATEGIES[name](seed), opening=False
        )
        outcome = study.run(
            lambda asked: [times[p.key] for p in asked],
            lambda trials: lambda p: p.prior,
            StopRule(trials=len(points), batch=batch, until_sure=False),
        )
    # before anything right was measured one is left with the slowest
    curve, fastest = [], max(m.seconds for m in times.values() if m.status == "ok")
    for trial in outcome.trials:
        if trial.ok:
            fastest = min(fastest, trial.measurement.seconds)
        curve.append(fastest / best - 1)
    return curve
