"""A suite as files: NAME.csv (all rows), NAME_ratios.csv (a line a case), NAME.json and NAME.png. The JSON holds all of
it, and an interrupted run goes on from there."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from eintune.host.data import (
    BadData,
    Count,
    Finite,
    Message,
    Name,
    NotNegative,
    Plain,
    Positive,
    Strict,
    Text,
    check_format,
    converted,
    from_json,
)
from eintune.host.files import read_whole
from eintune.host.printable import printable
from eintune.search.bench.case import State
from eintune.search.options.command import Usage
from eintune.search.report.report import png, write_files
from eintune.search.text.csv_files import csv_bytes
from eintune.search.text.plain_json import finite
from eintune.search.tune.run_files import MachineFile

from .plots import picture
from .run import CaseResult, SuiteResult
from .suite import Suite
from .text import comparison, means

FORMAT = 1
MAX_BYTES = 64 * 2**20
PREFIX = "benchmark_"
Few = Meta(max_length=256)


def stem(suite: Suite) -> str:
    """The files' name without its ending."""
    return f"{PREFIX}{suite.name}"


def to_json(result: SuiteResult) -> dict[str, Any]:
    """Everything as plain data; NaN is null."""
    table = comparison(result)
    data: dict[str, Any] = {
        "format": FORMAT,
        "suite": asdict(result.suite),
        "machine": dict(result.machine),
        "versions": dict(result.versions),
        "settings": dict(result.settings),
        "command": result.command,
        "started": result.started,
        "stages": {name: round(seconds, 3) for name, seconds in result.stages.items()},
        "geometric_means": means(table) if len(table) else {},
        "ratios": table.to_dict("records"),
        "cases": [asdict(case) for case in result.cases],
    }
    plain = finite(data)
    assert isinstance(plain, dict)
    return plain


class _CaseFile(Strict):
    name: Text
    title: Text
    text: Text
    rows: Annotated[list[Annotated[dict[Name, bool | int | Finite | Message | None], Meta(max_length=64)]], Few]
    missing: Annotated[dict[Name, Message], Few]
    note: Message
    clocks: Annotated[dict[State, Count], Few]
    seconds: NotNegative


class _ResultFile(msgspec.Struct):
    """What is read of a result; what follows from that is not."""

    format: Count
    machine: MachineFile
    versions: Annotated[dict[Name, Name], Few]
    settings: Plain
    command: Text
    started: Name
    stages: Annotated[dict[Name, NotNegative], Few]
    cases: Annotated[list[_CaseFile], Few]


class _Row(msgspec.Struct):
    """What tables and pictures read of a row; it has more."""

    case: Text
    variant: Text
    by: Literal["eintune", "peer", "ceiling"]
    state: State
    status: Name
    ms: Positive | None
    message: Message


def read(folder: Path, suite: Suite) -> SuiteResult | None:
    """What an earlier run left in a folder, or None. Raises Usage for a file that is not such a result."""
    path = folder / f"{stem(suite)}.json"
    try:
        raw = read_whole(path, MAX_BYTES)
        check_format(raw, FORMAT)
        file = from_json(raw, _ResultFile)
        cases = tuple(_case(c) for c in file.cases)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, BadData) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise Usage(f"{path}: not the result of a suite ({why}); without --resume it is written anew") from None
    kept = msgspec.to_builtins(file)
    return SuiteResult(
        suite, cases=cases, **{f.name: kept[f.name] for f in fields(SuiteResult) if f.name not in ("suite", "cases")}
    )


def _case(file: _CaseFile) -> CaseResult:
    """Raises BadData for a row that no table could show."""
    rows = []
    for row in file.rows:
        converted(row, _Row)
        shown = {n: printable(v, keep="\n\t") if isinstance(v, str) else v for n, v in row.items()}
        rows.append({name: float("nan") if v is None else v for name, v in shown.items()})
    missing = {name: printable(why) for name, why in file.missing.items()}
    return CaseResult(
        file.name, file.title, file.text, tuple(rows), missing, printable(file.note), dict(file.clocks), file.seconds
    )


def write(result: SuiteResult, folder: Path) -> list[Path]:
    """Write all files, each whole or not at all; their paths. Raises ReportError."""
    base = stem(result.suite)
    table = comparison(result)
    files = {
        f"{base}.csv": csv_bytes(result.frame, "%.6g"),
        f"{base}_ratios.csv": csv_bytes(table, "%.6g"),
        f"{base}.json": (json.dumps(to_json(result), indent=1, allow_nan=False) + "\n").encode(),
    }
    if (table["ms"] > 0).any():
        files[f"{base}.png"] = png(picture(result))
    write_files(files, folder)
    return [folder / name for name in files]
