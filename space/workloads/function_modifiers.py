"""Modifiers that are functions of the user's: of scores, and of what is seen (see `tracing`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eintune.host.forks import cached_property
from eintune.space.ir.dtypes import DTYPES
from eintune.space.ir.expr import NEG_INF, Const, Expr, Param, Rank, rewrite
from eintune.space.tracing.site import Site
from eintune.space.tracing.trace import Trace, trace_mask, trace_score

from .modifiers import Modifier

SCORE = Param("score")
"""Stands for the score in what a function comes to."""


@dataclass(frozen=True)
class Function(Modifier):
    """function: traced where the modifier is made. Raises Untraceable for a construct that has no expression."""

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        _ = self.trace

    @property
    @abstractmethod
    def trace(self) -> Trace:
        """What one tracing met."""

    @property
    def tensors(self) -> Mapping[str, str]:
        return {name: axes for name, (_, axes) in self.trace.tensors.items()}

    @property
    def sizes(self) -> Mapping[Rank, int]:
        return self.trace.lengths

    @property
    def dtypes(self) -> Mapping[str, str]:
        return {name: dtype_of(name, tensor) for name, (tensor, _) in self.trace.tensors.items()}

    @property
    def words(self) -> str:
        name = getattr(self.function, "__name__", "")
        return f"{self.kind} {name}" if name.isidentifier() else self.kind

    kind: ClassVar[str] = ""


@dataclass(frozen=True)
class ScoreMod(Function):
    """function(score, b, h, p, m) is the changed score."""

    kind: ClassVar[str] = "score_mod"

    @cached_property
    def trace(self) -> Trace:
        return trace_score(self.function, Const(0.0), Site())[1]

    def apply(self, score: Expr, site: Site) -> Expr:
        return trace_score(self.function, score, site)[0]


@dataclass(frozen=True)
class MaskMod(Function):
    """function(b, h, p, m) says whether query p sees key m."""

    kind: ClassVar[str] = "mask_mod"
    filters: ClassVar[bool] = True
    turn: ClassVar[int] = 9

    @cached_property
    def trace(self) -> Trace:
        return trace_mask(self.function, Site())[1]

    def apply(self, score: Expr, site: Site) -> Expr:
        return trace_mask(self.function, site)[0].keep(score, NEG_INF)


@dataclass(frozen=True)
class Outcome(Modifier):
    """What a function came to when it was traced, so that it need not be traced again.

    made: an expression of SCORE, where scores stand at the site that it was traced for. axes, types, lengths: what
    `tensors`, `dtypes` and `sizes` are, of what `made` reads.
    """

    made: Expr
    axes: Mapping[str, str]
    types: Mapping[str, str]
    lengths: Mapping[Rank, int]

    def apply(self, score: Expr, site: Site) -> Expr:
        return rewrite([self.made], lambda x: score if x is SCORE else None)[0]

    @property
    def tensors(self) -> Mapping[str, str]:
        return self.axes

    @property
    def dtypes(self) -> Mapping[str, str]:
        return self.types

    @property
    def sizes(self) -> Mapping[Rank, int]:
        return self.lengths


@dataclass(frozen=True)
class ScoreOutcome(Outcome):
    """Of a `score_mod`."""

    words: ClassVar[str] = ScoreMod.kind


@dataclass(frozen=True)
class MaskOutcome(Outcome):
    """Of a `mask_mod`."""

    filters: ClassVar[bool] = True
    turn: ClassVar[int] = MaskMod.turn
    words: ClassVar[str] = MaskMod.kind


def traced(kind: str, function: Callable[..., Any], site: Site) -> tuple[Expr, Trace]:
    """A "score_mod" or a "mask_mod", run once: what it comes to, an expression of SCORE, and what it met. Raises
    Untraceable."""
    if kind == ScoreMod.kind:
        return trace_score(function, SCORE, site)
    condition, trace = trace_mask(function, site)
    return condition.keep(SCORE, NEG_INF), trace


def dtype_of(name: str, tensor: Any) -> str:
    """The project's name of a tensor's dtype. Raises ValueError for another."""
    said = str(tensor.dtype).removeprefix("torch.")
    names = {d.torch: d.name for d in DTYPES.values()}
    found = names.get(said)
    if found is None:
        valid = sorted(names)
        raise ValueError(f"a captured tensor must have a dtype among {valid}, but {name} has {said}")
    return found
