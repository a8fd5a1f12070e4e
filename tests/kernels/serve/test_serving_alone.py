"""Serving needs none of the search: the packages of the extra `tune` are absent here, as where they are not installed.

`filelock` stays: PyTorch needs it too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[2]
WITHOUT = TESTS / "without_search"
CHILD = TESTS / "helpers" / "serving_child.py"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    python_path = os.pathsep.join([str(WITHOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": python_path, "EINTUNE_CACHE": str(folder)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, timeout=300, check=False)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = run(tmp_path_factory.mktemp("cache"), str(CHILD))
    assert not done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("call", ["tuned", "shipped", "untuned", "untuned again"])
def test_calls_are_right(said: dict[str, Any], call: str) -> None:
    assert said["errors"][call] < 3e-6


def test_the_winner_runs(said: dict[str, Any]) -> None:
    (line,) = said["log"]["tuned"]
    assert "runs the stored winner" in line


def test_a_shipped_form_runs_as_the_model_picks(said: dict[str, Any]) -> None:
    (line,) = said["log"]["shipped"]
    assert "was never tuned on this machine; it runs what the cost model picks" in line
    assert said["passes"] == 1  # the definition has three


def test_what_must_be_derived_says_in_one_line_what_to_install(said: dict[str, Any]) -> None:
    line, pick = said["log"]["untuned"]
    assert "it runs what the cost model picks" in pick
    assert line == (
        "eintune: what is not tuned or stored is computed as it is defined: deriving needs eintune[tune], but egglog, "
        "highspy, pulp are not installed: pip install 'eintune[tune]'"
    )
    assert said["log"]["untuned again"] == []  # once


def test_nothing_absent_is_loaded(said: dict[str, Any]) -> None:
    assert said["loaded"] == []


@pytest.mark.parametrize("command", ["tune --seq 64 --heads 2 --device cpu", "tiles"])
def test_commands_of_the_search_say_what_to_install(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, "-m", "eintune", *command.split())
    assert done.returncode == 1 and not done.stdout
    assert [line + "\n" for line in done.stderr.splitlines() if not line.startswith("   0.0 s  start ")] == [
        f"eintune: error: `eintune {command.split()[0]}` needs eintune[tune], but egglog, highspy, matplotlib, optuna, "
        "pandas, pulp, seaborn are not installed: pip install 'eintune[tune]'\n"
    ]


@pytest.mark.parametrize("command", ["--help", "passes tests/cascades/attention_1pass_iterative.edge"])
def test_other_commands_work(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, "-m", "eintune", *command.split())
    assert not done.returncode and done.stdout and not done.stderr
