"""How candidates are measured: a value, part of every record's key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, TypeAlias

from eintune.kernels.store.cache import DEFAULT_POLICY

Before: TypeAlias = Literal["others", "idle", "itself"]
PAUSES: dict[Before, float] = {"others": 0.0, "idle": 0.25, "itself": 0.5}
"""Seconds of what comes before a kernel's turn."""


@dataclass(frozen=True)
class Policy:
    """Time-outs and effort, in seconds and counts.

    id: names what is measured (a GPU's caches are cold, the median of rounds in which all candidates of a
    batch take turns); times of different ids are not compared. Raise it when that changes, not for effort.
    startup: until a worker has its inputs and reference. compile, run: for one kernel, until it is replaced.
    rounds: at least and at most, for kernels within `contender` times the batch's fastest first run; others
    keep `minor_rounds`. effort: seconds of one kernel's samples after which it stops taking turns.
    compilers: processes that compile ahead. seed: of inputs, sample positions and the order of turns.
    before: what the device does just before a kernel's turn, for PAUSES seconds: "others" (the one before it),
    "idle" (it is cool), "itself" (it is hot). burst: samples a turn, at most (a turn stays so short that what
    came before it still counts). warmup: calls of each kernel before its first turn, at most.
    """

    id: str = DEFAULT_POLICY
    startup: float = 180.0
    compile: float = 60.0
    run: float = 20.0
    rounds: tuple[int, int] = (3, 40)
    minor_rounds: int = 2
    contender: float = 1.5
    effort: float = 1.0
    compilers: int = max(1, min(12, (os.cpu_count() or 2) - 1))
    seed: int = 0
    before: Before = "others"
    burst: int = 1
    warmup: int = 0

    def __post_init__(self) -> None:
        low, high = self.rounds
        if not 1 <= low <= high:
            raise ValueError(f"`rounds` must be (low, high) with 1 <= low <= high, but got {self.rounds}")
        for name in ("startup", "compile", "run", "effort", "contender"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, but got {getattr(self, name)}")
        for name in ("minor_rounds", "compilers", "burst"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but got {getattr(self, name)}")
        if self.before not in PAUSES:
            raise ValueError(f"`before` must be one of {list(PAUSES)}, but got {self.before!r}")
        if self.warmup < 0:
            raise ValueError(f"`warmup` must be at least 0, but got {self.warmup}")

    @property
    def pause(self) -> float:
        """Seconds before each turn."""
        return PAUSES[self.before]
