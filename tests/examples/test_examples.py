"""Each example runs as its first lines say, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SAYS = {
    "continuous_batching": (
        "--requests 6 --check",
        r"73 tokens of 6 requests in 21 steps, .*\n6 of 6 requests are what",
    ),
    "in_transformers": ("--tokens 6", "the same tokens as by PyTorch's attention"),
    "own_cascade": ("", r"3 passes over the keys\nderived: 1 pass over m, (.*\n)*off from PyTorch by"),
    "own_mask": ("--length 128", r"attention: off by .*\nflex_attention: off by .*\n\d+% of all pairs are seen"),
    "ship_a_cache": ("", r"exported 0 records, 1 portfolio, 1 kept derivation\n(.*\n)*served lengths 32 and 64"),
    "training": ("--steps 40", r"the gradients of 7 parameters are PyTorch's\nloss .* after 40 steps"),
    "varying_lengths": (
        "--requests 4",
        r"4 prompts of .* are right.*\n16 steps .* are right.*\n4 packed prompts are right",
    ),
}
"""What each is given, and what it then prints."""


def test_every_example_is_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example(name: str, tmp_path: Path) -> None:
    options, said = SAYS[name]
    path = EXAMPLES / f"{name}.py"
    assert f"python examples/{name}.py" in path.read_text()
    env = {**os.environ, "EINTUNE_CACHE": str(tmp_path)}
    command = [sys.executable, str(path), *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(said, done.stdout), done.stdout


def test_a_cache_that_is_too_small_is_told(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "continuous_batching.py"), "--pages", "2"]
    env = {**os.environ, "EINTUNE_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 2 and re.search(r"--pages must be at least \d+, but got 2", done.stderr)
