"""What is raised for what has no expression."""

from __future__ import annotations

from typing import NoReturn


class Untraceable(ValueError):
    """A construct that has no expression; the message names it and says what to write instead."""


def refuse(what: str, instead: str) -> NoReturn:
    raise Untraceable(f"a traced function cannot use {what[:200]}: {instead}")
