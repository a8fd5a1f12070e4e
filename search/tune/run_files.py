"""A results folder as files: what they may hold, checked before anything is drawn or said from it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from eintune.host.data import (
    BadData,
    Count,
    Finite,
    Lines,
    Name,
    NotNegative,
    Plain,
    Positive,
    Rank,
    Seconds,
    Size,
    Strict,
    Text,
    check_format,
    converted,
    from_json,
)
from eintune.host.files import read_utf8, read_whole
from eintune.host.printable import printable
from eintune.search.measure.measurement import STATUSES, MeasurementFile, measurement
from eintune.search.text.faults import RunError

from .run import COLUMNS, FORMAT, MEASUREMENTS, SUMMARY, Run

MAX_BYTES = 64 * 2**20
MAX_ROWS = 20_000
LARGEST = 1e30
"""No count, rate or time of a kernel is larger."""
TIMES = ("seconds", "low", "high", "predicted", "prior")


class CascadeFile(Strict):
    label: Text
    passes: Annotated[int, Meta(ge=0, le=10_000)]
    digest: Name
    signature: Text
    text: Lines


class _SpaceFile(Strict):
    cascades: Annotated[list[CascadeFile], Meta(max_length=256)]
    schedules: Count
    candidates: Count
    kept: Count
    left_out: Annotated[dict[Text, Count], Meta(max_length=256)]


class _ProblemFile(Strict):
    workload: Name
    sizes: Annotated[dict[Rank, Size], Meta(max_length=64)]
    dtypes: Annotated[dict[Name, Name], Meta(max_length=256)]
    params: Annotated[dict[Name, Finite], Meta(max_length=256)]


class MachineFile(Strict):
    """What a report says of a machine (`tune.describe`)."""

    name: Name
    title: Name
    kind: Name
    sms: Size
    cores: Count
    hbm_bytes_per_second: Positive
    matrix_flops: Positive
    fma_flops: Positive


class _Winner(msgspec.Struct):
    """What is read of a winner; it has more."""

    key: Name
    label: Text
    knobs: Text
    seconds: Seconds
    low: Seconds | None = None
    high: Seconds | None = None
    record: Text = ""


class _RunFile(Strict):
    format: Count
    title: Text
    problem: _ProblemFile
    machine: MachineFile
    versions: Annotated[dict[Name, Name], Meta(max_length=64)]
    command: Text
    started: Name
    stages: Annotated[dict[Name, NotNegative], Meta(max_length=64)]
    space: _SpaceFile
    peers: Annotated[dict[Name, MeasurementFile], Meta(max_length=256)]
    winner: Annotated[dict[Name, bool | int | Finite | Lines | Plain | None], Meta(max_length=256)]
    stopped: Text
    calibration: Annotated[dict[Name, Finite], Meta(max_length=64)]


def read_run(directory: Path) -> Run:
    """The run that a results folder holds. Raises RunError."""
    place = directory / SUMMARY
    try:
        raw = read_whole(place, MAX_BYTES)
        check_format(raw, FORMAT, "; run the tuner again")
        file = from_json(raw, _RunFile)
        if file.winner:
            converted(file.winner, _Winner)
        peers = {name: measurement(m).to_json() for name, m in file.peers.items()}
        place = directory / MEASUREMENTS
        rows = _rows(read_utf8(place, MAX_BYTES))
    except FileNotFoundError:
        raise RunError(f"{directory}: not a results folder, it lacks {place.name}") from None
    except OSError as error:
        raise RunError(f"{place}: {error.strerror or error}") from None
    except BadData as error:
        raise RunError(f"{place}: damaged ({error})") from None
    data = msgspec.to_builtins(file)
    del data["format"]
    return Run(**{**data, "rows": rows, "peers": peers})


def _rows(text: str) -> tuple[dict[str, Any], ...]:
    """The CSV's rows with numbers where COLUMNS says so, None where a cell is empty. Raises BadData."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(reader, [])
        if missing := [name for name in COLUMNS if name not in header]:
            raise BadData(f"the table lacks the columns {missing}")
        if len(header) > len(COLUMNS) or len(set(header)) < len(header):
            raise BadData(f"the table must have the columns {list(COLUMNS)}, but has {len(header)}")
        rows: list[dict[str, Any]] = []
        for cells in reader:
            if len(rows) == MAX_ROWS or len(cells) != len(header):
                raise BadData(f"line {reader.line_num}: a table has {len(header)} columns and at most {MAX_ROWS} rows")
            try:
                rows.append({name: _cell(name, cell) for name, cell in zip(header, cells, strict=True)})
            except BadData as error:
                raise BadData(f"line {reader.line_num}: {error}") from None
    except csv.Error as error:
        raise BadData(f"not a CSV: {error}") from None
    return tuple(rows)


def _cell(name: str, text: str) -> Any:
    kind = COLUMNS[name]
    if name == "status" and text not in STATUSES:
        raise BadData(f"`status` must be one of {', '.join(STATUSES)}, but got {printable(text[:80])!r}")
    if kind is str:
        return printable(text[:4096]) or None
    if text in ("", "nan", "inf"):
        return None
    try:
        number = float(text) if len(text) <= 64 else None
    except ValueError:
        number = None
    least = 1e-15 if name in TIMES else 0.0
    if number is None or not least <= number <= LARGEST:
        raise BadData(f"`{name}` must be a number from {least:g} to {LARGEST:g}, but got {printable(text[:80])!r}")
    if kind is int and number != int(number):
        raise BadData(f"`{name}` must be whole, but got {text!r}")
    return int(number) if kind is int else number
