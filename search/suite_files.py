"""A suite as files: NAME.csv (all rows), NAME_ratios.csv (a line a case), NAME.json and NAME.png. The JSON holds all of
it, and an interrupted run goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .cli_options import Usage
from .csv_files import csv_bytes
from .report import png, write_files
from .run import finite
from .suite import Suite
from .suite_bench import CaseResult, SuiteResult
from .suite_plots import picture
from .suite_text import comparison, means

FORMAT = 1
MAX_BYTES = 64 * 2**20
PREFIX = "benchmark_"


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


def read(folder: Path, suite: Suite) -> SuiteResult | None:
    """What an earlier run left in a folder, or None. Raises Usage for a file that is not such a result."""
    path = folder / f"{stem(suite)}.json"
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"must be at most {MAX_BYTES} bytes")
        data = json.loads(path.read_text("utf-8"))
        if data.get("format") != FORMAT:
            raise ValueError(f"must be of format {FORMAT}")
        cases = tuple(_case(c) for c in data["cases"])
        kept = {f.name: data[f.name] for f in fields(SuiteResult) if f.name not in ("suite", "cases")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Usage(f"{path}: not the result of a suite ({error}); without --resume it is written anew") from None
    return SuiteResult(suite, cases=cases, **kept)


def _case(data: Mapping[str, Any]) -> CaseResult:
    rows = tuple({name: float("nan") if v is None else v for name, v in row.items()} for row in data["rows"])
    return CaseResult(**{**data, "rows": rows})


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
