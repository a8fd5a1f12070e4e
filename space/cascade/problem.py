"""One computation at one size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from eintune.host.forks import cached_property
from eintune.space.ir.expr import Rank

from .cascade import Cascade


class Values(NamedTuple):
    """What an input may hold: from `low` to below `high`; ordered: growing along the last axis; same_as: an input whose
    numbers it repeats where both have one shape; steps: not drawn, but growing along the last axis in so many equal
    steps."""

    low: float
    high: float
    ordered: bool = False
    same_as: str | None = None
    steps: int = 0


@dataclass(frozen=True)
class Problem:
    """One computation at one size.

    workload: a label for people and for the cache key; nothing decides by it.
    cascade: the definition as text, which keys and files have; `definition` is the same, read once.
    sizes: every rank. dtypes: by tensor name, outputs too ("fp32", "fp16", "bf16", "int32", "bool"). params: values of
    the cascade's scalars. values: what inputs may hold that do not take just anything; it decides nothing but what is
    drawn.
    """

    workload: str
    cascade: str
    sizes: dict[Rank, int]
    dtypes: dict[str, str]
    params: dict[str, float] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", {name: Values(*v) for name, v in self.values.items()})

    @cached_property
    def definition(self) -> Cascade:
        """The definition. Raises CascadeError for a text that is none."""
        return Cascade.parse(self.cascade)
