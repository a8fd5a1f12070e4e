"""Bounded JSON data: checks on what a file holds, before anything uses it.

Each function returns the value it was given or raises BadRecord naming the field, the rule and the value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

MAX_ITEMS = 256


class BadRecord(ValueError):
    """Data that is not a usable record; the message says which rule it breaks."""


def table(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > MAX_ITEMS:
        raise BadRecord(f"`{name}` must be a table of at most {MAX_ITEMS} entries, but got {short(value)}")
    return value


def text(value: object, name: str, limit: int = 512) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise BadRecord(f"`{name}` must be a text of at most {limit} characters, but got {short(value)}")
    return value


def integer(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**40:
        raise BadRecord(f"`{name}` must be an integer in 1 to 2**40, but got {short(value)}")
    return value


def number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadRecord(f"`{name}` must be a finite number, but got {short(value)}")
    return float(value)


def positive(value: object, name: str) -> float:
    seconds = number(value, name)
    if seconds <= 0:
        raise BadRecord(f"`{name}` must be positive (seconds), but got {seconds}")
    return seconds


def pairs(value: object, name: str, check: Callable[[object, str], Any]) -> tuple[tuple[str, Any], ...]:
    entries = table(value, name)
    return tuple(sorted((text(n, name), check(v, f"{name}.{n}")) for n, v in entries.items()))


def moment(value: object, name: str) -> str:
    written = text(value, name, 64)
    try:
        datetime.fromisoformat(written)
    except ValueError:
        raise BadRecord(f"`{name}` must be an ISO 8601 moment, but got {written!r}") from None
    return written


def data(value: object, name: str, depth: int = 6) -> dict[str, Any]:
    """A table of numbers, texts, booleans, nulls, and lists or tables of those, `depth` levels at most."""

    def check(item: object, left: int) -> None:
        if left == 0:
            raise BadRecord(f"`{name}` must be at most {depth} levels deep")
        match item:
            case None | bool():
                return
            case int() | float():
                number(item, name)
            case str():
                text(item, name, 4096)
            case list():
                for part in item[: MAX_ITEMS + 1]:
                    check(part, left - 1)
            case dict():
                for part in table(item, name).values():
                    check(part, left - 1)
            case _:
                raise BadRecord(f"`{name}` must be JSON data, but holds {short(item)}")

    check(table(value, name), depth)
    return dict(table(value, name))


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
