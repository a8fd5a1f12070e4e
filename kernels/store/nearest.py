"""Entries of one definition in the order of how far they are from a key, for a program that asks at size after size."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from eintune.host.recent import Recent

from .cache import Entry, Key, distance

POINTS = 8
"""How many of the nearest sizes say which kernels are worth a price."""
BEHIND = 1.3
"""How many times as slow as the best a kernel is that is not: more than the model errs from one size to the next."""


class Measured(tuple[Entry, ...]):
    """Entries that stand in keys as this very object: hashing all that they hold takes longer than choosing."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @classmethod
    def of(cls, records: Sequence[Entry], points: Sequence[Entry]) -> Measured:
        """Records, in any order, and points, a list that is the same one until what is stored changes."""
        asked = frozenset(map(id, records)), id(points)
        known = _measured.get(asked)
        if known is None:
            # Both are kept, so that nothing else gets their ids meanwhile.
            known = _measured[asked] = cls([*records, *points]), points
        return known[0]


_measured: Recent[Hashable, tuple[Measured, Sequence[Entry]]] = Recent(256)


def token_of(entries: Sequence[Entry]) -> object:
    """What stands for entries in a key: these objects, in any order. An index of what is stored keeps them until it is
    read again, and hashing all that they hold takes longer than choosing among them."""
    if isinstance(entries, Measured):
        return entries
    ids = frozenset(map(id, entries))
    known = _tokens.get(ids)
    if known is None:
        known = _tokens[ids] = object(), tuple(entries)  # kept, so that no others get their ids meanwhile
    return known[0]


_tokens: Recent[frozenset[int], tuple[object, tuple[Entry, ...]]] = Recent(256)


def contenders(nearest: Sequence[Entry], machine: str) -> list[Entry]:
    """The entries of kernels that were less than BEHIND times as slow as the best at one at least of the POINTS nearest
    sizes that were measured on a machine. nearest: the nearest sizes first."""
    points: dict[object, list[Entry]] = {}
    for e in nearest:
        if e.key.machine == machine:
            if e.key.sizes not in points and len(points) == POINTS:
                break
            points.setdefault(e.key.sizes, []).append(e)
    found = set()
    for at in points.values():
        most = BEHIND * min(e.record.seconds for e in at)
        found |= {(e.record.cascade, e.record.schedule) for e in at if e.record.seconds < most}
    return [e for e in nearest if e.key.machine == machine and (e.record.cascade, e.record.schedule) in found]


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
