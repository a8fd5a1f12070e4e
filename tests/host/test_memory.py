"""What is free, and a process that takes no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eintune.host import memory
from eintune.host.memory import free_bytes, in_words


def test_something_is_free_here() -> None:
    free = free_bytes()
    assert free is None or 2**20 < free < 2**50


def test_the_tightest_limit_of_the_groups_around_counts(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "self").write_text("0::/outer/inner\n")
    assert memory._of_group(tmp_path, tmp_path / "self") is None
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text("5\n")
    (tmp_path / "outer" / "memory.max").write_text("1000\n")
    (tmp_path / "outer" / "memory.current").write_text("700\n")
    assert memory._of_group(tmp_path, tmp_path / "self") == 300
    (tmp_path / "outer" / "memory.stat").write_text("anon 5\ninactive_file 600\n")
    assert memory._of_group(tmp_path, tmp_path / "self") == 900
    assert memory._of_group(tmp_path, tmp_path / "none") is None


def test_the_first_version_of_groups(tmp_path: Path) -> None:
    group = tmp_path / "memory" / "job"
    group.mkdir(parents=True)
    (tmp_path / "self").write_text("4:cpu,cpuacct:/job\n3:memory:/job\n")
    (group / "memory.limit_in_bytes").write_text("1000")
    (group / "memory.usage_in_bytes").write_text("1")
    assert memory._of_group(tmp_path, tmp_path / "self") == 999


@pytest.mark.parametrize(
    ("amount", "said"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (21.4 * 2**30, "21.4 GiB")]
)
def test_amounts_in_words(amount: float, said: str) -> None:
    assert in_words(amount) == said


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_process_that_takes_no_more_fails_by_itself() -> None:
    code = """
import torch
from eintune.host import memory
memory.free_bytes = lambda: 2**28
memory.take_no_more()
small = torch.ones(2**24)
try:
    large = torch.ones(2**28)
except RuntimeError as error:
    print("can't allocate memory" in str(error), open("/proc/self/oom_score_adj").read().strip())
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout == "True 1000\n", done.stderr
