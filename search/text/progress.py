"""Progress on stderr: what is running, how far it is, the best so far, what is left; and the wall time of each stage.

Where nobody reads along (a file, a pipe, a log), it is one line an event, with the time since the start, and one at
least every second. On a terminal the same lines scroll by above a block that is kept up to date (`live`).
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from eintune.host.printable import printable

from . import streams
from .standing import Standing

if TYPE_CHECKING:
    from .live import Block

QUIET_SECONDS = 0.7
"""Longer than this without a line, and a reader wonders what goes on."""
REFRESH_SECONDS = 0.2
"""How often a block on a terminal is brought up to date."""
WORDS = {
    "start": "starting",
    "machine": "finding out how fast this machine is",
    "derive": "deriving cascades from the definition",
    "plan": "planning candidates",
    "price": "pricing candidates",
    "prepare": "getting inputs and the reference ready",
    "compile": "compiling",
    "check": "comparing with the reference in float64",
    "time": "timing",
    "search": "searching",
    "measure": "measuring",
    "finals": "timing finalists and peers together",
    "store": "storing the winner",
    "bench": "benchmarking",
    "tune": "a small search",
    "write": "writing files",
    "report": "drawing the report",
}
"""What is said of a stage that says nothing itself."""


_running: weakref.WeakSet[Progress] = weakref.WeakSet()


def end_all() -> None:
    """Nothing more is said of whatever is still under way: the command is over."""
    for progress in list(_running):
        progress.close()


class Progress:
    """Says what happens, when, and keeps how long each stage took.

    stream: where lines go; None says nothing. first: what is said at once. stages: seconds by stage, in the order they
    began; every moment belongs to one stage, the innermost. standing: how far it is, set by whoever knows.
    """

    def __init__(self, stream: TextIO | None = None, first: str = "") -> None:
        self._stream = stream
        self._start = self._since = time.monotonic()
        self._said = self._start
        self._now = "start"
        self._doing = ""
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._block: Block | None = None
        self.standing = Standing()
        self.stages: dict[str, float] = {"start": 0.0}
        if stream is not None:
            if first:
                self.say(first)
            _running.add(self)
            threading.Thread(target=self._keep_saying, name="eintune-progress", daemon=True).start()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def close(self) -> None:
        """Say nothing more of its own accord; a block on a terminal goes."""
        self._over.set()
        with self._lock:
            if self._block is not None:
                self._block.close()
                self._block = None
        _running.discard(self)

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
        self._now, self._since, self._doing = name, now, ""

    def doing(self, text: str) -> None:
        """What is running now, until something else is or the stage ends; said as soon as it takes a while."""
        self._doing = text

    def stands(self, **changes: object) -> None:
        """Change some of `standing`."""
        for name, value in changes.items():
            setattr(self.standing, name, value)
        if "left" in changes:
            self.standing.since = time.monotonic()

    def say(self, text: str) -> None:
        """One line."""
        with self._lock:
            self._said = time.monotonic()
            head, text = f"{self.elapsed:6.1f} s  {self._now:<8} ", printable(text)
            if self._block is not None and self._block.say(head, text):
                return
            if not streams.say(head + text, self._stream):
                self._stream = None  # whoever read it has gone: what is done goes on

    @property
    def now(self) -> str:
        """What is running, in words."""
        return self._doing or WORDS.get(self._now, self._now)

    def _keep_saying(self) -> None:
        """Until it is over: what is running, where nothing else was said of it."""
        terminal = self._stream is not None and streams.is_terminal(self._stream)
        while not self._over.wait(REFRESH_SECONDS if terminal else QUIET_SECONDS / 4):
            if terminal:
                self._refresh()
            elif self._stream is not None and time.monotonic() - self._said > QUIET_SECONDS:
                self.say("; ".join([self.now, *self.standing.parts()]))

    def _refresh(self) -> None:
        """Bring the block up to date; without the library that draws it there are lines only."""
        with self._lock, contextlib.suppress(ImportError, OSError):
            if self._over.is_set() or self._stream is None:
                return
            if self._block is None:
                from .live import Block

                self._block = Block(self._stream, self._lock)
            self._block.show(self.elapsed, self.now, self.standing)
