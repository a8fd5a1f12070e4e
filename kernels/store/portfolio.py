"""Portfolios: the few kernels that serve a computation at any sizes, and where each of them was measured.

A file holds what a search over a set of sizes found: kernels (a form under a schedule, made for any sizes when it is
served) and points (sizes, and what each kernel took there). Nothing of it is trusted more than a record: a form must
follow from the definition, and a file that cannot be used is a miss, said once. A record is a point of one kernel.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from eintune.host.data import (
    BadData,
    Count,
    Lines,
    Name,
    Plain,
    Rank,
    Seconds,
    Size,
    Strict,
    check_format,
    fault,
    from_json,
)
from eintune.host.notices import say_once
from eintune.host.recent import Recent
from eintune.space.ir.expr import Rank as RankName
from eintune.space.schedule.schedule import Schedule

from .cache import (
    Cache,
    Entry,
    Key,
    KeyFile,
    Record,
    Whose,
    key_from,
    same_definition,
)
from .files import bounded, folder_stamp, read_kept, write_kept
from .peers import PeersFile, PeerTime, peers_from, peers_json

FORMAT = 1
FOLDER = "portfolios"
SHIPPED = Path(__file__).with_name("shipped_portfolios")
MAX_BYTES = 2**20
MAX_ENTRIES = 2 * 32 * 512
"""Times, of a kernel at a point, of a folder's portfolios."""
MAX_KERNELS = 32
MAX_POINTS = 512


@dataclass(frozen=True)
class PortfolioKernel:
    """A form, as text, under a schedule."""

    cascade: str
    schedule: Schedule


@dataclass(frozen=True)
class MeasuredPoint:
    """Sizes at which kernels were measured. seconds: by the kernel's number; peers: by name, in the same run."""

    sizes: tuple[tuple[RankName, int], ...]
    seconds: Mapping[int, float]
    peers: Mapping[str, PeerTime] = field(default_factory=dict)


@dataclass(frozen=True)
class Portfolio:
    """What serves one computation on one platform. key: without sizes."""

    key: Key
    kernels: tuple[PortfolioKernel, ...]
    points: tuple[MeasuredPoint, ...]

    def entries(self, path: Path, whose: Whose) -> list[Entry]:
        """Each kernel at each of its points, as the record that it would be."""
        return [
            Entry(
                replace(self.key, sizes=point.sizes),
                Record(
                    self.kernels[n].cascade,
                    self.kernels[n].schedule,
                    digest="",
                    seconds=s,
                    low=s,
                    high=s,
                    peers=dict(point.peers),
                    created="",
                ),
                path,
                whose == "shipped",
                any_size=True,
                named=whose == "named",
            )
            for point in self.points
            for n, s in point.seconds.items()
        ]

    def with_points(self, kernels: Sequence[PortfolioKernel], points: Sequence[MeasuredPoint]) -> Portfolio:
        """This one with more kernels and points; what was measured again at a point replaces what was there. Kernels
        that are left without a point are dropped."""
        every = list(dict.fromkeys([*self.kernels, *kernels]))
        number = {k: n for n, k in enumerate(every)}
        found: dict[tuple[tuple[RankName, int], ...], MeasuredPoint] = {}
        for owned, added in ((self.kernels, self.points), (tuple(kernels), tuple(points))):
            for p in added:
                found[p.sizes] = replace(p, seconds={number[owned[n]]: s for n, s in p.seconds.items()})
        used = sorted({n for p in found.values() for n in p.seconds})
        place = {n: i for i, n in enumerate(used)}
        kept = tuple(replace(p, seconds={place[n]: s for n, s in p.seconds.items()}) for p in found.values())
        return Portfolio(self.key, tuple(every[n] for n in used), tuple(sorted(kept, key=lambda p: p.sizes)))

    def to_text(self) -> str:
        """The file's text."""
        return json.dumps(
            {
                "format": FORMAT,
                "key": self.key.to_json(),
                "kernels": [{"cascade": k.cascade, "schedule": k.schedule.to_json()} for k in self.kernels],
                "points": [
                    {
                        "sizes": dict(p.sizes),
                        "seconds": {str(n): s for n, s in p.seconds.items()},
                        "peers": peers_json(p.peers),
                    }
                    for p in self.points
                ],
            },
            indent=1,
        )


def portfolio_key(key: Key) -> Key:
    """The key of the portfolio that a problem's key belongs to."""
    return replace(key, sizes=())


# ---- the file


class _KernelFile(Strict):
    cascade: Lines
    schedule: Plain


class _PointFile(Strict):
    sizes: Annotated[dict[Rank, Size], Meta(max_length=64)]
    seconds: Annotated[dict[Name, Seconds], Meta(max_length=MAX_KERNELS)]
    peers: PeersFile


class _File(Strict):
    format: Count
    key: KeyFile
    kernels: Annotated[list[_KernelFile], Meta(min_length=1, max_length=MAX_KERNELS)]
    points: Annotated[list[_PointFile], Meta(min_length=1, max_length=MAX_POINTS)]


def decode(raw: bytes) -> Portfolio:
    """Read a file's bytes. Raises BadData for anything but one whole, valid portfolio."""
    if len(raw) > MAX_BYTES:
        raise BadData(f"a portfolio has at most {MAX_BYTES} bytes")
    check_format(raw, FORMAT)
    file = from_json(raw, _File)
    key = key_from(file.key)
    if key.sizes:
        raise BadData("`key.sizes`: a portfolio is of any sizes")
    try:
        kernels = tuple(PortfolioKernel(k.cascade, Schedule.from_json(k.schedule)) for k in file.kernels)
    except (ValueError, TypeError) as error:
        raise BadData(f"`kernels`: {fault(error)}") from None
    points = tuple(_point(p, len(kernels)) for p in file.points)
    if len({p.sizes for p in points}) < len(points):
        raise BadData("`points`: two have the same sizes")
    return Portfolio(key, kernels, points)


def _point(file: _PointFile, kernels: int) -> MeasuredPoint:
    seconds: dict[int, float] = {}
    for text, s in file.seconds.items():
        if not text.isascii() or not text.isdigit() or len(text) > 4 or int(text) >= kernels:
            raise BadData(f"`points.seconds`: must be by numbers below {kernels}, but got {text[:20]!r}")
        seconds[int(text)] = s
    if not seconds:
        raise BadData("`points.seconds`: at least one kernel was measured at each")
    return MeasuredPoint(tuple(sorted(file.sizes.items())), seconds, peers_from(file.peers))


def load_portfolio(cache: Cache, key: Key) -> Portfolio | None:
    """The user's own portfolio under a key without sizes; None (said once where a file cannot be used) without one."""
    found = read_kept(cache.directory / FOLDER / key.file_name, decode, MAX_BYTES)
    return found if found is not None and found.key == key else None


def store_portfolio(cache: Cache, portfolio: Portfolio) -> Path:
    """Keep a portfolio under its key, replacing what was there in one step.

    Raises CacheWriteError where the directory cannot be written (what was there stays), BadData beyond the limits.
    """
    raw = portfolio.to_text().encode()
    decode(raw)
    return write_kept(cache.directory / FOLDER / portfolio.key.file_name, raw, "portfolio")


def portfolio_entries(cache: Cache, key: Key) -> Sequence[Entry]:
    """What portfolios hold for a definition on a machine, in element widths as those of `key`: the user's before
    named ones before the shipped, each kernel at each point once."""
    stored = [_index(folder, whose).get(key.cascade, _NONE) for folder, whose in _folders(cache)]
    # A program asks at every size that is new, with the same answer until a folder changes.
    asked = (*map(id, stored), tuple(key.widths.items()), key.ranks, key.machine, key.processors)
    known = _of_keys.get(asked)
    if known is not None:
        return known[1]
    found: dict[tuple[object, ...], Entry] = {}
    for e in chain.from_iterable(stored):
        if same_definition(key, e.key) and (key.machine, key.processors) == (e.key.machine, e.key.processors):
            found.setdefault((e.key.sizes, e.record.cascade, e.record.schedule), e)
    answer = list(found.values())
    _of_keys[asked] = stored, answer
    return answer


_NONE: list[Entry] = []
_of_keys: Recent[Hashable, tuple[list[list[Entry]], Sequence[Entry]]] = Recent(256)
"""What `portfolio_entries` found, with the lists that it found it in: as long as those are kept no others have their
ids."""


def every_entry(cache: Cache) -> list[Entry]:
    """What all portfolios hold, the user's first."""
    return [e for path, portfolio, whose in every_portfolio(cache) for e in portfolio.entries(path, whose)]


def every_portfolio(cache: Cache) -> list[tuple[Path, Portfolio, Whose]]:
    """All usable portfolios with their files, the user's first, and whose they are."""
    return [(path, p, whose) for folder, whose in _folders(cache) for path, p in read_portfolios(folder).items()]


def _folders(cache: Cache) -> Iterator[tuple[Path, Whose]]:
    yield cache.directory / FOLDER, "yours"
    for directory in cache.named:
        yield directory / FOLDER, "named"
    if cache.shipped is not None:
        yield SHIPPED, "shipped"


def read_portfolios(folder: Path) -> dict[Path, Portfolio]:
    """All usable portfolios of a folder."""
    every = ((path, read_kept(path, decode, MAX_BYTES)) for path in bounded(folder, "portfolios"))
    return {path: found for path, found in every if found is not None}


_indices: dict[tuple[Path, Whose], tuple[tuple[int, int] | None, dict[str, list[Entry]]]] = {}
"""By folder and whose it is: what it was like when it was read (None if that is not sure), and its entries by
definition."""


def _index(folder: Path, whose: Whose) -> dict[str, list[Entry]]:
    """The entries of a folder, read once and again when it has changed."""
    stamp = folder_stamp(folder)
    known = _indices.get((folder, whose))
    if known is not None and known[0] is not None and known[0] == stamp:
        return known[1]
    found: dict[str, list[Entry]] = {}
    left = MAX_ENTRIES
    for path, portfolio in sorted(read_portfolios(folder).items()):
        made = portfolio.entries(path, whose)
        left -= len(made)
        if left < 0:
            say_once(f"of the cache {folder} only the first {MAX_ENTRIES:,} times are looked at")
            break
        found.setdefault(portfolio.key.cascade, []).extend(made)
    _indices[folder, whose] = stamp, found
    return found
