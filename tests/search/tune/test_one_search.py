"""One process at a time searches for a problem's winner, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from eintune.kernels.store.cache import Key
from eintune.kernels.store.platform import platform_of
from eintune.search.tune.one_search import only_search
from eintune.space.workloads.builtin import WORKLOADS

HOLDER = """
import sys
from pathlib import Path
from test_one_search import key
from eintune.search.tune.one_search import only_search
with only_search(Path(sys.argv[1]), key(64), print):
    print("held", flush=True)
    input()
"""


def key(rows: int) -> Key:
    return Key.of(WORKLOADS["softmax"].posed({"rows": rows, "cols": 32}, "fp32").problem, platform_of("cpu"))


def holder(cache: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDER, str(cache)],
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_who_comes_second_waits_until_the_first_was_killed(tmp_path: Path) -> None:
    said: list[str] = []
    with holder(tmp_path / "cache") as first:

        def waiting(line: str) -> None:
            said.append(line)
            first.send_signal(signal.SIGKILL)

        begun = time.monotonic()
        with only_search(tmp_path / "cache", key(64), waiting) as waited:
            assert waited and time.monotonic() - begun < 30
        assert said == ["another process searches for this problem's winner; waiting for it"]
        assert first.wait(10) == -signal.SIGKILL


def test_other_problems_and_other_caches_wait_for_nobody(tmp_path: Path) -> None:
    said: list[str] = []
    with holder(tmp_path / "cache") as first:
        with only_search(tmp_path / "cache", key(128), said.append) as waited:
            assert not waited
        with only_search(tmp_path / "other", key(64), said.append) as waited:
            assert not waited
        first.kill()
    assert said == []


def test_without_a_folder_for_locks_there_is_none(tmp_path: Path, monkeypatch: object) -> None:
    with only_search(tmp_path, key(64), lambda line: None) as waited:
        assert not waited
