"""Trials as table rows."""

from __future__ import annotations

from typing import Any

from eintune.search.study.study import Trial
from eintune.search.text.schedules import schedule_text

from .candidates import Candidate


def row(trial: Trial[Candidate]) -> dict[str, Any]:
    """One trial as a table row."""
    candidate, measured = trial.point, trial.measurement
    estimate = candidate.estimate
    return {
        "key": candidate.key,
        "label": candidate.variant.label,
        "passes": candidate.variant.passes,
        "cascade": candidate.variant.digest,
        "knobs": schedule_text(candidate.schedule),
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
