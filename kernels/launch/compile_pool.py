"""Many offline compiles at once, in child processes that can be killed.

A child reads one kernel a line and answers one line (JSON both ways). A compile that takes too long costs its
child; the next kernel gets a new one. `python -m eintune.kernels.launch.compile_pool` is the child.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from eintune.costmodel.counts.estimate import Resources
from eintune.kernels.emit.kernel import Argument, Descriptor, Kernel, Reach

from .offline import CompileError, compile_offline, environment


@dataclass(frozen=True)
class Failure:
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
        self._children: list[_Child] = []

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
    ) -> list[Resources | Failure]:
        """Exact resources of each kernel on an architecture, or why there are none.

        meanwhile: called once the children are at work, for what this process has to do anyway.
        """
        waiting: SimpleQueue[int] = SimpleQueue()
        for i in range(len(kernels)):
            waiting.put(i)
        results: list[Resources | Failure] = [Failure("crashed", "never compiled")] * len(kernels)

        def work(child: _Child) -> None:
            with contextlib.suppress(Empty):
                while True:
                    i = waiting.get_nowait()
                    results[i] = child.compile(kernels[i], architecture, self._timeout)

        children = self._ready(max(1, min(self._workers, len(kernels))))
        with ThreadPoolExecutor(len(children)) as pool:
            try:
                working = [pool.submit(work, child) for child in children]
                meanwhile()
                for done in working:
                    done.result()
            except BaseException:  # such as Ctrl-C: the threads end when what they wait for does
                with contextlib.suppress(Empty):
                    while True:
                        waiting.get_nowait()
                for child in children:
                    child.kill()
                raise
        return results

    def _ready(self, count: int) -> list[_Child]:
        """So many children, new ones where there are fewer."""
        self._children += [_Child(self._environment) for _ in range(count - len(self._children))]
        return self._children[:count]


def compile_many(
    kernels: Sequence[Kernel],
    architecture: str,
    *,
    workers: int | None = None,
    timeout: float = 60.0,
    cache_dir: Path | None = None,
) -> list[Resources | Failure]:
    """As `CompilePool.compile`, by children of its own."""
    with CompilePool(workers, timeout, cache_dir) as pool:
        return pool.compile(kernels, architecture)


class _Child:
    """One compiling process, started when it is needed."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    def compile(self, kernel: Kernel, architecture: str, timeout: float) -> Resources | Failure:
        process = self.start()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps([asdict(kernel), architecture]).encode() + b"\n")
            process.stdin.flush()
            answer = self._answer(process, timeout)
        except BrokenPipeError:
            answer = b""
        if answer is None:
            self.stop()
            return Failure("timeout", f"the compiler took longer than {timeout:g} s")
        if not answer:
            code = process.wait()
            self.stop()
            return Failure("crashed", f"the compiling process ended with exit code {code}")
        ok, data = json.loads(answer)
        return Resources(**data) if ok else Failure("compile-error", data)

    @staticmethod
    def _answer(process: subprocess.Popen[bytes], timeout: float) -> bytes | None:
        """The next line; empty where the child has ended, None where it is late."""
        assert process.stdout
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        return process.stdout.readline() if ready else None

    def start(self) -> subprocess.Popen[bytes]:
        """The process, started if it does not run."""
        if self._process is None:
            command = [sys.executable, "-P", "-m", __spec__.name if __spec__ else __name__]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._env,
                process_group=0,  # a Ctrl-C is for its parent, which ends it
            )
        return self._process

    def kill(self) -> None:
        """End what runs; whoever waits for its answer is told that it ended."""
        if self._process:
            self._process.kill()

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


def kernel_of(data: dict[str, Any]) -> Kernel:
    """A kernel from its `asdict`, through JSON."""
    found: dict[str, Any] = {"grid": tuple(data["grid"]), "steps": tuple(map(kernel_of, data["steps"]))}
    for name in ("arguments", "workspaces"):
        found[name] = tuple(Argument(**{**a, "shape": tuple(a["shape"])}) for a in data[name])
    found["descriptors"] = tuple(Descriptor(d["argument"], tuple(d["block"])) for d in data["descriptors"])
    found["reaches"] = tuple(Reach(r["argument"], tuple(r["steps"])) for r in data["reaches"])
    return Kernel(**{**data, **found})


def main() -> None:
    """The child: a kernel a line on stdin, a result a line on what was stdout. There a compiler prints whole programs
    when it fails: nobody reads that, its error says why."""
    with contextlib.suppress(ImportError):  # whoever compiles without it is told
        importlib.import_module("triton.compiler")  # takes long, and is over when the first kernel comes

    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        data, architecture = json.loads(line)
        try:
            answer: tuple[bool, Any] = True, asdict(compile_offline(kernel_of(data), architecture))
        except CompileError as error:
            answer = False, str(error)
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
