"""Progress on stderr: one line an event, with the time since the start; and the wall time of each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from eintune.host.printable import printable

from . import streams

QUIET_SECONDS = 3.0
"""Longer than this without a line, and a reader wonders what goes on."""


class Progress:
    """Says what happens, when, and keeps how long each stage took.

    stream: where lines go; None says nothing. stages: seconds by stage, in the order they began; every moment
    belongs to one stage, the innermost.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._start = self._since = time.monotonic()
        self._said = self._start
        self._now = "start"
        self.stages: dict[str, float] = {"start": 0.0}

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything inside belongs to the stage, but for what a stage inside it takes."""
        outer = self._now
        self.become(name)
        try:
            yield
        finally:
            self.become(outer)

    def become(self, name: str) -> None:
        """From now on time belongs to `name`, until the stage around ends."""
        now = time.monotonic()
        if self._now:
            self.stages[self._now] = self.stages.get(self._now, 0.0) + now - self._since
        if name:
            self.stages.setdefault(name, 0.0)
        self._now, self._since = name, now

    def tick(self, text: str) -> None:
        """One line, unless there was another a moment ago: for what may be quick or slow."""
        if time.monotonic() - self._said > QUIET_SECONDS:
            self.say(text)

    def say(self, text: str) -> None:
        """One line."""
        self._said = time.monotonic()
        if not streams.say(f"{self.elapsed:6.1f} s  {self._now:<8} {printable(text)}", self._stream):
            self._stream = None  # whoever read it has gone: what is done goes on
