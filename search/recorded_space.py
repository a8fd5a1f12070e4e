"""Recorded spaces: candidates of one problem drawn at random from all legal ones, good and bad, as measured.

What a tuner measures is chosen by its own model, so it cannot judge that model. A recorded space is drawn by a
stated seed instead; a calibration is fitted on some spaces and judged on others.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..costmodel.machine import Machine
from ..costmodel.resources import illegal
from ..costmodel.work import Work, work
from ..space.cascade import Cascade
from ..space.lowering import build_program
from ..space.schedule import Problem, Schedule
from .candidates import Candidate, everything
from .derivations import Variant
from .measurement import Measurement

FORMAT = 1
MAX_BYTES = 64 * 2**20


class SpaceError(ValueError):
    """A file that is not a recorded space; the message names it and what is wrong."""


@dataclass(frozen=True)
class Entry:
    """One measured candidate: which cascade (an index into the space's), its schedule, what came of it."""

    cascade: int
    schedule: Schedule
    measurement: Measurement


@dataclass(frozen=True)
class RecordedSpace:
    """seed, drawn_from: the draw. cascades: text, label, passes, digest of each. versions, command, started: how it
    was recorded. clocks: SM clock in MHz before and after each batch, as the driver reports it. peers: seconds."""

    problem: Problem
    machine: str
    seed: int
    drawn_from: int
    cascades: tuple[Mapping[str, Any], ...]
    entries: tuple[Entry, ...]
    versions: Mapping[str, str]
    command: str
    started: str
    clocks: tuple[int, ...] = ()
    peers: Mapping[str, float] | None = None

    def works(self) -> list[Work]:
        """The counted work of every entry, planned anew."""
        parsed = [Cascade.parse(str(c["text"])) for c in self.cascades]
        return [work(build_program(parsed[e.cascade], self.problem, e.schedule), e.schedule) for e in self.entries]

    @property
    def ran(self) -> list[int]:
        """Positions of the entries that ran and were right."""
        return [i for i, e in enumerate(self.entries) if e.measurement.status == "ok"]


def draw(
    variants: Sequence[Variant], problem: Problem, machine: Machine, emitter: str, count: int, seed: int
) -> tuple[list[Candidate], int]:
    """`count` different kernels, uniformly from the legal candidates, and how many those are."""
    every = everything(variants, problem, machine, emitter)
    legal = [c for c in every if illegal(c.estimate.resources, machine) is None]
    random.Random(seed).shuffle(legal)
    chosen: dict[str, Candidate] = {}
    for candidate in legal:
        if len(chosen) >= count:
            break
        chosen.setdefault(candidate.key, candidate)
    return list(chosen.values()), len(legal)


def entries_of(
    chosen: Sequence[Candidate],
    measure: Callable[[Sequence[Candidate]], Sequence[Measurement]],
    batch: int,
    between: Callable[[], None] = lambda: None,
) -> tuple[tuple[Mapping[str, Any], ...], tuple[Entry, ...]]:
    """Measure the drawn candidates in batches; the cascades they use and one entry each."""
    cascades: dict[str, dict[str, Any]] = {}
    found: list[Entry] = []
    order: dict[str, int] = {}
    for c in chosen:
        order.setdefault(c.variant.text, len(order))
        cascades[c.variant.text] = asdict(c.variant)
    for start in range(0, len(chosen), batch):
        asked = chosen[start : start + batch]
        between()
        for c, m in zip(asked, measure(asked), strict=True):
            found.append(Entry(order[c.variant.text], c.schedule, m))
    return tuple(cascades.values()), tuple(found)


def save(space: RecordedSpace, path: Path) -> None:
    """Write a space as gzipped JSON, whole or not at all."""
    data = asdict(space) | {
        "format": FORMAT,
        "entries": [
            {"cascade": e.cascade, "schedule": e.schedule.to_json(), "measurement": e.measurement.to_json()}
            for e in space.entries
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    # no time stamp in the file: the same space is the same bytes
    with part.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as out:
        out.write(json.dumps(data, sort_keys=True).encode())
    part.replace(path)


def load(path: Path) -> RecordedSpace:
    """Read a space. Raises SpaceError for anything else, OSError where the file cannot be read."""
    try:
        with gzip.open(path) as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise SpaceError(f"{path}: must be at most {MAX_BYTES} bytes unpacked")
        data = json.loads(raw)
        if data.pop("format") != FORMAT:
            raise SpaceError(f"{path}: must be of format {FORMAT}; record it again")
        entries = tuple(
            Entry(int(e["cascade"]), Schedule.from_json(e["schedule"]), Measurement.from_json(e["measurement"]))
            for e in data.pop("entries")
        )
        problem = Problem(**data.pop("problem"))
        cascades, clocks = tuple(data.pop("cascades")), tuple(data.pop("clocks"))
        return RecordedSpace(problem=problem, entries=entries, cascades=cascades, clocks=clocks, **data)
    except SpaceError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, gzip.BadGzipFile) as error:
        raise SpaceError(f"{path}: not a recorded space ({type(error).__name__}: {error})") from None
