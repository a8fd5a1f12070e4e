"""Child processes that end with a parent that was killed."""

from __future__ import annotations

import select
import subprocess
import sys

import pytest

KILLED = """
import os, signal, subprocess, sys, time
subprocess.Popen([sys.executable, "-P", *{command!r}])
time.sleep(2)
os.kill(os.getpid(), signal.SIGKILL)
"""
HANGS = [
    "-c",
    "import time; from eintune.host.child_process import end_with_parent; end_with_parent(0.1); time.sleep(300)",
]


@pytest.mark.parametrize("command", [HANGS, ["-m", "eintune.space.egraph.engine"]], ids=["hangs", "saturate"])
def test_a_killed_parent_takes_its_child_along(command: list[str]) -> None:
    """The child holds our pipes: it never sees an end of its input, and we see the end of its output when it ends."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", KILLED.format(command=command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.wait(30) == -9
        assert select.select([process.stdout], [], [], 20)[0], "it outlives its parent"
        assert process.stdout.read() == b""
