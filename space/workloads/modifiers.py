"""What may be done to the scores of an attention: small pieces, each one change, freely combined.

A piece that changes values (`Softcap`, `Slopes`, …) is applied in the order given; then come the filters, which
say what a query does not see. A filter that is affine in positions is a `Where`, so that empty tiles are never
visited and full ones not masked; one that reads a tensor is a `select`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from eintune.space.cascade.builder import apply, at_least_zero
from eintune.space.cascade.problem import Values
from eintune.space.ir.expr import NEG_INF, Computed, Expr, Iota, Param, Rank, Size, Tensor, Where, access
from eintune.space.tracing.conditions import holds
from eintune.space.tracing.site import AXES, Site

Align: TypeAlias = Literal["top_left", "lower_right"]
ALIGN: tuple[Align, ...] = ("top_left", "lower_right")
FARTHEST = 2**31 - 1
"""Positions are 32 bits wide."""
SMALLEST_CAP, LARGEST_CAP = 1e-30, 1e30
"""Between these a score divided by a cap, and a cap times a tanh, are float32 numbers."""
WIDE = "fp32"
"""The dtype of tensors with a number a head: they are small, and rounding them moves every score."""


@dataclass(frozen=True)
class Modifier(ABC):
    """One change to the scores.

    filters: whether it says what is seen (those come after all that change values). tensors: the inputs it
    reads, name to axes, in the order in which `eintune.attention` takes them; "*" is an axis of the tensor's own.
    """

    filters: ClassVar[bool] = False
    turn: ClassVar[int] = 0
    """Among filters."""

    @abstractmethod
    def apply(self, score: Expr, site: Site) -> Expr:
        """The changed score. The score varies with the batch, the heads, p and m."""

    @property
    def tensors(self) -> Mapping[str, str]:
        return {}

    @property
    def sizes(self) -> Mapping[Rank, int]:
        """Numbers that stand in its filters as sizes, so that one derivation serves all of them."""
        return {}

    def bound(self, sizes: Mapping[Rank, int]) -> Mapping[Rank, int]:
        """Its numbers that stand in it as sizes, in an attention whose ranks have these sizes."""
        return self.sizes

    @property
    def params(self) -> Mapping[str, float]:
        return {}

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Of its tensors that are not in the problem's own."""
        return {}

    @property
    def values(self) -> Mapping[str, Values]:
        """What its tensors hold when they are drawn."""
        return {}

    def drawn(self, sizes: Mapping[Rank, int]) -> Mapping[str, Values]:
        """The same, in an attention whose ranks have these sizes."""
        return self.values

    @property
    def words(self) -> str:
        """What a title says."""
        return type(self).__name__.lower()

    @property
    def slug(self) -> str:
        """What a folder's name says."""
        return "-".join(self.words.split())


# ---- values


@dataclass(frozen=True)
class HeadScale(Modifier):
    """Each head's scores times a number of its own, HS[h]."""

    tensors: ClassVar[Mapping[str, str]] = {"HS": "h"}
    dtypes: ClassVar[Mapping[str, str]] = {"HS": WIDE}
    values: ClassVar[Mapping[str, Values]] = {"HS": Values(0.5, 2.0)}
    words: ClassVar[str] = "head scale"

    def apply(self, score: Expr, site: Site) -> Expr:
        return score * site.tensor("HS", "h")


@dataclass(frozen=True)
class Softcap(Modifier):
    """cap * tanh(score / cap): scores stay between -cap and cap. Raises ValueError for a cap that is not positive."""

    cap: float

    def __post_init__(self) -> None:
        number = isinstance(self.cap, (int, float)) and not isinstance(self.cap, bool)
        if not (number and self.cap > 0):
            raise ValueError(f"`softcap` must be a positive number, but got {_shortened(self.cap)}")
        if not SMALLEST_CAP <= self.cap <= LARGEST_CAP:
            raise ValueError(
                f"`softcap` must be from {SMALLEST_CAP:g} to {LARGEST_CAP:g}, but got {_shortened(self.cap)}"
            )

    def apply(self, score: Expr, site: Site) -> Expr:
        return apply("tanh", score / Param("cap")) * Param("cap")

    @property
    def params(self) -> Mapping[str, float]:
        return {"cap": float(self.cap)}

    @property
    def words(self) -> str:
        return f"softcap {self.cap:g}"


@dataclass(frozen=True)
class Slopes(Modifier):
    """Attention with linear biases (Press et al., arXiv 2108.12409): score + slope * (m - p).

    The slope of a head is SLOPE[h], or with `standard` the paper's: 2^(-8 (h + 1) / n) for the first n heads, n the
    greatest power of two among their number, and for those beyond every other one of 2n heads', from the first.
    align as of `Causal`: with "lower_right", p is the position of the key that a query stands at, p + |m| - |p|.
    """

    standard: bool = False
    align: Align = "top_left"

    def __post_init__(self) -> None:
        check_align("alibi", self.align)

    def apply(self, score: Expr, site: Site) -> Expr:
        return score + self.ahead(site) * (self._standard(site) if self.standard else site.tensor("SLOPE", "h"))

    def ahead(self, site: Site) -> Expr:
        """How far a key is ahead of the one that a query stands at."""
        ahead = Iota("m") - Iota("p")
        return ahead - (Size("m") - Size("p")) if self.align == "lower_right" else ahead

    @staticmethod
    def _standard(site: Site) -> Expr:
        """2^(-8 / n (h + 1)), beyond n heads 2^(-8 / n (h - n + 1/2)): with exponents that are plainly negative."""
        head, power = _number_of(site.heads), Size(POWER)
        beyond = apply("max", head - power, 0.0) + 0.5
        count = apply("select", apply("ge", head, power), beyond, head + 1.0)
        return apply("exp2", count * -8.0 / power)

    def bound(self, sizes: Mapping[Rank, int]) -> Mapping[Rank, int]:
        heads = sizes["h"] * sizes.get("g", 1)
        return {POWER: 1 << (max(heads, 1).bit_length() - 1)} if self.standard else {}

    @property
    def tensors(self) -> Mapping[str, str]:
        return {} if self.standard else {"SLOPE": "h"}

    @property
    def dtypes(self) -> Mapping[str, str]:
        return {} if self.standard else {"SLOPE": WIDE}

    @property
    def values(self) -> Mapping[str, Values]:
        return {} if self.standard else {"SLOPE": Values(2.0**-8, 0.7)}

    @property
    def words(self) -> str:
        slopes = "ALiBi with standard slopes" if self.standard else "ALiBi"
        return slopes + ("" if self.align == "top_left" else " from the lower right")

    @property
    def slug(self) -> str:
        slopes = "alibi-standard" if self.standard else "alibi"
        return slopes + ("" if self.align == "top_left" else "-lower-right")


POWER = "s"
"""What the greatest power of two among the number of heads is called, as a size."""


def _number_of(heads: Sequence[Rank]) -> Expr:
    """A head's number: h, or h * |g| + g."""
    first, *rest = heads
    number: Expr = Iota(first)
    for r in rest:
        number = number * Size(r) + Iota(r)
    return number


@dataclass(frozen=True)
class Bias(Modifier):
    """score + BIAS, a tensor over `axes`, some of b, h, p, m in that order (the others are broadcast).

    Where BIAS is -inf the query does not see the key, as any input may hold -inf; NaN stays NaN.
    """

    axes: str = AXES

    def __post_init__(self) -> None:
        check_axes("bias", self.axes)

    def apply(self, score: Expr, site: Site) -> Expr:
        return score + site.tensor("BIAS", self.axes)

    @property
    def tensors(self) -> Mapping[str, str]:
        return {"BIAS": self.axes}

    @property
    def words(self) -> str:
        return f"bias over {self.axes}"


@dataclass(frozen=True)
class RelativeBias(Modifier):
    """score + REL[h, p - m + |m| - 1]: a table with a row a head and a column for each distance, from that of the last
    key before the first query (T5, arXiv 1910.10683; Swin, arXiv 2103.14030).

    columns: |p| + |m| - 1; a table with fewer is refused where the problem is posed. Raises ValueError below 1.
    """

    columns: int
    dtypes: ClassVar[Mapping[str, str]] = {"REL": WIDE}
    tensors: ClassVar[Mapping[str, str]] = {"REL": "h*"}
    words: ClassVar[str] = "relative bias"

    def __post_init__(self) -> None:
        if type(self.columns) is not int or self.columns < 1:
            raise ValueError(f"`relative_bias` must have a positive number of columns, but got {self.columns!r}")

    def apply(self, score: Expr, site: Site) -> Expr:
        column = Computed("sub", (Computed("add", (Computed("sub", ("p", "m")), Size("m"))), 1))
        return score + access(Tensor("REL", (*site.heads, "r")), (*site.heads, column))

    @property
    def sizes(self) -> Mapping[Rank, int]:
        return {"r": self.columns}


# ---- filters


@dataclass(frozen=True)
class Causal(Modifier):
    """Query p sees key m where m <= p ("top_left"), or where m <= p + |m| - |p| ("lower_right").

    Raises ValueError for another alignment.
    """

    align: Align = "top_left"
    filters: ClassVar[bool] = True
    turn: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_align("causal", self.align)

    def apply(self, score: Expr, site: Site) -> Expr:
        return Where(at_least_zero(sizes=_shift(self.align, 1), m=-1, p=1), score, NEG_INF)

    @property
    def words(self) -> str:
        return "causal" if self.align == "top_left" else "causal from the lower right"

    @property
    def slug(self) -> str:
        return "causal" if self.align == "top_left" else "causal-lower-right"


@dataclass(frozen=True)
class Window(Modifier):
    """Query p sees key m where p - m < size, and with `both` where m - p < size too.

    align as of `Causal`: what counts as a query's own position. Raises ValueError for a size below 1.
    """

    size: int
    both: bool = False
    align: Align = "top_left"
    filters: ClassVar[bool] = True
    turn: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_reach("window", self.size)
        check_align("window", self.align)

    def apply(self, score: Expr, site: Site) -> Expr:
        before = at_least_zero(-1, {"w": 1, **_shift(self.align, -1)}, p=-1, m=1)
        score = Where(before, score, NEG_INF)
        if self.both:
            score = Where(at_least_zero(-1, {"w": 1, **_shift(self.align, 1)}, m=-1, p=1), score, NEG_INF)
        return score

    @property
    def sizes(self) -> Mapping[Rank, int]:
        return {"w": self.size}

    def bound(self, sizes: Mapping[Rank, int]) -> Mapping[Rank, int]:
        return {"w": min(self.size, sizes["p"] + sizes["m"])}

    @property
    def words(self) -> str:
        sides = " to both sides" if self.both else ""
        return f"window {self.size}{sides}" + ("" if self.align == "top_left" else " from the lower right")

    @property
    def slug(self) -> str:
        return f"w{self.size}" + ("-both" if self.both else "") + ("" if self.align == "top_left" else "-lower-right")


def _shift(align: Align, sign: int) -> dict[Rank, int]:
    """What is added to p - m, times `sign`: |m| - |p| where the last query stands at the last key."""
    return {"m": sign, "p": -sign} if align == "lower_right" else {}


@dataclass(frozen=True)
class Prefix(Modifier):
    """Query p sees key m where m <= p, or where m < size: what comes first is seen by all.

    align as of `Causal`. Raises ValueError for a size below 1.
    """

    size: int
    align: Align = "top_left"
    filters: ClassVar[bool] = True
    turn: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_reach("prefix", self.size)
        check_align("prefix", self.align)

    def apply(self, score: Expr, site: Site) -> Expr:
        first, causal = at_least_zero(-1, {"n": 1}, m=-1), at_least_zero(sizes=_shift(self.align, 1), m=-1, p=1)
        return (holds(causal) | holds(first)).keep(score, NEG_INF)

    @property
    def sizes(self) -> Mapping[Rank, int]:
        return {"n": self.size}

    def bound(self, sizes: Mapping[Rank, int]) -> Mapping[Rank, int]:
        return {"n": min(self.size, max(sizes["m"], 1))}

    @property
    def words(self) -> str:
        return f"prefix {self.size}" + ("" if self.align == "top_left" else " from the lower right")

    @property
    def slug(self) -> str:
        return f"prefix{self.size}" + ("" if self.align == "top_left" else "-lower-right")


@dataclass(frozen=True)
class Documents(Modifier):
    """Query p sees key m where both belong to one document: DOCQ[b,p] = DOCK[b,m], whole numbers."""

    filters: ClassVar[bool] = True
    turn: ClassVar[int] = 3
    tensors: ClassVar[Mapping[str, str]] = {"DOCQ": "bp", "DOCK": "bm"}
    dtypes: ClassVar[Mapping[str, str]] = dict.fromkeys(tensors, "int32")
    values: ClassVar[Mapping[str, Values]] = {
        "DOCQ": Values(0, 4, ordered=True),
        "DOCK": Values(0, 4, ordered=True, same_as="DOCQ"),  # a sequence that attends to itself
    }

    def apply(self, score: Expr, site: Site) -> Expr:
        same = apply("eq", site.tensor("DOCQ", "bp", "int"), site.tensor("DOCK", "bm", "int"))
        return apply("select", same, score, NEG_INF)


@dataclass(frozen=True)
class Mask(Modifier):
    """Query p sees key m where MASK is true, a tensor over `axes`, some of b, h, p, m in that order."""

    axes: str = AXES
    filters: ClassVar[bool] = True
    turn: ClassVar[int] = 4
    dtypes: ClassVar[Mapping[str, str]] = {"MASK": "bool"}

    def __post_init__(self) -> None:
        check_axes("mask", self.axes)

    def apply(self, score: Expr, site: Site) -> Expr:
        return apply("select", site.tensor("MASK", self.axes, "bool"), score, NEG_INF)

    @property
    def tensors(self) -> Mapping[str, str]:
        return {"MASK": self.axes}

    @property
    def words(self) -> str:
        return f"mask over {self.axes}"


# ---- together


def in_order(modifiers: Sequence[Modifier]) -> Iterator[Modifier]:
    """What changes values, as given; then what filters, which commutes, always in one order.

    Raises ValueError where a kind comes twice.
    """
    kinds = [type(m) for m in modifiers]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(
                f"a modifier stands once in an attention, but got {kind.__name__} {kinds.count(kind)} times"
            )
    yield from (m for m in modifiers if not m.filters)
    yield from sorted((m for m in modifiers if m.filters), key=lambda m: m.turn)


def check_axes(name: str, axes: object) -> None:
    """Raises ValueError for anything but some of AXES in their order."""
    if not (isinstance(axes, str) and axes and axes == "".join(a for a in AXES if a in axes)):
        raise ValueError(f"`{name}` must be over some of the axes {AXES}, in that order, but got {axes!r}")


def check_reach(name: str, size: object) -> None:
    """Raises ValueError for anything but a number of positions."""
    if type(size) is not int or size < 1:
        raise ValueError(f"`{name}` must be a positive integer, but got {_shortened(size)}")
    if size > FARTHEST:
        raise ValueError(f"`{name}` must be at most {FARTHEST}, but got {_shortened(size)}")


def _shortened(x: object) -> str:
    """A value in a message: Python prints no number of thousands of digits."""
    said = (
        f"a number of {x.bit_length()} bits"
        if isinstance(x, int) and x.bit_length() > 256
        else " ".join(repr(x).split())
    )
    return said if len(said) <= 80 else f"{said[:77]}..."


def check_align(name: str, align: object) -> None:
    if align not in ALIGN:
        raise ValueError(f"`{name}` must be aligned {' or '.join(ALIGN)}, but got {align!r}")
