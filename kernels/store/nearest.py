"""Entries of one definition in the order of how far they are from a key, for a program that asks at size after size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .cache import Entry, Key, distance


class Nearness:
    """Entries, and all of how far they are from keys that differ in nothing but sizes."""

    def __init__(self, entries: Sequence[Entry], key: Key) -> None:
        self._entries = list(entries)
        self._ranks = [r for r, _ in key.sizes]
        every = [(distance(key, e.key), e) for e in self._entries]
        self._machine = np.array([d[0] for d, _ in every])  # infinite for another definition
        sizes = [dict(e.key.sizes) for e in self._entries]
        self._logs = np.log2(np.maximum([[s.get(r, 1) for r in self._ranks] for s in sizes], 1.0))
        ties = [(d[2:], not e.any_size, e.path.name) for d, e in every]
        place = {tie: i for i, tie in enumerate(sorted(set(ties)))}
        self._ties = np.array([place[tie] for tie in ties])

    def nearest(self, key: Key, most: int) -> list[Entry]:
        """At most so many, as `distance` orders them; of those as far as each other a portfolio's before a record's."""
        wanted = dict(key.sizes)
        if not self._entries:
            return []
        logs = np.log2(np.maximum([float(wanted[r]) for r in self._ranks], 1.0))
        # Rounded: as far as each other is what differs by the order of a sum alone.
        apart = np.round(np.abs(self._logs - logs).sum(axis=1), 9)
        order = np.lexsort((self._ties, apart, self._machine))
        return [self._entries[i] for i in order[:most]]
