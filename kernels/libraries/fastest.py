"""Whether a library was faster than the kernel that would serve, by what is stored of this machine.

The answer is a function of the problem, the machine, what is stored and the versions: every rank of a distributed job
has the same. Times of different runs are never compared, since clocks and temperatures were others: a library is
compared with the kernel that took turns with it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eintune.host.recent import Recent
from eintune.kernels.store.cache import Cache, Entry, Key
from eintune.kernels.store.peers import PeerTime
from eintune.kernels.store.portfolio import portfolio_entries

from .versions import version_of

MARGIN = 1.05
"""What counts as faster where the kernel's own spread is not stored, as at the points of a portfolio: medians of
kernels in turns repeat to a percent or two, and a portfolio's kernel may be 3% behind the best that was found."""
REACH = 2.0
"""Doublings of sizes, all ranks together, to which what was measured at a point is extended: queries and keys twice as
many, so that between two points a doubling apart both are asked."""
POINTS = 2
"""At so many of the nearest points within reach a library must have been faster."""


@dataclass(frozen=True)
class MeasuredTurns:
    """The fastest of our kernels and the peers that took turns with it, at some sizes. low: the 20th percentile of our
    kernel's turns, None where it was not kept."""

    sizes: tuple[tuple[str, int], ...]
    seconds: float
    low: float | None
    peers: Mapping[str, PeerTime]


@dataclass(frozen=True)
class Faster:
    """A library that was faster. times: how many times as fast as our kernel, at the worst point that was asked. sizes:
    of the nearest one."""

    library: str
    times: float
    sizes: tuple[tuple[str, int], ...]


def fastest_known(cache: Cache, key: Key, libraries: Collection[str], fixed: Collection[str]) -> Faster | None:
    """The library that is to be called for a problem, None where our kernel is. libraries: those that take the problem.
    fixed: ranks whose sizes must be those that were measured.

    A record of these very sizes decides alone (its kernel serves, so that no more is read), else a portfolio's point
    there; else the POINTS nearest points within REACH, at all of which the library must have been faster.
    """
    for entry in cache.stored(key):
        return faster_at(_turns([entry]), libraries, key.device)
    known = _known(cache, key)
    if not known:
        return None
    apart = {t.sizes: _doublings(dict(key.sizes), dict(t.sizes), fixed) for t in known}
    near = sorted((t for t in known if apart[t.sizes] <= REACH), key=lambda t: (apart[t.sizes], t.sizes))
    return faster_at(near[: 1 if near and not apart[near[0].sizes] else POINTS], libraries, key.device)


def faster_at(turns: Sequence[MeasuredTurns], libraries: Collection[str], device: str) -> Faster | None:
    """The library that was faster beyond the noise at all of these points, by the most; None without one. device: "cpu"
    or "cuda"."""
    found: list[tuple[float, str]] = []
    for name in libraries if turns else ():
        ratios = [_ratio(t, name, device) for t in turns]
        if all(ratios):
            found.append((min(ratios), name))
    if not found:
        return None
    times, name = min(found, key=lambda item: (-item[0], item[1]))
    return Faster(name, times, turns[0].sizes)


def why_not(turns: MeasuredTurns, name: str, device: str) -> str:
    """Why a library's time says nothing of what is installed or of what a call would be given; "" where it does."""
    peer = turns.peers.get(name)
    if peer is None:
        return "it was not measured"
    if not peer.version:
        return "the file does not say which version was measured"
    if peer.version != (here := version_of(name, device)):
        return f"{peer.version} was measured, and {here} is here"
    return peer.short_of


def _ratio(turns: MeasuredTurns, name: str, device: str) -> float:
    """How many times as fast as our kernel a library was; 0 where that is not beyond the noise, and where its time says
    nothing of what would run."""
    peer = turns.peers.get(name)
    if peer is None or why_not(turns, name, device):
        return 0.0
    if turns.low is None or peer.high is None:
        beyond = max(peer.seconds, peer.high or 0.0) * MARGIN < turns.seconds
    else:
        # Each had its turn in every round, so clocks and interruptions came to both alike: noise is what is left within
        # each. The library's slower turns (all but a fifth) must be faster than ours (all but a fifth).
        beyond = peer.high < turns.low
    return turns.seconds / peer.seconds if beyond else 0.0


def turns_of(entries: Iterable[Entry]) -> list[MeasuredTurns]:
    """What was measured in turns, by file and sizes: records in doubt, and what has no peers, left out."""
    found: dict[tuple[Path, object], list[Entry]] = {}
    for e in entries:
        if e.record.peers and not e.record.doubt:
            found.setdefault((e.path, e.key), []).append(e)
    return [t for group in found.values() for t in _turns(group)]


def _turns(entries: Sequence[Entry]) -> list[MeasuredTurns]:
    """Of entries of one run, at one size. A portfolio's kernels have no spread of their own."""
    best = min(entries, key=lambda e: e.record.seconds)
    if best.record.doubt:
        return []
    low = None if best.any_size else best.record.low
    return [MeasuredTurns(best.key.sizes, best.record.seconds, low, best.record.peers)]


def _known(cache: Cache, key: Key) -> list[MeasuredTurns]:
    """What was measured in turns of the same problem at other sizes, here and by these versions: the user's before a
    named directory's before what ships, records before portfolios, each size once."""
    stored = [*cache.indexed(key.cascade), portfolio_entries(cache, key)]
    asked = (*map(id, stored), *(getattr(key, n) for n in _SAME))
    kept = _turns_known.get(asked)
    if kept is None:
        found: dict[object, MeasuredTurns] = {}
        for turns in turns_of(e for entries in stored for e in entries if is_alike(key, e.key)):
            found.setdefault(turns.sizes, turns)
        kept = _turns_known[asked] = stored, [*found.values()]
    return kept[1]


_turns_known: Recent[object, tuple[list[Sequence[Entry]], list[MeasuredTurns]]] = Recent(256)
"""By the lists of entries, which are kept so that no others get their ids: a program asks at each size that is new."""
_SAME = (
    *("workload", "cascade", "dtypes", "params", "layout", "machine", "processors"),
    *("emitter", "torch", "triton", "driver", "policy"),
)


def is_alike(key: Key, other: Key) -> bool:
    """Whether two keys differ in nothing but sizes. Another version of PyTorch has other kernels, another of the
    emitter or of Triton makes other kernels of ours: what was measured with it says nothing of who is faster now."""
    return all(getattr(key, n) == getattr(other, n) for n in _SAME)


def _doublings(sizes: Mapping[str, int], other: Mapping[str, int], fixed: Collection[str]) -> float:
    """The sum of |log2| of the ratios; infinite where a fixed size differs, or a rank is missing."""
    if sizes.keys() != other.keys() or any(sizes[r] != other[r] for r in fixed if r in sizes):
        return math.inf
    return sum(abs(math.log2(n / other[r])) for r, n in sizes.items() if n and other[r])
