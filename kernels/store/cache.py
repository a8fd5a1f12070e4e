"""The best-kernel cache: one JSON file per key, the whole key stored beside its value.

A record is bounded data, never code: kernels are generated again from the cascade and the schedule and compared
by hash, and what a cascade may be is what follows from the definition (`kept_forms.is_form`). A file is written beside
its place, flushed to disk and renamed, so that a reader sees the old record or the new one. A file that cannot be used
is a miss, said once; a directory that cannot be read has no records.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from msgspec import Meta

from eintune.host.data import (
    BadData,
    Count,
    Digest,
    Finite,
    Lines,
    Name,
    Plain,
    Rank,
    Seconds,
    Size,
    Strict,
    check_format,
    converted,
    fault,
    from_json,
)
from eintune.host.directories import cache_directory, named_directories
from eintune.host.files import remove_leftovers
from eintune.host.forks import cached_property
from eintune.space.cascade.problem import Problem
from eintune.space.ir.dtypes import SIXTEEN_BIT
from eintune.space.schedule.schedule import Schedule

from .files import BadRecord, bounded, files_in, folder_stamp, read_kept, removed, write_kept
from .peers import PeersFile, PeerTime, peers_from, peers_json

if TYPE_CHECKING:
    from .platform import Platform

T = TypeVar("T")
FORMAT = 1
"""The file's layout; a file of another format is a miss."""
MAX_BYTES = 256 * 1024
SHIPPED = Path(__file__).parent / "shipped"
"""Read-only records of machines that were measured."""
RECORDS = "records"
"""Where in a cache directory the records lie."""
Whose: TypeAlias = Literal["yours", "named", "shipped"]
"""Of the user's own cache, of a directory that `$EINTUNE_SHIPPED` names, or of the package."""
DEFAULT_POLICY = "cold-median-1"
"""The id of the measurement policy whose records a program looks for (search/measure/measurer.py has the policies)."""
ROWS, STRIDED = "rows", "strided"
"""Layout classes: every input's last axis has stride 1, or not."""


@dataclass(frozen=True)
class Key:
    """Everything that decides which kernel is best.

    cascade: sha256 of the definition's text. sizes, dtypes, params: sorted pairs, as in `Problem`.
    layout: ROWS or STRIDED. machine to driver: as in `Platform`. policy: how it was measured.
    """

    workload: str
    cascade: str
    sizes: tuple[tuple[str, int], ...]
    dtypes: tuple[tuple[str, str], ...]
    params: tuple[tuple[str, float], ...]
    layout: str
    machine: str
    processors: int
    emitter: str
    torch: str
    triton: str
    driver: str
    policy: str

    @classmethod
    def of(cls, problem: Problem, platform: Platform, *, policy: str = DEFAULT_POLICY, layout: str = ROWS) -> Key:
        """The key under which a problem's winner on a platform is kept."""
        return cls(
            workload=problem.workload,
            cascade=_sha256(problem.cascade),
            sizes=tuple(sorted(problem.sizes.items())),
            dtypes=tuple(sorted(problem.dtypes.items())),
            params=tuple(sorted((name, float(value)) for name, value in problem.params.items())),
            layout=layout,
            policy=policy,
            **vars(platform),
        )

    @cached_property
    def file_name(self) -> str:
        """Readable, then unique: the workload and a hash of every field."""
        label = "".join(c if c.isalnum() else "-" for c in self.workload)[:40]
        return f"{label}-{sha256(json.dumps(self.to_json()).encode()).hexdigest()[:32]}.json"

    @property
    def device(self) -> str:
        """The type of device that the machine is: "cpu" or "cuda"."""
        return "cpu" if self.driver == "cpu" else "cuda"

    @cached_property
    def widths(self) -> dict[str, str]:
        """How wide the elements of each tensor are."""
        return {n: _width(d) for n, d in self.dtypes}

    @cached_property
    def ranks(self) -> frozenset[str]:
        """The ranks that have a size."""
        return frozenset(r for r, _ in self.sizes)

    def to_json(self) -> dict[str, Any]:
        return {f.name: dict(v) if (v := getattr(self, f.name)).__class__ is tuple else v for f in fields(self)}

    @classmethod
    def from_json(cls, data: object) -> Key:
        """Raises BadRecord for anything that is not a key."""
        return key_from(_converted(data, KeyFile))

    def differences(self, other: Key) -> list[str]:
        """One phrase a field that differs: `sizes.m 2048, stored 4096`."""
        mine, theirs = _flat(self.to_json()), _flat(other.to_json())
        names = dict.fromkeys([*mine, *theirs])
        return [
            f"{name} {mine.get(name, 'absent')}, stored {theirs.get(name, 'absent')}"
            for name in names
            if mine.get(name) != theirs.get(name)
        ]


_PAIRS = ("sizes", "dtypes", "params")


@functools.lru_cache(maxsize=256)
def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """The winner for one key.

    cascade: the derived cascade, as text. schedule: how it is laid out. digest: the generated kernel's
    (`Kernel.digest`). seconds, low, high: as in `Measurement`. estimate: the model's, as JSON data.
    statistics: what the search counted. peers: others in the same run, by name. created: ISO 8601, UTC.
    """

    cascade: str
    schedule: Schedule
    digest: str
    seconds: float
    low: float
    high: float
    estimate: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, PeerTime] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def doubt(self) -> str:
        """Why the time may not hold, as the search says it; "" where it knows no reason."""
        return str(self.statistics.get("doubt", ""))

    def to_json(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {"schedule": self.schedule.to_json(), "peers": peers_json(self.peers)}

    @classmethod
    def from_json(cls, data: object) -> Record:
        """Raises BadRecord for anything that is not a record within bounds."""
        return _recorded(_converted(data, _RecordFile))


# ---- the file


class KeyFile(Strict):
    """A key as a file holds it."""

    workload: Name
    cascade: Digest
    sizes: Annotated[dict[Rank, Size], Meta(max_length=64)]
    dtypes: Annotated[dict[Name, Name], Meta(max_length=256)]
    params: Annotated[dict[Name, Finite], Meta(max_length=256)]
    layout: Name
    machine: Name
    processors: Size
    emitter: Name
    torch: Name
    triton: Name
    driver: Name
    policy: Name


class _RecordFile(Strict):
    cascade: Lines
    schedule: Plain
    digest: Digest
    seconds: Seconds
    low: Seconds
    high: Seconds
    estimate: Plain
    statistics: Plain
    peers: PeersFile
    created: Name


class _File(Strict):
    format: Count
    key: KeyFile
    record: _RecordFile


def _converted(data: object, kind: type[T]) -> T:
    try:
        return converted(data, kind)
    except BadData as error:
        raise BadRecord(str(error)) from None


def key_from(file: KeyFile) -> Key:
    """The key that a file holds."""
    values: dict[str, Any] = {name: getattr(file, name) for name in file.__struct_fields__}
    values |= {name: tuple(sorted(values[name].items())) for name in _PAIRS}
    return Key(**values)


def _recorded(file: _RecordFile) -> Record:
    """Raises BadRecord for a schedule that no space holds, and for what is no moment."""
    values = {name: getattr(file, name) for name in file.__struct_fields__}
    try:
        datetime.fromisoformat(file.created)
        schedule = Schedule.from_json(file.schedule)
    except (ValueError, TypeError) as error:
        raise BadRecord(f"`created` or `schedule`: {fault(error)}") from None
    return Record(**{**values, "schedule": schedule, "peers": peers_from(file.peers)})


@dataclass(frozen=True)
class Entry:
    """A record with its key and its file. `shipped` entries come with the package; `named` ones lie in a directory that
    `$EINTUNE_SHIPPED` names, and are trusted no more than the user's own. Both are read-only. any_size: what was
    measured was made for any sizes (one point of a portfolio), so there is no digest of a kernel for these."""

    key: Key
    record: Record
    path: Path
    shipped: bool
    any_size: bool = False
    named: bool = False

    @property
    def whose(self) -> Whose:
        return "shipped" if self.shipped else "named" if self.named else "yours"


class Cache:
    """Records in a directory (the user's unless given), over those of read-only ones: `named` directories (those of
    `$EINTUNE_SHIPPED` unless given), then the shipped records."""

    def __init__(
        self,
        directory: Path | None = None,
        shipped: Path | None = SHIPPED,
        named: Sequence[Path] | None = None,
    ) -> None:
        self.directory = cache_directory() if directory is None else directory
        self.shipped = shipped
        self.named = named_directories() if named is None else tuple(named)

    @property
    def records(self) -> Path:
        """The folder of the user's own records."""
        return self.directory / RECORDS

    def load(self, key: Key) -> Record | None:
        """The record stored for exactly this key, or None. A file that cannot be used is said once."""
        return next((entry.record for entry in self.stored(key)), None)

    def stored(self, key: Key) -> Iterator[Entry]:
        """The entries for exactly this key: the user's, then named ones, then the shipped one."""
        for folder, whose in self._folders():
            entry = read_entry(folder / key.file_name, whose)
            if entry and entry.key == key:
                yield entry

    def store(self, key: Key, record: Record) -> Path:
        """Keep `record` under `key`, replacing what was there in one step.

        Raises CacheWriteError where the directory cannot be written (what was there stays), BadRecord for a
        record beyond the limits.
        """
        try:
            text = json.dumps({"format": FORMAT, "key": key.to_json(), "record": record.to_json()}, indent=1)
        except (TypeError, ValueError) as error:
            raise BadRecord(f"a record is JSON data: {error}") from None
        decode(text.encode())
        return write_kept(self.records / key.file_name, text.encode(), "record")

    def entries(self) -> list[Entry]:
        """All usable entries, the user's before named ones before shipped ones, each key once."""
        return self._found(lambda index: index.entries)

    def _found(self, of: Callable[[_Index], Sequence[Entry]]) -> list[Entry]:
        """Entries of all folders' indices, the user's before named ones before shipped ones, each key once."""
        found: dict[Key, Entry] = {}
        for folder, whose in self._folders():
            for entry in of(_index(folder, whose)):
                found.setdefault(entry.key, entry)
        return list(found.values())

    def indexed(self, definition: str) -> list[Sequence[Entry]]:
        """Entries of a definition (its digest), by folder, the user's first: the same lists until a folder changes."""
        return [_index(folder, whose).of_definition.get(definition, ()) for folder, whose in self._folders()]

    def neighbours(self, key: Key) -> list[Entry]:
        """Entries for the same definition and element widths at any size, the nearest first."""
        same = self._found(lambda index: index.of_definition.get(key.cascade, ()))
        near = [(distance(key, e.key), e.path.name, e) for e in same]
        return [e for d, _, e in sorted(near, key=lambda item: item[:2]) if math.isfinite(d[0])]

    def explain_miss(self, key: Key) -> str:
        """Which fields keep the nearest entry from being a hit, in one line."""
        entries = self.entries()
        if not entries:
            return f"the cache {self.records} has no records"
        closest = min(entries, key=lambda e: (distance(key, e.key), len(key.differences(e.key))))
        differences = key.differences(closest.key)
        if not differences:
            return f"{closest.path.name} has this key"
        return f"nearest is {closest.path.name}, which differs in: {'; '.join(differences)}"

    def prune(self, platform: Platform) -> list[Path]:
        """Remove the user's files that cannot be read or belong to other versions on the platform's machine."""
        return [path for path in files_in(self.records, RECORDS) if self._stale(path, platform) and removed(path)]

    def clear(self) -> list[Path]:
        """Remove all the user's records, and what killed writers left of others."""
        remove_leftovers(self.records)
        return [path for path in files_in(self.records, RECORDS) if removed(path)]

    def _folders(self) -> Iterator[tuple[Path, Whose]]:
        yield self.records, "yours"
        for directory in self.named:
            yield directory / RECORDS, "named"
        if self.shipped is not None:
            yield self.shipped, "shipped"

    @staticmethod
    def _stale(path: Path, platform: Platform) -> bool:
        entry = read_entry(path)
        if entry is None:
            return True
        key = entry.key
        versions = (key.emitter, key.torch, key.triton, key.driver)
        current = (platform.emitter, platform.torch, platform.triton, platform.driver)
        return key.machine == platform.machine and versions != current


def same_definition(wanted: Key, stored: Key) -> bool:
    """Whether two keys are of one definition over elements as wide, at whatever sizes."""
    return wanted.cascade == stored.cascade and wanted.widths == stored.widths and wanted.ranks == stored.ranks


def distance(wanted: Key, stored: Key) -> tuple[float, ...]:
    """How far a stored key is from the wanted one, most important first; infinite where it cannot serve.

    Another definition or element width cannot serve. Then: another machine, how far the sizes are (the sum of
    |log2| of their ratios), other software, and the rest (scalars, layout, policy).
    """
    sizes, other = dict(wanted.sizes), dict(stored.sizes)
    if not same_definition(wanted, stored):
        return (math.inf,)
    apart = sum(abs(math.log2(max(n, 1) / max(other[r], 1))) for r, n in sizes.items())
    machine = (wanted.machine, wanted.processors) != (stored.machine, stored.processors)
    names = ("emitter", "triton", "torch", "driver")
    software = sum(getattr(wanted, n) != getattr(stored, n) for n in names)
    rest = sum(getattr(wanted, n) != getattr(stored, n) for n in ("dtypes", "params", "layout", "policy"))
    return (float(machine), apart, float(software), float(rest))


@dataclass(frozen=True)
class _Index:
    """The entries of a folder. stamp: what the folder was like when they were read, None if that is not sure."""

    stamp: tuple[int, int] | None
    entries: list[Entry]
    of_definition: dict[str, list[Entry]]


_indices: dict[tuple[Path, Whose], _Index] = {}


def _index(folder: Path, whose: Whose) -> _Index:
    """The entries of a folder, read once and again when it has changed: a program asks at each size that is new."""
    stamp = folder_stamp(folder)
    known = _indices.get((folder, whose))
    if known is not None and known.stamp is not None and known.stamp == stamp:
        return known
    entries = list(_read(folder, whose))
    of_definition: dict[str, list[Entry]] = {}
    for e in entries:
        of_definition.setdefault(e.key.cascade, []).append(e)
    found = _indices[folder, whose] = _Index(stamp, entries, of_definition)
    return found


def _read(folder: Path, whose: Whose) -> Iterator[Entry]:
    return (e for path in bounded(folder, RECORDS) if (e := read_entry(path, whose)))


def _width(dtype: str) -> str:
    return "16" if dtype in SIXTEEN_BIT else dtype


def read_entry(path: Path, whose: Whose = "yours") -> Entry | None:
    """The entry in a file, or None: where there is no file, and (said once) where it cannot be used."""
    found = read_kept(path, decode, MAX_BYTES)
    return None if found is None else Entry(*found, path, whose == "shipped", named=whose == "named")


def decode(raw: bytes) -> tuple[Key, Record]:
    """Read a file's bytes. Raises BadRecord for anything but one whole, valid record."""
    if len(raw) > MAX_BYTES:
        raise BadRecord(f"a record has at most {MAX_BYTES} bytes")
    try:
        check_format(raw, FORMAT)
        file = from_json(raw, _File)
    except BadData as error:
        raise BadRecord(f"{error}; the file may be truncated or edited") from None
    return key_from(file.key), _recorded(file.record)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
