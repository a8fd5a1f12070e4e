"""Trials as table rows, and tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .candidates import Candidate
from .study import Trial

COLUMNS: dict[str, type] = {
    "key": str,
    "label": str,
    "passes": int,
    "signature": str,
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


def row(trial: Trial[Candidate]) -> dict[str, Any]:
    """One trial as a table row."""
    candidate, measured = trial.point, trial.measurement
    estimate = candidate.estimate
    return {
        "key": candidate.key,
        "label": candidate.variant.label,
        "passes": candidate.variant.passes,
        "signature": candidate.variant.signature,
        "knobs": knobs_text(candidate.knobs),
        "status": measured.status,
        "seconds": measured.seconds,
        "low": measured.low,
        "high": measured.high,
        "predicted": trial.predicted,
        "prior": trial.prior,
        "source": trial.source,
        "batch": trial.batch,
        "seconds_in": trial.seconds_in,
        "limiter": estimate.limiter,
        "hbm_bytes": estimate.traffic.hbm_bytes,
        "l2_bytes": estimate.traffic.l2_bytes,
        "shared_traffic_bytes": estimate.traffic.shared_bytes,
        "tensor_flops": estimate.traffic.tensor_flops,
        "fma_flops": estimate.traffic.fma_flops,
        "special_ops": estimate.traffic.special_ops,
        "shared_bytes": measured.shared_bytes,
        "registers": measured.registers,
        "spills": measured.spills,
        "predicted_shared_bytes": estimate.resources.shared_bytes,
        "predicted_registers": estimate.resources.registers_per_thread,
        "rms_error": measured.rms_error,
        "max_error": measured.max_error,
        "budget": measured.budget,
        "compile_seconds": measured.compile_seconds,
        "message": measured.message,
    }


def knobs_text(knobs: Any) -> str:
    """A schedule in one line, without the cascade: "m loop 64, p grid 128, warps 4"."""
    return ", ".join(f"{name} {value}" for name, value in knobs.items() if name != "cascade")


def text_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), indent: int = 2
) -> str:
    """Columns aligned for a terminal, two blanks apart."""
    everything = [list(header), *(list(r) for r in rows)]
    widths = [max(len(r[i]) for r in everything) for i in range(len(header))]
    numbers = set(right)

    def line(cells: Sequence[str]) -> str:
        padded = (
            c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return (" " * indent + "  ".join(padded)).rstrip()

    rule = " " * indent + "  ".join("─" * w for w in widths)
    return "\n".join([line(everything[0]), rule, *(line(r) for r in everything[1:])])
