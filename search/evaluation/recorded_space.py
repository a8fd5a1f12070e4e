"""Recorded spaces: candidates of one problem drawn at random from all legal ones, good and bad, as measured.

What a tuner measures is chosen by its own model, so it cannot judge that model. A recorded space is drawn by a
stated seed instead; a calibration is fitted on some spaces and judged on others.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from eintune.costmodel.counts.resources import illegal
from eintune.costmodel.counts.work import Work, work
from eintune.costmodel.machines.machine import Machine
from eintune.host.data import (
    BadData,
    Count,
    Finite,
    Lines,
    Name,
    Plain,
    Rank,
    Seconds,
    Size,
    Strict,
    Text,
    check_format,
    from_json,
)
from eintune.host.files import read_whole, write_whole
from eintune.host.notices import one_line
from eintune.search.measure.measurement import Measurement, MeasurementFile, measurement
from eintune.search.text.plain_json import finite
from eintune.search.tune.candidates import Candidate, everything
from eintune.search.tune.derivations import Variant
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem, Values
from eintune.space.lowering.lower import build_program
from eintune.space.schedule.schedule import Schedule

FORMAT = 1
MAX_BYTES = 64 * 2**20
MAX_PACKED = 16 * 2**20
MAX_ENTRIES = 4096
MAX_CASCADES = 64


class SpaceError(ValueError):
    """A file that is not a recorded space; the message names it and what is wrong."""


@dataclass(frozen=True)
class SpaceEntry:
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
    entries: tuple[SpaceEntry, ...]
    versions: Mapping[str, str]
    command: str
    started: str
    clocks: tuple[int, ...] = ()
    peers: Mapping[str, float] | None = None

    def works(self) -> list[Work]:
        """The counted work of every entry, planned anew. Raises SpaceError where one has no plan."""
        try:
            parsed = [Cascade.parse(str(c["text"])) for c in self.cascades]
            return [work(build_program(parsed[e.cascade], self.problem, e.schedule), e.schedule) for e in self.entries]
        except (ValueError, KeyError, ArithmeticError, RecursionError) as error:
            raise SpaceError(f"a recorded candidate has no plan ({one_line(error)})") from None

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
) -> tuple[tuple[Mapping[str, Any], ...], tuple[SpaceEntry, ...]]:
    """Measure the drawn candidates in batches; the cascades they use and one entry each."""
    cascades: dict[str, dict[str, Any]] = {}
    found: list[SpaceEntry] = []
    order: dict[str, int] = {}
    for c in chosen:
        order.setdefault(c.variant.text, len(order))
        cascades[c.variant.text] = {**vars(c.variant), "signature": str(c.variant.signature)}
    for start in range(0, len(chosen), batch):
        asked = chosen[start : start + batch]
        between()
        for c, m in zip(asked, measure(asked), strict=True):
            found.append(SpaceEntry(order[c.variant.text], c.schedule, m))
    return tuple(cascades.values()), tuple(found)


def save(space: RecordedSpace, path: Path) -> None:
    """Write a space as gzipped JSON, whole or not at all."""
    data = finite(asdict(space)) | {
        "format": FORMAT,
        "entries": [
            {"cascade": e.cascade, "schedule": e.schedule.to_json(), "measurement": e.measurement.to_json()}
            for e in space.entries
        ],
    }
    # no time stamp in the file: the same space is the same bytes
    write_whole(path, gzip.compress(json.dumps(data, sort_keys=True).encode(), mtime=0))


# ---- the file


class _CascadeFile(Strict):
    digest: Name
    label: Text
    passes: Annotated[int, Meta(ge=0, le=10_000)]
    signature: Text
    text: Lines


class _EntryFile(Strict):
    cascade: Count
    schedule: Plain
    measurement: MeasurementFile


_Held: TypeAlias = Annotated[dict[Name, tuple[Finite | None, Finite | None, bool, Name | None]], Meta(max_length=256)]
"""What inputs may hold (`Values`); a bound that is infinite is null."""


class _ProblemFile(Strict):
    workload: Name
    cascade: Lines
    sizes: Annotated[dict[Rank, Size], Meta(max_length=64)]
    dtypes: Annotated[dict[Name, Name], Meta(max_length=256)]
    params: Annotated[dict[Name, Finite], Meta(max_length=256)] = msgspec.field(default_factory=dict)
    values: _Held = msgspec.field(default_factory=dict)


class _SpaceFile(Strict):
    format: Count
    problem: _ProblemFile
    machine: Name
    seed: Annotated[int, Meta(ge=0, le=2**62)]
    drawn_from: Count
    cascades: Annotated[list[_CascadeFile], Meta(max_length=MAX_CASCADES)]
    entries: Annotated[list[_EntryFile], Meta(max_length=MAX_ENTRIES)]
    versions: Annotated[dict[Name, Name], Meta(max_length=64)]
    command: Text
    started: Name
    clocks: Annotated[list[Count], Meta(max_length=100_000)] = msgspec.field(default_factory=list)
    peers: Annotated[dict[Name, Seconds], Meta(max_length=256)] | None = None


def load(path: Path) -> RecordedSpace:
    """Read a space. Raises SpaceError for anything else, OSError where the file cannot be read."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(read_whole(path, MAX_PACKED))) as packed:
            raw = packed.read(MAX_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SpaceError(f"{path}: not a gzipped file ({error})") from None
    if len(raw) > MAX_BYTES:
        raise SpaceError(f"{path}: must be at most {MAX_BYTES} bytes unpacked")
    try:
        check_format(raw, FORMAT, "; record it again")
        file = from_json(raw, _SpaceFile)
        return _space(file)
    except (ValueError, TypeError) as error:
        raise SpaceError(f"{path}: not a recorded space ({one_line(error)})") from None


def _values(p: _ProblemFile) -> dict[str, Values]:
    bounds = {n: (-math.inf if v[0] is None else v[0], math.inf if v[1] is None else v[1]) for n, v in p.values.items()}
    return {n: Values(*bounds[n], *v[2:]) for n, v in p.values.items()}


def _space(file: _SpaceFile) -> RecordedSpace:
    """Raises ValueError for a schedule or a cascade that nothing could be recorded of."""
    for c in file.cascades:
        Cascade.parse(c.text)
    entries = []
    for e in file.entries:
        if e.cascade >= len(file.cascades):
            raise BadData(f"an entry's cascade must be one of {len(file.cascades)}, but got {e.cascade}")
        entries.append(SpaceEntry(e.cascade, Schedule.from_json(e.schedule), measurement(e.measurement)))
    p = file.problem
    return RecordedSpace(
        problem=Problem(p.workload, p.cascade, dict(p.sizes), p.dtypes, p.params, _values(p)),
        machine=file.machine,
        seed=file.seed,
        drawn_from=file.drawn_from,
        cascades=tuple({name: getattr(c, name) for name in c.__struct_fields__} for c in file.cascades),
        entries=tuple(entries),
        versions=file.versions,
        command=file.command,
        started=file.started,
        clocks=tuple(file.clocks),
        peers=file.peers,
    )
