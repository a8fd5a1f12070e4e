"""The candidates: derived cascades crossed with schedules, planned, priced and pruned, each loss counted."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..costmodel.estimate import Estimate
from ..kernels.kernel import Kernel
from ..space.plan import LoopPlan
from ..space.schedule import Schedule


@dataclass(frozen=True)
class Variant:
    """One derived cascade as text. passes: over the streamed rank; label: its kind in words."""

    text: str
    signature: str
    passes: int
    label: str


@dataclass(frozen=True)
class Candidate:
    """One way to compute the problem: a derived cascade under a schedule, and what it should cost."""

    variant: Variant
    schedule: Schedule
    plan: LoopPlan
    estimate: Estimate

    @cached_property
    def kernel(self) -> Kernel:
        """The generated kernel; printed when first asked for."""
        from ..kernels.emitters import EMITTERS

        return EMITTERS[self.schedule.emitter](self.plan, self.schedule)

    @cached_property
    def key(self) -> str:
        """The generated kernel's digest."""
        return self.kernel.digest

    @property
    def group(self) -> str:
        return self.variant.signature

    @cached_property
    def knobs(self) -> Mapping[str, str]:
        """The cascade's signature and every field of the schedule, as texts."""
        fields = self.schedule.to_json()
        roles = {rank: role_text(outer, tile) for rank, (outer, tile) in fields.pop("roles").items()}
        return {"cascade": self.group, **roles, **{name: str(value) for name, value in fields.items()}}


def role_text(outer: str | None, tile: int | None) -> str:
    """A rank's role in two words: "loop 64", "grid 128", "grid" (one index a program), "whole 64"."""
    return f"{outer or 'whole'}{'' if tile is None else f' {tile}'}"


def schedule_text(schedule: Schedule) -> str:
    """The schedule in one line: what a person wants to see of it."""
    roles = [f"{rank} {role_text(r.outer, r.tile)}" for rank, r in schedule.roles if r.outer and r.tile]
    options = [f"{schedule.warps} warps", f"{schedule.stages} stages"] if schedule.emitter != "torch" else []
    flags = ["segmented"] if schedule.segment else []
    flags += [schedule.order] if schedule.order != "forward" else []
    return ", ".join([*roles, *options, *flags])
