"""What a peer does to the scores of an attention: each modifier as functions of (score, batch, head, query, key).

The same functions serve FlexAttention (called there with one number each) and PyTorch's operators (called with
positions that broadcast to all scores). They are written after what a modifier is documented to do, independently
of how the definition is derived from it: that is what makes the peers a check of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from eintune.space.workloads.attention import Attention
from eintune.space.workloads.modifiers import (
    Bias,
    Causal,
    Documents,
    HeadScale,
    Mask,
    Modifier,
    Prefix,
    RelativeBias,
    Slopes,
    Softcap,
    Window,
)
from eintune.space.workloads.spans import PlacedSlopes, Spans

Score: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(score, batch, head, query, key) to the changed score."""
Seen: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query, key) to whether the query sees the key."""


class Unavailable(RuntimeError):
    """A peer does not take this problem; the message says why."""


@dataclass(frozen=True)
class Given:
    """What modifiers read: tensors by name with all query heads on one axis, the axes of each (some of b, h, p, m), and
    how many heads, queries and keys there are."""

    tensors: Mapping[str, Tensor]
    axes: Mapping[str, str]
    heads: int
    queries: int
    keys: int

    def reader(self, name: str) -> Seen:
        """Read a tensor at (batch, head, query, key), by the axes it has."""
        return READERS[self.axes[name]](self.tensors[name])

    def shift(self, align: str) -> int:
        """What is added to a query's position: 0, or so much that the last query stands at the last key."""
        return self.keys - self.queries if align == "lower_right" else 0


# One function a set of axes: FlexAttention's compiler reads them, so they say plainly what is indexed.
READERS: dict[str, Callable[[Tensor], Seen]] = {
    "b": lambda t: lambda b, h, p, m: t[b],
    "h": lambda t: lambda b, h, p, m: t[h],
    "p": lambda t: lambda b, h, p, m: t[p],
    "m": lambda t: lambda b, h, p, m: t[m],
    "bh": lambda t: lambda b, h, p, m: t[b, h],
    "bp": lambda t: lambda b, h, p, m: t[b, p],
    "bm": lambda t: lambda b, h, p, m: t[b, m],
    "hp": lambda t: lambda b, h, p, m: t[h, p],
    "hm": lambda t: lambda b, h, p, m: t[h, m],
    "pm": lambda t: lambda b, h, p, m: t[p, m],
    "bhp": lambda t: lambda b, h, p, m: t[b, h, p],
    "bhm": lambda t: lambda b, h, p, m: t[b, h, m],
    "bpm": lambda t: lambda b, h, p, m: t[b, p, m],
    "hpm": lambda t: lambda b, h, p, m: t[h, p, m],
    "bhpm": lambda t: lambda b, h, p, m: t[b, h, p, m],
}


def _head_scale(modifier: HeadScale, given: Given) -> Score:
    factor = given.reader("HS")
    return lambda score, b, h, p, m: score * factor(b, h, p, m)


def _softcap(modifier: Softcap, given: Given) -> Score:
    cap = modifier.cap
    return lambda score, b, h, p, m: cap * torch.tanh(score / cap)


def _slopes(modifier: Slopes, given: Given) -> Score:
    shift = given.shift(modifier.align)
    if modifier.standard:
        heads = given.heads
        return lambda score, b, h, p, m: score + standard_slope(h, heads) * (m - p - shift)
    slope = given.reader("SLOPE")
    return lambda score, b, h, p, m: score + slope(b, h, p, m) * (m - p - shift)


def standard_slope(h: Tensor, heads: int) -> Tensor:
    """The standard slope of ALiBi (Press et al., arXiv 2108.12409) of the head h of so many."""
    power = 1 << (heads.bit_length() - 1)
    if heads == power:
        return torch.exp2(-8.0 * (h + 1) / power)
    others = torch.exp2(-4.0 * (2 * (h - power) + 1) / power)
    return torch.where(h < power, torch.exp2(-8.0 * (h + 1) / power), others)


def _bias(modifier: Bias, given: Given) -> Score:
    bias = given.reader("BIAS")
    return lambda score, b, h, p, m: score + bias(b, h, p, m)


def _relative_bias(modifier: RelativeBias, given: Given) -> Score:
    table, first = given.tensors["REL"], given.keys - 1
    return lambda score, b, h, p, m: score + table[h, p - m + first]


def _causal(modifier: Causal, given: Given) -> Seen:
    shift = given.shift(modifier.align)
    return lambda b, h, p, m: m <= p + shift


def _window(modifier: Window, given: Given) -> Seen:
    shift, size = given.shift(modifier.align), modifier.size
    if modifier.both:
        return lambda b, h, p, m: (p + shift - m < size) & (m - p - shift < size)
    return lambda b, h, p, m: p + shift - m < size


def _prefix(modifier: Prefix, given: Given) -> Seen:
    shift, size = given.shift(modifier.align), modifier.size
    return lambda b, h, p, m: (m <= p + shift) | (m < size)


def _documents(modifier: Documents, given: Given) -> Seen:
    queries, keys = given.tensors["DOCQ"], given.tensors["DOCK"]
    return lambda b, h, p, m: queries[b, p] == keys[b, m]


def _placed_slopes(modifier: PlacedSlopes, given: Given) -> Score:
    place, heads = given.reader("AT"), given.heads
    if modifier.standard:
        return lambda score, b, h, p, m: score + standard_slope(h, heads) * (m - place(b, h, p, m))
    slope = given.reader("SLOPE")
    return lambda score, b, h, p, m: score + slope(b, h, p, m) * (m - place(b, h, p, m))


def _spans(modifier: Spans, given: Given) -> Seen:
    first, end = given.reader("FIRST"), given.reader("END")
    return lambda b, h, p, m: (first(b, h, p, m) <= m) & (m < end(b, h, p, m))


def _mask(modifier: Mask, given: Given) -> Seen:
    return given.reader("MASK")


SCORES: dict[type[Modifier], Callable[[Any, Given], Score]] = {
    HeadScale: _head_scale,
    Softcap: _softcap,
    Slopes: _slopes,
    PlacedSlopes: _placed_slopes,
    Bias: _bias,
    RelativeBias: _relative_bias,
}
FILTERS: dict[type[Modifier], Callable[[Any, Given], Seen]] = {
    Causal: _causal,
    Window: _window,
    Prefix: _prefix,
    Documents: _documents,
    Spans: _spans,
    Mask: _mask,
}
ADDED: tuple[type[Modifier], ...] = (Slopes, PlacedSlopes, Bias, RelativeBias)
"""Modifiers that only add to a score."""


def scores_of(about: Attention, given: Given) -> list[Score]:
    """What changes values, in order. Raises Unavailable for a modifier without a row in the tables."""
    return [_row(SCORES, m)(m, given) for m in about.modifiers if not m.filters]


def filters_of(about: Attention, given: Given) -> list[Seen]:
    """What filters. Raises Unavailable for a modifier without a row in the tables."""
    return [_row(FILTERS, m)(m, given) for m in about.modifiers if m.filters]


def _row(table: Mapping[type[Modifier], Any], modifier: Modifier) -> Any:
    if type(modifier) not in table:
        raise Unavailable(f"the peers have no form of the modifier {modifier.words}")
    return table[type(modifier)]


def positions(batch: int, given: Given, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All positions, (b,1,1,1), (1,h,1,1), (1,1,p,1), (1,1,1,m): functions of them broadcast to all scores."""
    sizes = (batch, given.heads, given.queries, given.keys)
    b, h, p, m = (
        torch.arange(size, device=device).view(*(-1 if i == axis else 1 for i in range(4)))
        for axis, size in enumerate(sizes)
    )
    return b, h, p, m
