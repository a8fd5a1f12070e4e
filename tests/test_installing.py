"""What can be installed: each Python with the oldest and newest dependencies, resolved from the package index alone;
two of them installed and run in `make soak`.

Resolving takes seconds and downloads no packages. Without an index the tests skip and say so; what the index cannot
give is a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from eintune.host.parts import BROUGHT_BY_TORCH, SERVING, TUNE

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OLDEST, NEWEST = "lowest-direct", "highest"
PLATFORMS = {"x86_64": "x86_64-manylinux_2_28", "aarch64": "aarch64-manylinux_2_28", "macos": "aarch64-apple-darwin"}
UNREACHABLE = re.compile(
    r"dns error|error sending request|connection (refused|reset)|tcp connect|timed out|network is unreachable"
    r"|failed to lookup|tunnel|operation was canceled",
    re.IGNORECASE,
)
"""In what uv says where it reaches no index."""
Case = tuple[str, str, str, str]
"""Python's version, how to resolve, the extras, the platform."""
CASES: list[Case] = [
    *product(PYTHONS, (OLDEST, NEWEST), ("", "tune dev docs"), ("x86_64",)),
    *product(("3.13",), (OLDEST, NEWEST), ("tune",), ("aarch64", "macos")),
]
GIGABYTES = 14
"""What two environments and the downloads for them take."""


def name_of(requirement: str) -> str:
    found = re.match(r"[\w-]+", requirement)
    assert found, requirement
    return found[0]


def bounds(requirement: str) -> tuple[str, str]:
    """The lowest version that a requirement allows, and the first above it that it does not."""
    found = re.fullmatch(r"[\w-]+>=([\d.]+),<([\d.]+)(?:;.*)?", requirement)
    assert found, f"{requirement}: a dependency has a lower and an upper bound"
    return found[1], found[2]


def release(version: str) -> tuple[int, ...]:
    """Numbers to compare by; what a build adds to them (2.13.0+cpu) does not count."""
    return tuple(int(x) for x in re.match(r"[\d.]+", version)[0].rstrip(".").split("."))  # type: ignore[index]


def uv(*arguments: str, timeout: float = 120, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run uv, with what this machine's configuration files and variables add of indexes and wheels left out."""
    tool = Path(sys.executable).with_name("uv")
    if not tool.exists():
        pytest.skip("uv is not installed: the extra `dev` brings it")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("UV_INDEX", "UV_EXTRA", "UV_FIND", "UV_DEFAULT"))}
    command = [str(tool), "--no-config", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=timeout, check=False, cwd=ROOT, input=stdin
    )


def answered(done: subprocess.CompletedProcess[str]) -> str:
    """What uv printed. Skips where it reached no index, fails where it had another reason."""
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip(f"the package index is not reached: {done.stderr.strip().splitlines()[-1].strip()[:200]}")
    assert not done.returncode, done.stderr
    return done.stdout


def resolve(case: Case) -> subprocess.CompletedProcess[str]:
    python, resolution, extras, platform = case
    return uv(
        *("pip", "compile", "pyproject.toml", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"),
        *("--python", sys.executable, "--no-python-downloads", "--python-version", python),
        *("--resolution", resolution, "--python-platform", PLATFORMS[platform]),
        *(part for extra in extras.split() for part in ("--extra", extra)),
    )


def test_every_combination_resolves() -> None:
    answered(
        uv("pip", "compile", "--quiet", "--no-header", "--python", sys.executable, "--no-deps", "-", stdin="numpy")
    )
    with ThreadPoolExecutor(8) as pool:  # most of the time is the index's
        answers = list(pool.map(resolve, CASES))
    for case, answer in zip(CASES, answers, strict=True):
        check(case, answered(answer))


def check(case: Case, text: str) -> None:
    """That an answer is within the project's bounds, and at their lower end where it should be."""
    python, resolution, extras, platform = case
    found = dict(line.split("==") for line in text.splitlines() if "==" in line)
    wanted = [*PROJECT["dependencies"]]
    for extra in extras.split():
        wanted += PROJECT["optional-dependencies"][extra]
    if platform == "macos":
        assert "triton" not in found
        wanted = [r for r in wanted if name_of(r) != "triton"]
    for requirement in wanted:
        version, (low, high) = release(found[name_of(requirement)]), map(release, bounds(requirement))
        assert low <= version < high, (case, requirement, version)
        if resolution == OLDEST and python == PYTHONS[0]:  # newer Pythons have no wheels of the oldest
            assert version[: len(low)] == low, (case, requirement, version)
    assert bool(set(found) & (set(TUNE) - BROUGHT_BY_TORCH)) == bool(extras), case


def test_the_lists_are_those_of_the_project() -> None:
    """Upper bounds are the next major release, so that none breaks an installation; what is named missing is listed."""
    extras = PROJECT["optional-dependencies"]
    assert {name_of(r) for r in PROJECT["dependencies"]} == set(SERVING)
    assert {name_of(r) for r in extras["tune"]} == set(TUNE)
    for requirement in (*PROJECT["dependencies"], *(r for name in sorted(extras) for r in extras[name])):
        low, high = bounds(requirement)
        assert release(low) < release(high)


# ---- installed and run


SOAKED = [(OLDEST, ("3.11", "3.12")), (NEWEST, ("3.13", "3.14", "3.12", "3.11"))]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("resolution", "pythons"), SOAKED, ids=["oldest", "newest"])
def test_an_installation_from_the_index_runs(tmp_path: Path, resolution: str, pythons: tuple[str, ...]) -> None:
    """The package alone serves; with the extra, doctor finds nothing broken and a search stores its winner."""
    free = shutil.disk_usage(tmp_path).free
    if free < GIGABYTES * 2**30:
        pytest.skip(f"needs {GIGABYTES} GB of disk, but {free / 2**30:.0f} GB are free")
    base = next(filter(None, map(interpreter, pythons)), None)
    if base is None:
        pytest.skip(f"none of Python {', '.join(pythons)} is installed")
    place = tmp_path / "venv"
    python = str(place / "bin" / "python")
    answered(uv("venv", "--python", base, str(place)))
    install = ("pip", "install", "--python", python, "--only-binary", ":all:", "--no-binary", "eintune")
    answered(uv(*install, "--resolution", resolution, str(ROOT), timeout=1800))
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TRITON_INTERPRET")}
    env |= {"EINTUNE_CACHE": str(tmp_path / "cache"), "XDG_STATE_HOME": str(tmp_path / "state")}

    def run(*command: str) -> str:
        done = subprocess.run(
            [python, *command], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=900, check=False
        )
        assert not done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    assert "not installed, so nothing is derived or searched here" in run("-m", "eintune", "doctor")
    assert '"loaded": []' in run(str(ROOT / "tests" / "helpers" / "serving_child.py"))
    answered(uv(*install, "--resolution", resolution, f"{ROOT}[tune]", timeout=1800))
    assert "FAIL" not in run("-m", "eintune", "doctor")
    report = run("-m", "eintune", "tune", "--seq", "64", "--heads", "3", "--head-dim", "16", "--device", "cpu")
    assert "winner" in report


def interpreter(version: str) -> str | None:
    """An installed Python of this version; none is downloaded."""
    done = uv("python", "find", "--no-python-downloads", version)
    return done.stdout.strip() or None if not done.returncode else None
