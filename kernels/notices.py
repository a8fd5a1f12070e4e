"""Things a program should hear once: each step down from the best kernel, each file that could not be read."""

from __future__ import annotations

import logging

from ..host.printable import printable

logger = logging.getLogger("eintune")
_said: set[str] = set()


def say_once(message: str, level: int = logging.WARNING) -> None:
    """Log `message` unless this process already did. Logging never raises, unlike warnings turned errors."""
    if message not in _said:
        _said.add(message)
        logger.log(level, printable(message))


def forget() -> None:
    """Say everything again (for tests, and for programs that rotate their logs)."""
    _said.clear()


def one_line(error: BaseException) -> str:
    """An exception's type and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(f"{type(error).__name__}: {lines[0] if lines else ''}"[:300])
