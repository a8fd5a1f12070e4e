"""Progress on stderr: one line an event, with the time since the start; and the wall time of each stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    """Says what happens, when, and keeps how long each stage took.

    stream: where lines go; None says nothing. stages: seconds by stage, in the order they began.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._start = time.monotonic()
        self.stages: dict[str, float] = {}
        self._stage = ""

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything said inside belongs to the stage; its time is added up under its name."""
        outer, self._stage, begun = self._stage, name, time.monotonic()
        self.stages.setdefault(name, 0.0)
        try:
            yield
        finally:
            self.stages[name] += time.monotonic() - begun
            self._stage = outer

    def say(self, text: str) -> None:
        """One line."""
        if self._stream is not None:
            print(f"{self.elapsed:6.1f} s  {self._stage:<10} {text}", file=self._stream, flush=True)


def loud() -> Progress:
    """Progress on stderr."""
    return Progress(sys.stderr)
