"""The block at the end of a terminal that is kept up to date while a command works, and goes when it ends."""

from __future__ import annotations

import atexit
from threading import RLock
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from . import streams

if TYPE_CHECKING:
    from .standing import Standing

WIDEST_BAR = 40
"""Columns of a bar."""
NARROWEST = 20
"""Columns of a text beside its head, at least."""


class Block:
    """What is running, how far it is and what it has found, in up to three lines; lines that are said scroll by above.

    Whatever else is printed meanwhile hides it until it is shown again.
    """

    def __init__(self, stream: TextIO, lock: RLock) -> None:
        self._lock = lock
        self._console = Console(file=streams.underlying(stream), legacy_windows=False, highlight=False)
        self._spinner = Spinner("dots")
        self._live: Live | None = None
        streams.before_words(self.hide)
        atexit.register(self.hide)  # a terminal gets its cursor back, however the command ends

    def show(self, elapsed: float, now: str, standing: Standing) -> None:
        """Show it, or bring it up to date."""
        drawn = self._drawn(elapsed, now, standing)
        if self._live is None:
            self._live = Live(
                drawn,
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(drawn, refresh=True)

    def hide(self) -> None:
        """Take it away until it is shown again."""
        with self._lock:
            live, self._live = self._live, None
            if live is not None:
                live.stop()

    def close(self) -> None:
        """Take it away for good."""
        self.hide()
        streams.before_words(None)
        atexit.unregister(self.hide)

    def say(self, head: str, text: str) -> bool:
        """One line above the block, wrapped beside its head; False where the block is not shown."""
        if self._live is None:
            return False
        room = max(self._console.width - len(head), NARROWEST)
        first, *more = Text(text).wrap(self._console, room, overflow="fold") or [Text()]
        self._console.print(
            Text.assemble(head, first, *(f"\n{' ' * len(head)}{line}" for line in more)), soft_wrap=True
        )
        return True

    def _drawn(self, elapsed: float, now: str, standing: Standing) -> Group:
        self._spinner.update(text=_line(f"{now}  {elapsed:.0f} s", style="bold"))
        lines: list[Spinner | Table | Text] = [self._spinner]
        parts = standing.parts()
        if standing.of:
            room = max(self._console.width - len(parts[0]) - 4, 4)
            bar = ProgressBar(standing.of, standing.done, width=min(WIDEST_BAR, room))
            row = Table.grid(padding=(0, 2, 0, 0))
            row.add_row(bar, _line(parts.pop(0)))
            lines.append(row)
        text = ""
        for part in parts:  # as many to a line as there is room for
            longer = f"{text}  {part}" if text else part
            if text and len(longer) > self._console.width:
                lines.append(_line(text))
                longer = part
            text = longer
        return Group(*lines, *([_line(text)] if text else []))


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
