"""What a cache holds, for people and as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from eintune.kernels.store.cache import Cache, Key, Record, Whose
from eintune.kernels.store.exchange import Held
from eintune.kernels.store.portfolio import Portfolio, every_portfolio
from eintune.search.options.problem import flag_of
from eintune.search.text.formatting import milliseconds, plural
from eintune.search.text.tables import text_table
from eintune.space.workloads.builtin import WORKLOADS
from eintune.space.workloads.recognised import recognised

OWN = "a definition of its own"
"""Of what none of the built-in definitions is, or has a function of the user's in it."""
SHORT = 13
"""Characters of a name beyond the workload's that tell it apart."""


@dataclass(frozen=True)
class Listed:
    """A record or a portfolio in a list. name: its file's. sizes: those that it was measured at, by rank."""

    name: str
    key: Key
    content: Record | Portfolio
    whose: Whose | None

    @property
    def sizes(self) -> dict[str, set[int]]:
        points = self.content.points if isinstance(self.content, Portfolio) else ()
        found: dict[str, set[int]] = {}
        for sizes in (self.key.sizes, *(p.sizes for p in points)):
            for r, n in sizes:
                found.setdefault(r, set()).add(n)
        return found

    @property
    def modifiers(self) -> dict[str, Any] | None:
        """The options of its workload that it was posed with, sizes aside; None for a definition of its own."""
        key, sizes = self.key, {r: min(n) for r, n in self.sizes.items()}
        return _recognised(key.workload, key.cascade, tuple(sorted(sizes.items())), key.params, key.dtypes)

    @property
    def dtypes(self) -> str:
        return "/".join(dict.fromkeys(d for _, d in self.key.dtypes))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        key, content = self.key, self.content
        return {
            "name": self.name,
            "kind": "portfolio" if isinstance(content, Portfolio) else "record",
            "whose": self.whose,
            "workload": key.workload,
            "modifiers": self.modifiers,
            "definition": key.cascade,
            "sizes": {r: sorted(n) for r, n in self.sizes.items()},
            **{n: v for n, v in key.to_json().items() if n not in ("workload", "cascade", "sizes")},
            **(
                {"kernels": len(content.kernels), "points": len(content.points)}
                if isinstance(content, Portfolio)
                else {"seconds": content.seconds, "created": content.created, "doubt": content.doubt}
            ),
        }


@lru_cache(maxsize=1024)
def _recognised(
    workload: str,
    digest: str,
    sizes: tuple[tuple[str, int], ...],
    params: tuple[tuple[str, float], ...],
    dtypes: tuple[tuple[str, str], ...],
) -> dict[str, Any] | None:
    return recognised(workload, digest, dict(sizes), dict(params), [n for n, _ in dtypes])


def listed_of(cache: Cache) -> list[Listed]:
    """All records of a cache and then its portfolios, the user's first."""
    records = [Listed(e.path.name, e.key, e.record, e.whose) for e in cache.entries()]
    return [*records, *(Listed(path.name, p.key, p, whose) for path, p, whose in every_portfolio(cache))]


def listed_in(held: Iterable[Held]) -> list[Listed]:
    """The same of an exported file."""
    kept = sorted(held, key=lambda h: (isinstance(h.content, Portfolio), h.name))
    return [Listed(h.name, h.key, h.content, None) for h in kept if h.key is not None and h.content is not None]


def list_text(listed: Sequence[Listed]) -> str:
    """Tables of records and of portfolios, by the machine and the versions that they are of."""
    parts: list[str] = []
    for kind, table in ((Record, _records), (Portfolio, _portfolios)):
        groups: dict[str, list[Listed]] = {}
        for one in listed:
            if isinstance(one.content, kind):
                groups.setdefault(platform_text(one.key), []).append(one)
        parts += [f"{platform}\n{table(group)}" for platform, group in groups.items()]
    return "\n\n".join(parts)


def platform_text(key: Key) -> str:
    """The machine and the versions of a key, in one line."""
    triton = "" if key.triton == "none" else f", triton {key.triton}"
    driver = "" if key.driver == "cpu" else f", {key.driver}"
    processors = plural(key.processors, "processor")
    return f"{key.machine}, {processors}; emitter {key.emitter}, torch {key.torch}{triton}{driver}"


def _records(group: Sequence[Listed]) -> str:
    rows = []
    for one in group:
        assert isinstance(one.content, Record)
        tuned = one.content.created[:10] if one.whose in (None, "yours") else str(one.whose)
        tuned += ", in doubt" if one.content.doubt else ""
        rows.append([*_named(one), milliseconds(one.content.seconds), tuned])
    return text_table(["record", "modifiers", "sizes", "dtype", "time", "tuned"], rows, right=(4,), indent=0)


def _portfolios(group: Sequence[Listed]) -> str:
    rows = []
    for one in group:
        assert isinstance(one.content, Portfolio)
        held = f"{plural(len(one.content.kernels), 'kernel')}, {plural(len(one.content.points), 'point')}"
        rows.append([*_named(one), held, one.whose or ""])
    return text_table(["portfolio", "modifiers", "sizes", "dtype", "holds", "whose"], rows, indent=0)


def _named(one: Listed) -> list[str]:
    name = one.name.removesuffix(".json")[: len(one.key.workload) + SHORT]
    sizes = (f"{r}{min(n)}" + (f":{max(n)}" if len(n) > 1 else "") for r, n in sorted(one.sizes.items()))
    return [name, modifiers_text(one.key.workload, one.modifiers), " ".join(sizes), one.dtypes]


def modifiers_text(workload: str, modifiers: Mapping[str, Any] | None) -> str:
    """As options of `tune`: "--window 1024 --sinks"; "" where there are none."""
    if modifiers is None:
        return OWN
    bare = {o.name: o.bare for o in WORKLOADS[workload].options}
    return " ".join(flag_of(n) if v in (True, bare[n]) else f"{flag_of(n)} {v}" for n, v in modifiers.items())
