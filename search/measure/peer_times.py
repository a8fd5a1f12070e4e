"""What a run measured of peers, as records and portfolios keep it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from eintune.kernels.libraries.versions import version_of
from eintune.kernels.store.peers import PeerTime

from .measurement import Measurement


def peer_times(measured: Mapping[str, Measurement], device: str) -> dict[str, PeerTime]:
    """Those that ran and were right, by name; device: "cpu" or "cuda"."""
    return {name: _peer_time(name, m, device) for name, m in measured.items() if m.status == "ok"}


def _peer_time(name: str, m: Measurement, device: str) -> PeerTime:
    low, high, rms, most, budget = (
        x if math.isfinite(x) else None for x in (m.low, m.high, m.rms_error, m.max_error, m.budget)
    )
    return PeerTime(m.seconds, low, high, version_of(name, device), rms, most, budget, m.short_of[:500])
