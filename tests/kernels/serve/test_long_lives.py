"""Processes that run for weeks, and those that fork: what is made is bounded, and none breaks what another uses."""

from __future__ import annotations

import gc
import linecache
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

import eintune
from eintune.host import notices
from eintune.host.recent import Recent
from eintune.kernels.launch import module
from eintune.kernels.serve import attention as runtime
from eintune.kernels.serve import modified_attention as modified


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    notices.forget()


def generated() -> int:
    """Generated modules whose lines are kept."""
    gc.collect()
    kept = sum(name.startswith("<eintune_") for name in linecache.cache)
    assert kept == len(module._modules)
    return kept


def test_modules_of_many_signatures_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_ready", Recent(8))
    monkeypatch.setattr(modified, "_ready", Recent(8))
    monkeypatch.setattr(modified, "_served", Recent(8))
    folder, before = Path(tempfile.gettempdir()), generated()
    files = len(list(folder.iterdir()))
    slopes = torch.rand(1)
    for n in range(1, 61):
        q = torch.randn(1, 1, n, 8)
        made = eintune.attention(q, q, q)
        torch.testing.assert_close(made, torch.softmax(q @ q.mT / 8**0.5, -1) @ q)
        if n > 30:
            made = eintune.attention(q, q, q, score_mod=lambda s, b, h, p, m: s * slopes[h])
            torch.testing.assert_close(made, torch.softmax(q @ q.mT / 8**0.5 * slopes, -1) @ q)
    assert generated() - before <= 8 + 8 + 2
    assert not any(n.startswith("eintune_torch") for n in sys.modules)
    assert len(list(folder.iterdir())) <= files + 1  # a file of forms that is being written


def test_layouts_of_one_cascade_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    run = eintune.compile("Zb = Qb,e * Qb,e")
    run._ready = Recent(6)
    before = generated()
    for n in range(1, 31):
        q = torch.randn(n, 3)
        torch.testing.assert_close(run(q), (q * q).sum(1))
    assert generated() - before <= 8


def test_what_is_used_stays() -> None:
    table: Recent[int, int] = Recent(10)
    for n in range(1000):
        table[n] = n
        assert table.get(0) is not None or n == 0  # used again and again
        assert len(table) <= 10
    assert table.get(999) == 999 and table.get(998) == 998 and table.get(500) is None
    table.clear()
    assert len(table) == 0


def test_a_warning_is_said_once_a_signature(caplog: pytest.LogCaptureFixture) -> None:
    def said() -> list[str]:
        return [r.getMessage() for r in caplog.records if "never tuned" in r.getMessage()]

    for n in range(3, 9):
        q = torch.randn(1, 1, n, 8)
        eintune.attention(q, q, q)
    assert len(said()) == 1
    eintune.attention(q.double(), q.double(), q.double())
    eintune.attention(q, q, q, causal=True)
    assert len(said()) == 3
    for n in range(10000):
        notices.say_once(f"{n}", 0)
    assert len(notices._said) <= 4096


FORKS = """
import logging, os, sys, threading, torch, eintune
from eintune.kernels.serve import serving

def right(n):
    q = torch.randn(1, 1, n, 8)
    torch.testing.assert_close(eintune.attention(q, q, q), torch.softmax(q @ q.mT / 8**0.5, -1) @ q)

right(4)
choosing, go_on, choices = threading.Event(), threading.Event(), serving.choices

def waiting(*arguments):
    serving.choices = choices
    choosing.set()
    go_on.wait()
    yield from choices(*arguments)

serving.choices = waiting
thread = threading.Thread(target=right, args=(5,))
thread.start()
choosing.wait()
for leave in (os._exit, sys.exit):
    child = os.fork()  # while another thread is choosing a kernel
    if not child:
        right(6)
        leave(0)
    assert os.waitpid(child, 0)[1] == 0
go_on.set()
thread.join()
for n in range(7, 12):
    right(n)
"""


IMPORTS = """
import os, sys, threading, time, eintune, torch

torch.arange(8.0).sin()  # what PyTorch locks at its first operation is not looked at here

class Slow:
    \"\"\"A finder that takes a moment for each module of this package, as a busy disk does.\"\"\"

    def find_spec(self, name, path=None, target=None):
        if name.startswith(("eintune", "importlib")):
            importing.set()
            time.sleep(0.01)

importing = threading.Event()

def right(n):
    attention = eintune.attention
    q = torch.arange(8.0 * n).sin().view(1, 1, n, 8)
    assert torch.allclose(attention(q, q, q), torch.softmax(q @ q.mT / 8**0.5, -1) @ q, atol=1e-5)

if sys.argv[1] == "first call":
    eintune.attention
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=right, args=(5,))
thread.start()
importing.wait()
time.sleep(0.05)
children = []
for _ in range(3):
    child = os.fork()  # while another thread imports
    if not child:
        right(6)
        os._exit(0)
    children.append(child)
    time.sleep(0.05)
thread.join()
right(7)
end = time.monotonic() + 30
while children and time.monotonic() < end:
    done, code = os.waitpid(-1, os.WNOHANG)
    assert code == 0
    children = [c for c in children if c != done]
    time.sleep(0.01)
for child in children:
    os.kill(child, 9)
assert not children, "children that hang"
"""


@pytest.mark.parametrize("when", ["first name", "first call"])
def test_a_child_does_not_wait_for_what_a_thread_of_its_parent_imports(tmp_path: Path, when: str) -> None:
    env: dict[str, Any] = {**os.environ, "EINTUNE_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", IMPORTS, when]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


def test_children_of_a_fork_and_their_parent_go_on(tmp_path: Path) -> None:
    """A child that ends as usual takes nothing of its parent's, and waits for no thread that it does not have."""
    env: dict[str, Any] = {**os.environ, "EINTUNE_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", FORKS]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "plain PyTorch operators" not in done.stderr and "does not run here" not in done.stderr
