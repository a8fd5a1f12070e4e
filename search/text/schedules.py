"""A schedule in words."""

from __future__ import annotations

from eintune.space.schedule.schedule import Schedule


def role_text(outer: str | None, tile: int | None, parts: int = 1, pack: str | None = None) -> str:
    """A rank's role in few words: "loop 64", "grid 128", "grid" (one index a program), "whole 64", "loop 64 / 8"
    (in eight parts), "with p" (packed)."""
    if pack:
        return f"with {pack}"
    return f"{outer or 'whole'}{'' if tile is None else f' {tile}'}{f' / {parts}' if parts > 1 else ''}"


def schedule_text(schedule: Schedule) -> str:
    """The schedule in one line: "grid b h p:128, loop m:64, 4 warps, 2 stages". A rank that is not named is one
    whole axis of every tile."""
    parts = []
    for outer in ("grid", "loop"):
        ranks = [rank if r.tile is None else f"{rank}:{r.tile}" for rank, r in schedule.roles if r.outer == outer]
        parts += [f"{outer} {' '.join(ranks)}"] if ranks else []
    parts += [f"{rank} packed with {r.pack}" for rank, r in schedule.roles if r.pack]
    parts += [f"{rank} in {r.num_splits} splits" for rank, r in schedule.roles if r.num_splits > 1]
    parts += [f"{schedule.warps} warps", f"{schedule.stages} stages"] if schedule.emitter != "torch" else []
    parts += (
        [{"segments": "segmented", "branch": "filters in a branch"}[schedule.filters]]
        if schedule.filters != "every"
        else []
    )
    parts += [schedule.order] if schedule.order != "forward" else []
    by_descriptor = {"descriptor": "loads by descriptor", "loops": "loops load by descriptor"}
    parts += [by_descriptor[schedule.loads]] if schedule.loads != "pointer" else []
    parts += ["bounds by a kernel before"] if schedule.bounds != "program" else []
    parts += ["pipelined products"] if schedule.pipelined != "none" else []
    parts += ["specialised warps"] if schedule.is_specialised else []
    parts += ["lazy rescaling"] if schedule.rescaling != "eager" else []
    parts += [f"{schedule.functions} functions"] if schedule.functions != "exact" else []
    parts += [schedule.precision] if schedule.precision != "ieee" else []
    return ", ".join(parts)
