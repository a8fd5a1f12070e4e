"""Who serves what is stored of a machine, a library or our kernels, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from eintune.kernels.libraries.attention import libraries_for
from eintune.kernels.libraries.fastest import Faster, MeasuredTurns, faster_at, turns_of, why_not
from eintune.kernels.store.cache import Cache, Entry, Key
from eintune.kernels.store.platform import Platform
from eintune.kernels.store.portfolio import every_entry
from eintune.search.text.formatting import plural

from .text import Listed, modifiers_text

MOST_SIZES = 3
"""Sizes that a line names."""


def served_lines(cache: Cache, platform: Platform) -> Iterator[str]:
    """A line for each signature (a definition with its dtypes, scalars and head dims) that was measured in turns with
    libraries on a platform: by what it is served at how many of the sizes, how many times as fast, and why a library
    that was faster is not called. Under the policy `fastest`."""
    signatures: dict[Key, list[Entry]] = {}
    for e in [*cache.entries(), *every_entry(cache)]:
        if _is_of(e.key, platform):
            signatures.setdefault(replace(e.key, sizes=()), []).append(e)
    for key, entries in signatures.items():
        found: dict[object, MeasuredTurns] = {}
        for turns in turns_of(entries):
            found.setdefault(turns.sizes, turns)
        if found:
            yield f"{_title(key, entries[0])}: {_told(key, [*found.values()])}"


def _is_of(key: Key, platform: Platform) -> bool:
    names = ("machine", "processors", "emitter", "torch", "triton", "driver")
    return all(getattr(key, n) == getattr(platform, n) for n in names)


def _title(key: Key, entry: Entry) -> str:
    one = Listed(entry.path.name, replace(key, sizes=entry.key.sizes), entry.record, entry.whose)
    return " ".join(filter(None, (key.workload, modifiers_text(key.workload, one.modifiers), one.dtypes)))


def _told(key: Key, every: Sequence[MeasuredTurns]) -> str:
    won: dict[str, list[Faster]] = {}
    ours: list[float] = []
    reasons: dict[str, None] = {}
    for turns in every:
        best = faster_at([turns], libraries_for(replace(key, sizes=turns.sizes)), key.device)
        if best is not None:
            won.setdefault(best.library, []).append(best)
            continue
        name, peer = min(turns.peers.items(), key=lambda item: item[1].seconds)
        ours.append(peer.seconds / turns.seconds)
        if ours[-1] < 1:
            reasons[f"{name}: {_reason(key, turns, name)}"] = None
    of = plural(len(every), "size")
    parts = [f"{name} at {len(f)} of {of}, {_times([x.times for x in f])} ({_sizes(f)})" for name, f in won.items()]
    if ours:
        parts.append(f"Eintune's kernels at {len(ours)} of {of}, {_times(ours)} as the fastest peer")
    return "; ".join(parts + [f"not called: {reason}" for reason in reasons])


def _reason(key: Key, turns: MeasuredTurns, name: str) -> str:
    if name not in libraries_for(replace(key, sizes=turns.sizes)):
        return "no call that is handed to a library"
    return why_not(turns, name, key.device) or "faster within the noise"


def _times(ratios: Sequence[float]) -> str:
    low, high = min(ratios), max(ratios)
    return f"{low:.2f}x as fast" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}x to {high:.2f}x as fast"


def _sizes(found: Sequence[Faster]) -> str:
    named = [" ".join(f"{r}{n}" for r, n in f.sizes) for f in found[:MOST_SIZES]]
    return ", ".join(named) + (", …" if len(found) > MOST_SIZES else "")
