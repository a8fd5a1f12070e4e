"""Many offline compiles at once, in child processes that can be killed.

A compile that takes too long costs its child; the next kernel gets a new one.
`python -m eintune.kernels.launch.compile_pool FD` is the child (`host/worker.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from eintune.costmodel.counts.estimate import Resources
from eintune.host.worker import Answer, Child, Outcome, answer_tasks
from eintune.kernels.emit.kernel import Kernel

from .offline import CompileError, compile_offline, environment

MODULE = "eintune.kernels.launch.compile_pool"


@dataclass(frozen=True)
class CompileFailure:
    """A compile that gave no kernel. status: "compile-error", "timeout" or "crashed"."""

    status: str
    message: str


class CompilePool:
    """Child processes that compile. A context manager: they are kept until it ends, so that only the first kernels wait
    for them to start, and not even those after `start`.

    workers: how many (default: one a core). timeout: seconds that a kernel may take.
    """

    def __init__(self, workers: int | None = None, timeout: float = 60.0, cache_dir: Path | None = None) -> None:
        self._workers = max(1, workers or os.cpu_count() or 1)
        self._timeout = timeout
        self._environment = environment(cache_dir)
        self._children: list[Child] = []

    def __enter__(self) -> CompilePool:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all children now, while the caller goes on with other things."""
        for child in self._ready(self._workers):
            child.start()

    def stop(self) -> None:
        """End all children."""
        for child in self._children:
            child.stop()
        self._children = []

    def compile(
        self, kernels: Sequence[Kernel], architecture: str, meanwhile: Callable[[], object] = lambda: None
    ) -> list[Resources | CompileFailure]:
        """Exact resources of each kernel on an architecture, or why there are none.

        meanwhile: called once the children are at work, for what this process has to do anyway.
        """
        # One thread a child, each of which takes the next kernel when its child has answered: long compiles hold up
        # nobody.
        waiting: SimpleQueue[int] = SimpleQueue()
        for i in range(len(kernels)):
            waiting.put(i)
        results: list[Resources | CompileFailure] = [CompileFailure("crashed", "never compiled")] * len(kernels)

        def work(child: Child) -> None:
            with contextlib.suppress(Empty):
                while True:
                    i = waiting.get_nowait()
                    results[i] = _compiled(child, kernels[i], architecture, self._timeout)

        children = self._ready(max(1, min(self._workers, len(kernels))))
        with ThreadPoolExecutor(len(children)) as pool:
            try:
                working = [pool.submit(work, child) for child in children]
                # In this thread, while others only wait for pipes.
                meanwhile()
                for done in working:
                    done.result()
            # Emptied first, or a thread whose child was killed would begin another kernel with a new one.
            except BaseException:  # such as Ctrl-C: the threads end when what they wait for does
                with contextlib.suppress(Empty):
                    while True:
                        waiting.get_nowait()
                for child in children:
                    child.kill()
                raise
        return results

    def _ready(self, count: int) -> list[Child]:
        """The first `count` children, of which missing ones are made (and not started)."""
        self._children += [Child(MODULE, self._environment) for _ in range(count - len(self._children))]
        return self._children[:count]


def compile_many(
    kernels: Sequence[Kernel],
    architecture: str,
    *,
    workers: int | None = None,
    timeout: float = 60.0,
    cache_dir: Path | None = None,
) -> list[Resources | CompileFailure]:
    """As `CompilePool.compile`, by children of its own."""
    with CompilePool(workers, timeout, cache_dir) as pool:
        return pool.compile(kernels, architecture)


def _compiled(child: Child, kernel: Kernel, architecture: str, timeout: float) -> Resources | CompileFailure:
    """What a child makes of one kernel."""
    match child.call((kernel, architecture), timeout):
        case Outcome("ok", Resources() as resources):
            return resources
        case Outcome("timeout"):
            return CompileFailure("timeout", f"the compiler took longer than {timeout:g} s")
        case Outcome("crashed", _, message):
            return CompileFailure("crashed", message)
        case Outcome(_, _, message):
            return CompileFailure("compile-error", message)


def _answer(task: tuple[Kernel, str]) -> Answer:
    try:
        return Answer("ok", compile_offline(*task))
    except CompileError as error:
        return Answer("compile-error", message=str(error))


if __name__ == "__main__":
    with contextlib.suppress(ImportError):  # whoever compiles without it is told
        importlib.import_module("triton.compiler")  # takes long, and is over when the first kernel comes
    sys.exit(answer_tasks(sys.argv[1:], lambda send: _answer))
