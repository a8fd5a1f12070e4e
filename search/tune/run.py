"""One tuning run as plain data: what the report shows, what `results/` keeps, what a replay reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SUMMARY = "summary.json"
MEASUREMENTS = "measurements.csv"
FORMAT = 1
"""The layout of a results folder; another one is refused."""

COLUMNS: dict[str, type] = {
    "key": str,
    "label": str,
    "passes": int,
    "cascade": str,
    "knobs": str,
    "status": str,
    "seconds": float,
    "low": float,
    "high": float,
    "predicted": float,
    "prior": float,
    "source": str,
    "batch": int,
    "seconds_in": float,
    "limiter": str,
    "hbm_bytes": float,
    "l2_bytes": float,
    "shared_traffic_bytes": float,
    "tensor_flops": float,
    "fma_flops": float,
    "special_ops": float,
    "shared_bytes": float,
    "registers": float,
    "spills": float,
    "predicted_shared_bytes": float,
    "predicted_registers": float,
    "rms_error": float,
    "max_error": float,
    "budget": float,
    "compile_seconds": float,
    "message": str,
}
"""The CSV's columns. Times in seconds, memory in bytes, errors against float64."""


@dataclass(frozen=True)
class Run:
    """What one run of the tuner found.

    title: the problem in words. problem: workload, sizes, dtypes, params. machine: name, title and ceilings in
    SI units (`hbm_bytes_per_second`, `tensor_flops`, `fma_flops`). versions: by package. stages: wall seconds
    by stage, in order. space: `cascades` (label, passes, digest, signature, text), `schedules`, `candidates`, `kept`,
    `left_out` (count by reason). rows: one table row a trial (see `COLUMNS`). peers: by name `seconds`,
    `low`, `high`, `message`. winner: empty where nothing ran, else the fields of its row, `cascade_text`,
    `schedule`, `record` (where it was stored).
    """

    title: str
    problem: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str
    started: str
    stages: Mapping[str, float]
    space: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    peers: Mapping[str, Mapping[str, Any]]
    winner: Mapping[str, Any]
    stopped: str
    calibration: Mapping[str, float] = field(default_factory=dict)

    @property
    def best_peer(self) -> tuple[str, float] | None:
        """The fastest peer that ran: its name and seconds."""
        times = [(name, float(p["seconds"])) for name, p in self.peers.items() if ran(p)]
        return min(times, key=lambda item: item[1], default=None)

    def to_json(self) -> dict[str, Any]:
        """Everything but the rows, which are the CSV's."""
        data = asdict(self)
        del data["rows"]
        return {"format": FORMAT, **data}


def ran(peer: Mapping[str, Any]) -> bool:
    """Whether a peer has a time."""
    seconds = peer.get("seconds")
    return isinstance(seconds, (int, float)) and math.isfinite(seconds)
