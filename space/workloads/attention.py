"""Attention as it is defined, with any modifiers: the naive cascade, and the problem that it poses at one size."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from eintune.space.cascade.builder import Writer, apply, exp, given, top, total
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem, Values
from eintune.space.ir.dtypes import FLOATS
from eintune.space.ir.expr import Expr, Param
from eintune.space.ir.gathers import check_indices, has_computed_indices
from eintune.space.tracing.site import Site

from .modifiers import WIDE, Causal, Modifier, in_order
from .pages import in_pages
from .workload import INTEGERS

CausalMode: TypeAlias = Literal["top_left", "lower_right"] | None
CAUSAL: tuple[CausalMode, ...] = (None, "top_left", "lower_right")
Weights: TypeAlias = Literal["softmax", "sigmoid"]
WEIGHTS: tuple[Weights, ...] = ("softmax", "sigmoid")
MAX_HEAD_DIM = 512
MAX_ELEMENTS = 2**36
"""The largest tensor, in elements: 128 GiB in a 2-byte type."""


@dataclass(frozen=True)
class Attention:
    """Which attention it is: everything but sizes and dtypes.

    modifiers: see `modifiers`; those that change values are applied in this order, then those that filter.
    weights: "softmax" over the keys, or "sigmoid" of each score. sinks: a score SINK[h] that every query sees
    and that has no value. lse: also return L, the logarithm of the softmax's denominator (sinks included). page: keys
    and values lie in pages of so many keys, KC[x,o,h,e] and VC[x,o,h,f], of which BT[b,j] names those of each
    sequence in order; None where they are K and V. statistics: also return what a gradient wants of each row, GM, the
    greatest score (or sink), and LS, the logarithm of the denominator relative to it: their sum is L, which may have
    lost the smaller.
    Raises ValueError for a kind of modifier that comes twice, and for sinks, lse or statistics without a softmax.
    """

    modifiers: tuple[Modifier, ...] = ()
    weights: Weights = "softmax"
    sinks: bool = False
    lse: bool = False
    page: int | None = None
    statistics: bool = False

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"`weights` must be one of {list(WEIGHTS)}, but got {self.weights!r}")
        if self.page is not None and (type(self.page) is not int or self.page < 1):
            raise ValueError(f"`page` must be a positive integer, but got {self.page!r}")
        if self.weights != "softmax" and (self.sinks or self.lse or self.statistics):
            raise ValueError(f"`sinks`, `lse` and `statistics` need weights by softmax, but got {self.weights!r}")
        object.__setattr__(self, "modifiers", tuple(in_order(self.modifiers)))

    @property
    def tensors(self) -> dict[str, str]:
        """The inputs besides Q, K and V: name to axes (some of b, h, p, m), in the order of use."""
        found = {name: axes for m in self.modifiers for name, axes in m.tensors.items()}
        return found | ({"SINK": "h"} if self.sinks else {})

    @property
    def words(self) -> str:
        """What a title says of it, "" for plain attention."""
        extra = [
            word
            for word, there in (("sinks", self.sinks), ("log-sum-exp", self.lse), ("statistics", self.statistics))
            if there
        ]
        sigmoid = ["sigmoid"] if self.weights == "sigmoid" else []
        pages = [] if self.page is None else [f"pages of {self.page}"]
        return ", ".join([*sigmoid, *(m.words for m in self.modifiers), *extra, *pages])

    @property
    def slug(self) -> str:
        """What a folder's name says of it, "" for plain attention."""
        extra = [
            word for word, there in (("sinks", self.sinks), ("lse", self.lse), ("statistics", self.statistics)) if there
        ]
        sigmoid = ["sigmoid"] if self.weights == "sigmoid" else []
        pages = [] if self.page is None else [f"page{self.page}"]
        return "-".join([*sigmoid, *(m.slug for m in self.modifiers), *extra, *pages])

    def cascade(self, *, grouped: bool = False) -> Cascade:
        """AV = weights_m(modified(scale * Q K^T)) V, every step of the stable softmax written out.

        Q[b,h,(g,)p,e], K[b,h,m,e], V[b,h,m,f] -> AV[b,h,(g,)p,f]; g is there if `grouped`: the query heads of
        one key head.
        """
        heads = ("h", "g") if grouped else ("h",)
        site, let = Site(heads), Writer()
        rows = ("b", *heads, "p")
        scores = (*rows[:-1], "m", "p")
        k, v = given("K", "bhme"), given("V", "bhmf")
        if self.page is not None:
            k, v = in_pages("KC", "xohe", self.page), in_pages("VC", "xohf", self.page)
        qk = let("QK", scores, total("e", given("Q", (*rows, "e")) * k))
        score = qk * Param("scale")
        for modifier in self.modifiers:
            score = modifier.apply(score, site)
        s = let("S", scores, score)
        if self.weights == "sigmoid":
            a = let("A", scores, apply("sigmoid", s))
        else:
            a = self._softmax(let, s, site, rows, scores)
        let("AV", (*rows, "f"), total("m", a * v))
        return let.done("AV", *(["L"] if self.lse else []), *(["GM", "LS"] if self.statistics else []))

    def _softmax(self, let: Writer, s: Expr, site: Site, rows: tuple[str, ...], scores: tuple[str, ...]) -> Expr:
        peak = top("m", s)
        sink = site.tensor("SINK", "h") if self.sinks else None
        gm = let("GM", rows, peak if sink is None else apply("max", peak, sink))
        sn = let("SN", scores, exp(s - gm))
        shares = total("m", sn)
        sd = let("SD", rows, shares if sink is None else shares + exp(sink - gm))
        logarithm = apply("log", sd)
        if self.statistics:
            logarithm = let("LS", rows, logarithm)
        if self.lse:
            let("L", rows, logarithm + gm)
        return let("A", scores, sn / sd)


def attention(*, causal: CausalMode = None, grouped: bool = False) -> Cascade:
    """AV = softmax_m(scale * Q K^T) V, the scores with any of the modifiers.

    See `Attention.cascade`, which also takes those. Raises ValueError for another `causal`.
    """
    return Attention(of_causal(causal)).cascade(grouped=grouped)


def of_causal(causal: CausalMode) -> tuple[Modifier, ...]:
    """The filter of a causal mode. Raises ValueError for another."""
    if causal not in CAUSAL:
        raise ValueError(f"`causal` must be one of {list(CAUSAL)}, but got {causal!r}")
    return () if causal is None else (Causal(causal),)


def attention_problem(
    *,
    batch: int,
    heads: int,
    kv_heads: int,
    seq: int,
    kv_seq: int,
    head_dim: int,
    value_dim: int | None = None,
    dtype: str,
    causal: CausalMode = None,
    scale: float | None = None,
    variant: Attention | None = None,
) -> Problem:
    """The attention problem at one size: `heads` query heads over `kv_heads` key heads.

    `value_dim` defaults to `head_dim`, `scale` to 1/sqrt(head_dim). variant: which attention, with `causal` added
    to its filters; of a cache in pages there are as many as the sequences need. Raises ValueError with the rule, the
    value and the valid options.
    """
    value_dim = head_dim if value_dim is None else value_dim
    numbers = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "seq": seq, "kv_seq": kv_seq}
    check_sizes({**numbers, "head_dim": head_dim, "value_dim": value_dim})
    if dtype not in FLOATS:
        raise ValueError(f"`dtype` must be one of {list(FLOATS)}, but got {dtype!r}")
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    if not math.isfinite(scale):
        raise ValueError(f"`scale` must be a finite number, but got {scale!r}")
    plain = variant or Attention()
    wanted = replace(plain, modifiers=(*of_causal(causal), *plain.modifiers))
    groups = {"g": heads // kv_heads} if heads != kv_heads else {}
    sizes = {"b": batch, "h": kv_heads, **groups, "p": seq, "m": kv_seq, "e": head_dim, "f": value_dim}
    if wanted.page is not None:
        pages = -(-kv_seq // wanted.page)
        sizes |= {"x": batch * pages, "o": wanted.page, "j": pages}
    return posed(wanted, sizes, dtype, {"scale": float(scale)})


def posed(variant: Attention, sizes: Mapping[str, int], dtype: str, params: Mapping[str, float]) -> Problem:
    """The problem of an attention whose ranks have these sizes (g among them where key heads are shared).

    Raises ValueError where these take a computed index beyond its axis.
    """
    try:
        cascade, text, addresses = _known(variant, "g" in sizes)
    except TypeError:  # what a function computes has no hash
        cascade, text, addresses = _written(variant, "g" in sizes)
    wide = dict.fromkeys(("L", "GM", "LS"), "fp64" if dtype == "fp64" else WIDE)
    sink = {"SINK": WIDE} if variant.sinks else {}
    table = {"BT": INTEGERS} if variant.page is not None else {}
    special = {n: d for m in variant.modifiers for n, d in m.dtypes.items()} | sink | wide | table
    if dtype == "fp64":
        special = {n: dtype if d == WIDE else d for n, d in special.items()}
    dtypes = {n: special.get(n, dtype) for n in (*cascade.inputs, *cascade.outputs)}
    values: dict[str, Values] = {}
    bound, numbers = dict(sizes), dict(params)
    for m in variant.modifiers:
        bound |= m.bound(sizes)
        numbers |= m.params
        values |= m.drawn(sizes)
    if addresses:
        check_indices((e.expr for e in cascade.einsums), bound, padded=True)
    return Problem("attention", text, bound, dtypes, numbers, values)


def _written(variant: Attention, grouped: bool) -> tuple[Cascade, str, bool]:
    """A variant's cascade, its text, and whether it addresses an axis by anything but the index of a rank."""
    cascade = variant.cascade(grouped=grouped)
    return cascade, str(cascade), has_computed_indices(e.expr for e in cascade.einsums)


_known = functools.lru_cache(maxsize=256)(_written)
"""Made once: a program poses a variant at ever new lengths."""


def check_sizes(numbers: Mapping[str, int]) -> None:
    """Raises ValueError, with the rule, the value and the valid options, for sizes of no attention."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, but got {value!r}")
    for name in ("head_dim", "value_dim"):
        if numbers[name] > MAX_HEAD_DIM:
            raise ValueError(f"`{name}` must be at most {MAX_HEAD_DIM}, but got {numbers[name]}")
    heads, kv_heads = numbers["heads"], numbers["kv_heads"]
    if heads % kv_heads:
        divisors = [n for n in range(1, min(heads, 4096) + 1) if heads % n == 0]
        raise ValueError(
            f"`heads` must be a multiple of `kv_heads`, but got (heads={heads}, kv_heads={kv_heads}); "
            f"for {heads} heads `kv_heads` may be one of {divisors}"
        )
    longest = max(heads * numbers["seq"], kv_heads * numbers["kv_seq"])
    elements = numbers["batch"] * longest * max(numbers["head_dim"], numbers["value_dim"])
    if elements > MAX_ELEMENTS:
        shape = " x ".join(f"{name} {value}" for name, value in numbers.items() if name != "value_dim")
        raise ValueError(f"a tensor must have at most 2**36 elements, but {shape} gives {elements}")


SHIPPED: dict[str, Cascade] = {
    "_".join(filter(None, ("attention", causal, "grouped" if grouped else None))): attention(
        causal=causal, grouped=grouped
    )
    for causal in CAUSAL
    for grouped in (False, True)
}
"""The definitions whose derived forms ship as text."""
