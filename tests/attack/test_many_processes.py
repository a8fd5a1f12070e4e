"""Many processes on one cache (`many_processes`): nobody sees what nobody stored, and all end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "many_processes.py"


@pytest.mark.parametrize(
    ("processes", "operations", "kills"),
    [(3, 25, 1), pytest.param(16, 1000, 4, marks=pytest.mark.soak)],
)
def test_processes_on_one_cache(processes: int, operations: int, kills: int) -> None:
    command = [sys.executable, "-P", str(PROGRAM), "--processes", str(processes), "--operations", str(operations)]
    done = subprocess.run([*command, "--kills", str(kills)], capture_output=True, text=True, timeout=3600)
    assert done.stdout, done.stderr[-2000:]
    table = json.loads(done.stdout)
    assert not table["faults"] and not done.returncode, "\n".join(table["faults"])
    whole = table["store"] + table["load"] + table["call"] + table["first_call"]
    assert whole >= (processes - table["killed"]) * operations * 0.7
    assert table["peak MiB"] < 2048
