"""What is stored for a problem on a device."""

from __future__ import annotations

from pathlib import Path

from eintune.kernels.store.cache import Cache, Entry, Key
from eintune.kernels.store.kept_forms import follows
from eintune.kernels.store.platform import platform_of
from eintune.space.cascade.problem import Problem


def key_of(problem: Problem, device: str) -> Key:
    """The key of a problem on a device."""
    return Key.of(problem, platform_of(device))


def stored(problem: Problem, device: str, cache: Path) -> Entry | None:
    """The record kept for a problem on a device, if its cascade follows from the definition."""
    entries = Cache(cache).stored(key_of(problem, device))
    return next((e for e in entries if follows(e, problem.cascade, cache)), None)
