"""How the tests of the kernels run one: torch here, Triton on the GPU if there is one, else in an interpreter."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kernel_forms import Execute, run_on_gpu

from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.launch.load import load

HELPERS = Path(__file__).parents[1] / "helpers"


def pytest_addoption(parser: pytest.Parser) -> None:
    with contextlib.suppress(ValueError):  # another folder's conftest may have added it
        parser.addoption("--refresh-golden", action="store_true", help="write the golden sources anew")


class Interpreter:
    """A child process in which Triton interprets; started at the first kernel."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, kernel: Kernel, tensors: list[torch.Tensor]) -> None:
        if self._process is None:
            command = [sys.executable, "-P", str(HELPERS / "interpreter_server.py")]
            env = {**os.environ, "TRITON_INTERPRET": "1"}
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        assert self._process.stdin and self._process.stdout
        pickle.dump((kernel, tensors), self._process.stdin)
        self._process.stdin.flush()
        answer = pickle.load(self._process.stdout)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        written = (t for t, a in zip(tensors, kernel.arguments, strict=True) if a.output)
        for mine, theirs in zip(written, answer, strict=True):
            mine.copy_(theirs)

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    running = Interpreter()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def execute(interpreter: Interpreter) -> Execute:
    """Run a kernel on CPU tensors: its outputs are filled."""

    def run(kernel: Kernel, tensors: list[torch.Tensor]) -> None:
        if kernel.emitter == "torch":
            load(kernel)(tensors)
        elif torch.cuda.is_available():
            run_on_gpu(kernel, tensors)
        else:
            interpreter(kernel, tensors)

    return run
