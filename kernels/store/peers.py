"""What others' implementations took in the run that measured a kernel, as records and portfolios hold it.

A file of an earlier version has seconds alone. They are read, and shown; a program calls nothing by them, since they do
not say which version took them, nor how far off its result was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeAlias

from msgspec import Meta

from eintune.host.data import Name, NotNegative, Seconds, Strict, Text

MOST_PEERS = 256


@dataclass(frozen=True)
class PeerTime:
    """A peer in the run that a kernel was measured in.

    seconds: the median of its turns; low, high: their 20th and 80th percentile, None where they were not kept. version:
    of what ran, "" where it is not known. rms_error, max_error: against float64, as a `Measurement` has them; budget:
    the root mean square that a kernel was allowed. short_of: why its results are not what a kernel's have to be (the
    budget, a contiguous tensor), or "".
    """

    seconds: float
    low: float | None = None
    high: float | None = None
    version: str = ""
    rms_error: float | None = None
    max_error: float | None = None
    budget: float | None = None
    short_of: str = ""

    def to_json(self) -> float | dict[str, Any]:
        """Plain data: what is not known is left out, and of what is but a time the time alone is left."""
        known = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) not in (None, "")}
        return self.seconds if len(known) == 1 else known


class PeerFile(Strict):
    """A peer as a file holds it."""

    seconds: Seconds
    low: Seconds | None = None
    high: Seconds | None = None
    version: Name = ""
    rms_error: NotNegative | None = None
    max_error: NotNegative | None = None
    budget: NotNegative | None = None
    short_of: Text = ""


PeersFile: TypeAlias = Annotated[dict[Name, Seconds | PeerFile], Meta(max_length=MOST_PEERS)]
"""Peers by name."""


def peers_from(file: Mapping[str, float | PeerFile]) -> dict[str, PeerTime]:
    """What a file holds."""
    return {
        name: PeerTime(**{f: getattr(p, f) for f in p.__struct_fields__}) if isinstance(p, PeerFile) else PeerTime(p)
        for name, p in file.items()
    }


def peers_json(peers: Mapping[str, PeerTime]) -> dict[str, Any]:
    """What a file is given."""
    return {name: p.to_json() for name, p in peers.items()}
