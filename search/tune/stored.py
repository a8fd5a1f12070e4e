"""What is stored for a problem on a device."""

from __future__ import annotations

from pathlib import Path

from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.kept_forms import follows
from eintune.kernels.store.platform import platform_of
from eintune.space.cascade.problem import Problem


def key_of(problem: Problem, device: str) -> Key:
    """The key of a problem on a device."""
    return Key.of(problem, platform_of(device))


def stored(problem: Problem, device: str, cache: Path) -> tuple[Key, Record | None]:
    """The key of a problem on a device, and the record kept for it, if its cascade follows from the definition."""
    key = key_of(problem, device)
    entries = (e for e in Cache(cache).stored(key) if follows(e, problem.cascade, cache))
    return key, next((e.record for e in entries), None)
