"""The nearest entries: as the distance between keys orders them, one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from eintune.kernels.store.cache import Cache, Entry, Key, distance
from eintune.kernels.store.nearest import Nearness
from eintune.kernels.store.portfolio import every_entry

SHIPPED = [*every_entry(Cache(Path("nowhere"))), *Cache(Path("nowhere")).entries()]
KEY = next(e.key for e in SHIPPED if e.key.workload == "attention")
SAME = [e for e in SHIPPED if e.key.cascade == KEY.cascade]


def ordered(key: Key, entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: (distance(key, e.key), not e.any_size, e.path.name))


@given(
    sizes=st.lists(st.integers(1, 20000), min_size=len(KEY.sizes), max_size=len(KEY.sizes)),
    most=st.integers(1, len(SAME)),
)
def test_they_come_as_the_distance_orders_them(sizes: list[int], most: int) -> None:
    nearness = Nearness(SAME, KEY)
    key = replace(KEY, sizes=tuple((r, n) for (r, _), n in zip(KEY.sizes, sizes, strict=False)))
    found, wanted = nearness.nearest(key, most), ordered(key, SAME)[:most]
    assert [round(distance(key, e.key)[1], 6) for e in found] == [round(distance(key, e.key)[1], 6) for e in wanted]
    assert len({id(e) for e in found}) == most


def test_what_is_as_far_is_ordered_by_what_else_differs() -> None:
    at = SAME[0]
    moved = replace(at, key=replace(at.key, machine="another"))
    older = replace(at, key=replace(at.key, torch="1.0"))
    record, other = replace(at, any_size=False), replace(at, path=Path("~"))
    stranger = replace(at, key=replace(at.key, cascade="0" * 64))
    entries = [stranger, moved, older, record, other, replace(at, any_size=True)]
    found = Nearness(entries, at.key).nearest(at.key, 9)
    assert found == ordered(at.key, entries) and found[-2:] == [moved, stranger]
    assert Nearness([], at.key).nearest(at.key, 9) == []
