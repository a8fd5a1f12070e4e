"""The cost model judged: fitted to recorded spaces, held against one that the fit has not seen.

Each space is left out in turn. The calibration is fitted to the others, predicts every candidate of the one left
out, and is compared with what was measured there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eintune.costmodel.counts.estimate import Estimate
from eintune.costmodel.counts.work import Work
from eintune.costmodel.machines.machine import Machine
from eintune.costmodel.pricing.calibration import Calibration
from eintune.costmodel.pricing.fit import fit_terms
from eintune.costmodel.pricing.terms import Terms, terms
from eintune.costmodel.pricing.time import estimate_works
from eintune.search.report.accuracy import Accuracy, accuracy, regret, right, spearman
from eintune.search.text.schedules import schedule_text
from eintune.search.tune.provenance import describe

from .recorded_space import RecordedSpace, SpaceError, load

SUFFIX = ".json.gz"
NEAR = 2.0
"""Candidates within this factor of a space's best are the ones among which a search chooses."""
TOP = 8


@dataclass(frozen=True)
class JudgedTarget:
    """What the held-out predictions should reach, over all spaces; `least` of the figure that `name` says."""

    name: str
    least: float


RANK = JudgedTarget("median rank correlation", 0.85)
NEAR_RANK = JudgedTarget(f"median rank correlation within {NEAR:g}x of the best", 0.7)
FOUND = JudgedTarget(f"share of problems whose first {TOP} hold one within 3% of the best", 0.8)
WITHIN = 0.03


@dataclass(frozen=True)
class NamedSpace:
    """A recorded space and the name of its file."""

    name: str
    space: RecordedSpace


@dataclass(frozen=True)
class Verdict:
    """One space that was left out. spearman, near: over all candidates, and over those within NEAR of the best
    (`near_count` of them). top1, top8: how much slower than the best the first one and the best of the first eight
    are (0.05: 5%). error: standard deviation of ln(measured / predicted). bias: geometric mean of that ratio.
    before: the rank correlation without any fit."""

    name: str
    count: int
    spearman: float
    near: float
    near_count: int
    top1: float
    top8: float
    error: float
    bias: float
    before: float


@dataclass(frozen=True)
class Judgement:
    """rows: one for each candidate (see `judge`). calibration: fitted to all spaces together. machine: as
    `tune.describe` has it."""

    rows: pd.DataFrame
    verdicts: tuple[Verdict, ...]
    calibration: Calibration
    machine: Mapping[str, Any]

    def reached(self) -> list[tuple[JudgedTarget, float]]:
        """Each target and the figure reached."""
        found = [v.top8 <= WITHIN for v in self.verdicts]
        return [
            (RANK, median([v.spearman for v in self.verdicts])),
            (NEAR_RANK, median([v.near for v in self.verdicts])),
            (FOUND, sum(found) / len(found)),
        ]

    def short(self) -> list[str]:
        """What falls short, in words: targets that are missed, and problems below a target that the median meets."""
        lines = [
            f"{t.name}: {value:.2f}, should be at least {t.least:.2f}"
            for t, value in self.reached()
            if not value >= t.least
        ]
        for v in self.verdicts:
            if v.spearman < RANK.least:
                lines.append(f"{v.name}: rank correlation {v.spearman:.2f}, below {RANK.least:.2f}")
            if v.near < NEAR_RANK.least:
                lines.append(
                    f"{v.name}: {v.near:.2f} among the {v.near_count} candidates within {NEAR:g}x of the best, "
                    f"below {NEAR_RANK.least:.2f}"
                )
            if v.top8 > WITHIN:
                lines.append(f"{v.name}: the best of the first {TOP} is {v.top8 * 100:.0f}% slower than the best")
        return lines


def median(values: Sequence[float]) -> float:
    """The median of the values that are numbers; NaN where none is."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.median(known)) if known else math.nan


def read_spaces(places: Sequence[Path]) -> list[NamedSpace]:
    """Spaces from files and folders. Raises SpaceError unless there are at least two, all of one machine."""
    files: list[Path] = []
    for place_ in places:
        files += sorted(place_.glob(f"*{SUFFIX}")) if place_.is_dir() else [place_]
    found = [NamedSpace(f.name.removesuffix(SUFFIX), load(f)) for f in files]
    where = ", ".join(map(str, places))
    if len(found) < 2:
        raise SpaceError(f"{where}: judging needs at least 2 recorded spaces (*{SUFFIX}), but got {len(found)}")
    if len(machines := {s.space.machine for s in found}) > 1:
        raise SpaceError(f"{where}: spaces must be of one machine, but got {', '.join(sorted(machines))}")
    for s in found:
        if len(s.space.ran) < 2:
            raise SpaceError(f"{s.name}: must hold at least 2 candidates that ran, but has {len(s.space.ran)}")
    return found


def judge(spaces: Sequence[NamedSpace], machine: Machine) -> Judgement:
    """Leave each space out in turn.

    The fits start from the values of any GPU (or CPU): the machine's own may have seen the space that is left out.
    Columns of the rows: space, label, passes, knobs, status, seconds, low, high, `prior` (those starting values),
    `predicted` (fitted to the other spaces), limiter, operations and bytes, registers, spills, shared
    memory as compiled and as predicted, message. A candidate that failed has no prediction to be judged.
    """
    start = Calibration.of(replace(machine, calibration=()))
    works = [_works(s) for s in spaces]
    ran = [[w[i] for i in s.space.ran] for s, w in zip(spaces, works, strict=True)]
    times = [[s.space.entries[i].measurement.seconds for i in s.space.ran] for s in spaces]
    placed = [terms(w, machine) for w in ran]
    frames, verdicts = [], []
    for i, named in enumerate(spaces):
        others = [j for j in range(len(spaces)) if j != i]
        fitted = fit_terms(Terms.joined([placed[j] for j in others]), [t for j in others for t in times[j]], start)
        prior = estimate_works(works[i], machine, start)
        after = estimate_works(works[i], machine, fitted)
        frame = _frame(named, prior, after)
        frames.append(frame)
        verdicts.append(_verdict(named.name, frame))
    together = fit_terms(Terms.joined(placed), [t for ts in times for t in ts], start)
    about = describe(machine, spaces[0].space.problem)
    return Judgement(pd.concat(frames, ignore_index=True), tuple(verdicts), together, about)


def _works(named: NamedSpace) -> list[Work]:
    try:
        return named.space.works()
    except SpaceError as error:
        raise SpaceError(f"{named.name}: {error}") from None


def _frame(named: NamedSpace, prior: Sequence[Estimate], after: Sequence[Estimate]) -> pd.DataFrame:
    rows = []
    for entry, a, b in zip(named.space.entries, prior, after, strict=True):
        kind, m, t = named.space.cascades[entry.cascade], entry.measurement, b.traffic
        rows.append(
            {
                "space": named.name,
                "label": str(kind["label"]),
                "passes": int(kind["passes"]),
                "knobs": schedule_text(entry.schedule),
                "status": m.status,
                "seconds": m.seconds,
                "low": m.low,
                "high": m.high,
                "prior": a.seconds,
                "predicted": b.seconds,
                "limiter": b.limiter,
                "hbm_bytes": t.hbm_bytes,
                "tensor_flops": t.tensor_flops,
                "fma_flops": t.fma_flops,
                "special_ops": t.special_ops,
                "shared_bytes": m.shared_bytes,
                "registers": m.registers,
                "spills": m.spills,
                "predicted_shared_bytes": b.resources.shared_bytes,
                "predicted_registers": b.resources.registers_per_thread,
                "predicted_spills": b.resources.spill_bytes,
                "message": m.message,
            }
        )
    return pd.DataFrame(rows)


def _verdict(name: str, frame: pd.DataFrame) -> Verdict:
    ok = right(frame)
    found: Accuracy = accuracy(frame, "predicted")
    near = near_best(ok)
    logs = np.log(ok["seconds"].to_numpy() / ok["predicted"].to_numpy())
    return Verdict(
        name=name,
        count=found.count,
        spearman=found.spearman,
        near=spearman(near["predicted"], near["seconds"]),
        near_count=len(near),
        top1=regret(ok, "predicted", 1),
        top8=regret(ok, "predicted", min(TOP, len(ok))),
        error=float(logs.std()),
        bias=math.exp(float(logs.mean())),
        before=spearman(ok["prior"], ok["seconds"]),
    )


def near_best(ok: pd.DataFrame) -> pd.DataFrame:
    """The rows of one space within NEAR of its best."""
    return ok[ok["seconds"] < NEAR * ok["seconds"].min()]


def by_passes(rows: pd.DataFrame) -> pd.DataFrame:
    """Per space and number of passes the best measured time (`measured`) and the best predicted one (`predicted`),
    each over the same of one pass (fewest, where a space has none)."""
    ok = right(rows)
    best = ok.groupby(["space", "passes"], sort=True).agg(measured=("seconds", "min"), predicted=("predicted", "min"))
    first = best.groupby(level="space").transform("first")
    return (best / first).reset_index()
