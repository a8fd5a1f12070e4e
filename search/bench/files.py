"""A benchmark as files: kernel_benchmark_h32_d64.csv, .png and .json."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from eintune.host.files import write_whole
from eintune.search.text.csv_files import csv_bytes

from .case import STATES, Row, best, reference_winner, usual_states
from .sweep import Result

FORMAT = 1


def stem(result: Result) -> str:
    """kernel_benchmark_h32_d64, and whatever is not usual: kv heads, batch, dtype, causal, the states."""
    s = result.setting
    usual = "bf16" if s.device == "cuda" else "fp32"
    states = result.options.states
    parts = [f"kernel_benchmark_h{s.heads}_d{s.head_dim}"]
    parts += [f"kv{s.kv_heads}"] if s.kv_heads != s.heads else []
    parts += [f"b{s.batch}"] if s.batch != 1 else []
    parts += [s.dtype] if s.dtype != usual else []
    parts += ["causal"] if s.causal else []
    parts += states if states != usual_states(s.device) else []
    return "_".join(parts)


def frame_of(result: Result) -> pd.DataFrame:
    """One line a variant, length and state; times in milliseconds, ratios within the same length and state."""
    lines: list[dict[str, Any]] = []
    for state in result.options.states:
        for length in result.setting.lengths:
            at = result.at(state, length)
            lines += [_line(result, row, at) for row in at]
    return pd.DataFrame(lines)


def figures(row: Row, at: Sequence[Row]) -> dict[str, Any]:
    """A row's numbers, times in milliseconds; `at`: the rows that its ratios may look at."""
    m, peer, mine = row.measurement, best(at, ours=False), reference_winner(at)
    return {
        "status": m.status,
        "ms": row.seconds * 1e3,
        "low_ms": m.low * 1e3,
        "high_ms": m.high * 1e3,
        "samples": m.samples,
        "vs_best_peer": peer.seconds / row.seconds if peer else math.nan,
        "vs_our_winner": mine.seconds / row.seconds if mine else math.nan,
        "rms_error": m.rms_error,
        "max_error": m.max_error,
        "rms_budget": m.budget,
        "compile_seconds": m.compile_seconds,
        "registers": m.registers,
        "spills": m.spills,
        "shared_bytes": m.shared_bytes,
        "digest": m.digest if row.ours else "",
    }


def _line(result: Result, row: Row, at: Sequence[Row]) -> dict[str, Any]:
    s = result.setting
    rate = row.flops / row.seconds if row.seconds > 0 else math.nan
    numbers = figures(row, at)
    timed = ("status", "ms", "low_ms", "high_ms", "samples")
    return {
        "variant": row.variant,
        "by": "eintune" if row.ours else "peer",
        "state": row.state,
        "batch": s.batch,
        "heads": s.heads,
        "kv_heads": s.kv_heads,
        "seq": row.length,
        "head_dim": s.head_dim,
        "dtype": s.dtype,
        "causal": s.causal,
        **{name: numbers.pop(name) for name in timed},
        "tflops": rate / 1e12,
        "share_of_ceiling": rate / float(result.machine["matrix_flops"]),
        **numbers,
        "detail": row.detail,
        "message": row.measurement.message,
    }


def to_json(result: Result) -> dict[str, Any]:
    """Everything, rows included, as plain data."""
    from eintune.search.text.plain_json import finite

    data: dict[str, Any] = {
        "format": FORMAT,
        "title": result.setting.title,
        "setting": asdict(result.setting),
        "options": asdict(result.options),
        "states": {state: STATES[state] for state in result.options.states},
        "machine": dict(result.machine),
        "versions": dict(result.versions),
        "command": result.command,
        "started": result.started,
        "stages": {name: round(seconds, 3) for name, seconds in result.stages.items()},
        "missing_peers": dict(result.missing),
        "winners": {str(length): origin for length, origin in result.notes.items()},
        "rows": frame_of(result).to_dict("records"),
    }
    plain = finite(data)
    assert isinstance(plain, dict)
    return plain


def write(result: Result, folder: Path) -> list[Path]:
    """Write CSV, PNG and JSON into a folder; their paths. Raises OSError."""
    from .plots import picture

    frame = frame_of(result)
    base = folder / stem(result)
    image = io.BytesIO()
    picture(frame, result).savefig(image, dpi=130, format="png", metadata={"Software": None})
    contents = {
        ".csv": csv_bytes(frame, "%.6g"),
        ".png": image.getvalue(),
        ".json": (json.dumps(to_json(result), indent=1, allow_nan=False) + "\n").encode(),
    }
    paths = []
    for suffix, raw in contents.items():
        path = base.with_name(base.name + suffix)
        write_whole(path, raw)
        paths.append(path)
    return paths
