"""Things a program should hear once: each step down from the best kernel, each file that could not be read."""

from __future__ import annotations

import logging

logger = logging.getLogger("eintune")
_said: set[str] = set()


def say_once(message: str, level: int = logging.WARNING) -> None:
    """Log `message` unless this process already did. Logging never raises, unlike warnings turned errors."""
    if message not in _said:
        _said.add(message)
        logger.log(level, message)


def forget() -> None:
    """Say everything again (for tests, and for programs that rotate their logs)."""
    _said.clear()
