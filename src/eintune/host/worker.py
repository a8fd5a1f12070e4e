"""A child process that runs tasks and may die of them: crash, hang or be killed, and be replaced.

The child is a fresh interpreter that runs one module (`python -m MODULE FD`), so that it shares no CUDA context and no
lock with its parent and never runs the user's main module again. Tasks and answers travel as pickles over a private
pair of sockets: `Child` is the parent's end, `answer_tasks` the child's. What measures, what derives and what compiles
are such children. (The engine of the e-graphs is not: it reads one program and ends, under a limit of memory.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any, Literal, TypeAlias

from .child_process import end_with_parent


@dataclass(frozen=True)
class At:
    """A note on the way: what runs now."""

    label: str


@dataclass(frozen=True)
class Answer:
    """The end of a task. `sound` is False where the process must be replaced (a lost CUDA context)."""

    status: Literal["ok", "compile-error", "run-error", "out-of-resources"]
    value: Any = None
    message: str = ""
    sound: bool = True


@dataclass(frozen=True)
class Outcome:
    """What came of one task. `value` is the answer's if status is "ok"; `at` names what ran when it died."""

    status: Literal["ok", "compile-error", "run-error", "out-of-resources", "timeout", "crashed"]
    value: Any = None
    message: str = ""
    at: str = ""


class Child:
    """One child process, which runs `module`. `generation` counts its incarnations: a new one has no state.

    environment: all of the child's; by default this process's own.
    """

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self.generation = 0
        self._module = module
        self._environment = None if environment is None else dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._errors: IO[bytes] | None = None
        self._at = ""

    def start(self) -> None:
        """Start the process if it does not run."""
        if self._process is not None:
            return
        ours, theirs = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `stop`)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            process_group=0,  # a Ctrl-C is for its parent, which ends it
        )
        theirs.close()
        self._pipe = ours
        self.generation += 1

    def stop(self) -> None:
        """Kill the process, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for resource in (self._pipe, self._errors):
            if resource is not None:
                resource.close()
        self._process = self._pipe = self._errors = None

    def kill(self) -> None:
        """End what runs, from any thread: whoever waits for its answer is told that it ended."""
        if (process := self._process) is not None:
            process.kill()

    def call(self, task: object, timeout: float) -> Outcome:
        """Run one task to its end. A child that crashes, hangs or is no longer sound is stopped."""
        self.send(task)
        return self.receive(timeout)

    def send(self, task: object) -> None:
        """Hand over a task, starting the process if need be; `receive` waits for its answer."""
        self.start()
        assert self._pipe is not None
        self._at = ""
        # where the child has died, `receive` says how
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._pipe.send(task)

    @property
    def pid(self) -> int | None:
        """The process' number; None where none runs."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether there is a process: one that was started, not stopped, and not found dead."""
        return self._process is not None

    @property
    def connection(self) -> Connection:
        """What becomes readable when there is something to receive."""
        assert self._pipe is not None, "a child is started before it is waited for"
        return self._pipe

    def receive(self, timeout: float) -> Outcome:
        """The outcome of the task that was sent; waits at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            outcome = self.poll(max(0.0, deadline - time.monotonic()))
            if outcome is not None:
                return outcome
            if time.monotonic() >= deadline:
                self.stop()
                return Outcome("timeout", message=f"no answer within {timeout:.3g} s", at=self._at)

    def poll(self, timeout: float) -> Outcome | None:
        """The outcome if it arrives within `timeout` seconds; a progress note also ends the wait."""
        try:
            if not self.connection.poll(timeout):
                return None
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._died()
        match message:
            case At(label):
                self._at = label
                return None
            case Answer(status, value, text, sound):
                if not sound:
                    self.stop()
                return Outcome(status, value, text, self._at)
            case other:
                self.stop()
                return Outcome("crashed", message=f"the worker sent {type(other).__name__}", at=self._at)

    def _died(self) -> Outcome:
        assert self._process is not None
        code = self._process.wait()
        message = f"the worker ended with {_code(code)}"
        last = self._last_words()
        self.stop()
        return Outcome("crashed", message=f"{message}: {last}" if last else message, at=self._at)

    def _last_words(self) -> str:
        assert self._errors is not None
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 4096))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""


def _code(code: int) -> str:
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


Answering: TypeAlias = Callable[[Any], Answer]


def answer_tasks(arguments: Sequence[str], made: Callable[[Callable[[At], None]], Answering]) -> int:
    """Answer what comes from the socket whose number is the first argument; the exit code.

    made: from what sends a progress note, what answers a task. The process ends with its parent.
    """
    end_with_parent()
    pipe: Connection[Any, Any] = Connection(int(arguments[0]))
    answer = made(pipe.send)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return 0
        pipe.send(answer(task))
