"""What was used lately, in a bounded table: a process that runs for weeks forgets what it no longer asks for."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `most` values by key, in two generations: once half of that is new, the older half is forgotten.

    So what was used among the last `most / 2` keys is kept, as by any table of what was used last, and a hit costs one
    look into a dict. Threads may use one table at once: a race loses an entry, which is then made again.
    """

    def __init__(self, most: int) -> None:
        self._half = max(most // 2, 1)
        self._new: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value, or None. Raises TypeError for a key that has no hash."""
        found = self._new.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self[key] = found
        return found

    def __setitem__(self, key: K, value: V) -> None:
        new = self._new
        if len(new) >= self._half and key not in new:
            self._old, new = new, {}
            self._new = new
        new[key] = value

    def __len__(self) -> int:
        return len(self._new.keys() | self._old.keys())

    def clear(self) -> None:
        """Forget all."""
        self._new, self._old = {}, {}
