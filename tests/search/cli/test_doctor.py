"""`doctor` has each dependency do something, and says which one is broken or missing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from eintune.host.parts import BROUGHT_BY_TORCH, SERVING, TUNE
from eintune.kernels.libraries.versions import version_of
from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.peers import PeerTime
from eintune.kernels.store.platform import platform_of
from eintune.search.cli import doctor as cli_doctor
from eintune.search.cli.main import main
from eintune.search.evaluation.exercises import EXERCISES, NEEDS, Finding, findings
from eintune.space.schedule.space import schedules
from eintune.space.workloads.builtin import attention_problem

BROKEN = {
    "pulp": "raise RuntimeError('built for another Python')",
    "pandas": "import os\nos.kill(os.getpid(), 11)",
    "optuna": "class trial: TrialState = FrozenTrial = None",
}


def test_each_dependency_does_something(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eintune", "doctor", "--cache", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0 and not done.stderr
    split = (line.split(maxsplit=2) for line in done.stdout.splitlines())
    lines = {name: f"{mark} {text}" for mark, name, text in split}
    assert [line for line in lines.values() if line.startswith("FAIL")] == []
    assert set(EXERCISES) | {"eintune", "python", "cpu", "gpu", "dot", "cache", "shipped", "disk"} <= set(lines)
    assert lines["torch"].startswith(f"ok {metadata.version('torch')}, multiplies matrices on the ")
    assert "compiles a kernel" in lines["triton"]
    assert "saturates a graph: " in lines["egglog"]
    assert lines["pulp"].endswith("solves a small program with HiGHS")
    assert (tmp_path / "cache").is_dir()


def test_what_is_broken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fails, one takes its process along, one lacks what is used of it; the others are tried all the same."""
    for name, text in BROKEN.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    names = ("msgspec", "egglog", "pulp", "pandas", "filelock", "optuna", "platformdirs")
    found = {finding.name: finding for finding in findings(names)}
    assert tuple(found) == names
    assert [name for name in names if found[name].works] == ["msgspec", "egglog", "filelock", "platformdirs"]
    assert found["pulp"].text == "RuntimeError: built for another Python"
    assert found["pandas"].text == "its process ended with code -11"
    assert found["optuna"].text.startswith("ModuleNotFoundError: No module named 'optuna.")


def test_what_does_not_work_is_exit_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_doctor, "findings", lambda names: iter([Finding("torch", False, "it did not end")]))
    assert main(["doctor"]) == 1
    assert f"FAIL torch         {metadata.version('torch')}, it did not end\n" in capsys.readouterr().out


def test_an_installation_that_only_serves_is_sound(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(cli_doctor, "missing", lambda names=TUNE: sorted(set(names) & set(TUNE) - BROUGHT_BY_TORCH))
    monkeypatch.setattr(cli_doctor, "findings", lambda names: iter(tried.extend(names) or ()))
    assert main(["doctor"]) == 0
    line = "--   tune          not installed, so nothing is derived or searched here: pip install 'eintune[tune]'\n"
    assert line in capsys.readouterr().out
    assert set(tried) == {*SERVING, *BROUGHT_BY_TORCH, *NEEDS}


def test_every_dependency_is_tried() -> None:
    assert {*SERVING, *TUNE} == {NEEDS.get(name, name) for name in EXERCISES}


def test_a_part_that_is_missing_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_doctor, "missing", lambda names=TUNE: [n for n in names if n in ("egglog", "numpy")])
    monkeypatch.setattr(cli_doctor, "findings", lambda names: iter(()))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL egglog        not installed: pip install 'eintune[tune]'" in out
    assert "FAIL numpy         not installed: pip install eintune\n" in out


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_doctor, "findings", lambda names: iter(()))
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--cache", str(tmp_path / "file")]) == 1
    assert "FAIL cache" in capsys.readouterr().out


def test_who_serves_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By signature: a library where it was faster, by how much; else our kernels, and why no library is called."""
    platform, version = platform_of("cpu"), version_of("sdpa", "cpu")
    sizes = {"batch": 1, "heads": 2, "kv_heads": 2, "head_dim": 16, "dtype": "fp32"}
    small = attention_problem(**sizes, seq=64, kv_seq=64)
    schedule = schedules(small.definition, small, "torch")[0]
    for causal, length, peers in (
        (None, 64, {"sdpa": PeerTime(5e-4, 4e-4, 6e-4, version)}),
        (None, 128, {"sdpa": PeerTime(2e-3, 2e-3, 2e-3, version)}),
        ("top_left", 64, {"sdpa": PeerTime(5e-4, 4e-4, 6e-4, "torch 1.0")}),
        ("top_left", 128, {"sdpa": PeerTime(5e-4)}),
        ("top_left", 256, {"sdpa": PeerTime(9.9e-4, 9.8e-4, 1.1e-3, version)}),
        ("top_left", 512, {"eager": PeerTime(5e-4, 5e-4, 5e-4, version)}),
    ):
        posed = attention_problem(**sizes, seq=length, kv_seq=length, causal=causal)
        record = Record(posed.cascade, schedule, "0" * 64, 1e-3, 9e-4, 1.1e-3, peers=peers)
        Cache(tmp_path).store(Key.of(posed, platform), record)
    monkeypatch.setattr(cli_doctor, "findings", lambda names: iter([]))
    assert main(["doctor", "--cache", str(tmp_path)]) == 0
    found = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert "ok policy fastest: a library is called where it was measured to be faster" in found
    assert (
        "ok served attention fp32: sdpa at 1 of 2 sizes, 2.00x as fast (b1 e16 f16 h2 m64 p64); "
        "Eintune's kernels at 1 of 2 sizes, 2.00x as fast as the fastest peer" in found
    )
    (causal_line,) = (line for line in found if "--causal" in line)
    assert "Eintune's kernels at 4 of 4 sizes, 0.50x to 0.99x as fast as the fastest peer" in causal_line
    assert f"not called: sdpa: torch 1.0 was measured, and {version} is here" in causal_line
    assert "not called: sdpa: the file does not say which version was measured" in causal_line
    assert "not called: sdpa: faster within the noise" in causal_line
    assert "not called: eager: no call that is handed to a library" in causal_line
    monkeypatch.setenv("EINTUNE_POLICY", "own")
    assert main(["doctor", "--cache", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "own: no library is called" in out and "\n--   served" in out
    monkeypatch.setenv("EINTUNE_POLICY", "all")
    assert main(["doctor", "--cache", str(tmp_path)]) == 1
    assert "FAIL policy        `EINTUNE_POLICY` must be one of fastest, own, but got 'all'" in capsys.readouterr().out
