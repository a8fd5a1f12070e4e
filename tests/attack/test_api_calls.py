"""Drawn calls of the public functions (`api_calls`): a right answer, or one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "api_calls.py"


@pytest.mark.parametrize(("calls", "seed"), [(15, 0), pytest.param(500, 1, marks=pytest.mark.soak)])
def test_calls_are_right_or_refused(calls: int, seed: int, tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(PROGRAM), "--calls", str(calls), "--seed", str(seed), "--limit", "60"]
    env = {**os.environ, "EINTUNE_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=3600)
    assert done.stdout, done.stderr[-2000:]
    table = json.loads(done.stdout)
    assert not table["faults"] and not done.returncode, "\n".join(table["faults"])
    assert table["right"] + table["refused"] == calls and min(table["right"], table["refused"]) > calls / 5
    assert table["peak MiB"] < 2048
