"""Attention over stretches of keys, for programs: tensors to a variant's inputs, once for each kind of call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eintune.host.notices import say_once
from eintune.host.recent import Recent
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.kernels.serve.plain_tensors import kind_of_tensor
from eintune.kernels.serve.serving import MOST_READY, Empty, Fill, dtype_name, serve
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Modifier, Softcap
from eintune.space.workloads.spans import END, FIRST, PLACE, PlacedSlopes, Spans

from .arguments import MOST_PLACES, Options
from .lengths import Stretches


@dataclass(slots=True)
class Call:
    """One call, with sequences as a batch or packed as one.

    q: (batch, queries, heads, head_dim), or (queries, heads, head_dim) of a batch of 1, in which they are packed. k, v:
    (batch, keys, kv_heads, head_dim), or without the batch, or with `table` (batch, pages) a cache (pages, page,
    kv_heads, head_dim). stretches: (batch, queries) each, or (batch,). sinks, alibi: (heads,). out: what is filled with
    the output, laid out as q is; made unless given.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor | None
    stretches: Stretches
    options: Options
    sinks: Tensor | None = None
    alibi: Tensor | None = None
    out: Tensor | None = None

    def ready(self) -> Ready:
        """What serves such calls."""
        given = (self.q, self.k, self.v, self.table, *self.stretches, self.sinks, self.alibi, self.out)
        asked = self.options
        key = (*kinds(given), asked.scale, asked.softcap, asked.standard, asked.lse)
        found = _ready.get(key)
        if found is None:
            found = Ready(self)
            if self.q.device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
                _ready[key] = found
        return found


def kinds(tensors: Sequence[Tensor | None]) -> list[Any]:
    """What of tensors decides how a call is served."""
    return [None if t is None else kind_of_tensor("a tensor", t) for t in tensors]


_ready: Recent[Any, Ready] = Recent(MOST_READY)


class Ready:
    """What serves a kind of call: a `Call` to the output, and the log-sum-exp if it is asked for, laid out as q is but
    with heads first: (batch, heads, queries) or (heads, queries)."""

    def __init__(self, call: Call) -> None:
        q, asked = call.q, call.options
        self._shapes = shapes = _Shapes(call)
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        self._new = Empty((*q.shape[:-1], call.v.shape[-1]), q.dtype, q)
        logs = (*q.shape[:-3], q.shape[-2], q.shape[-3])
        self._new_log = Empty(logs, wide, q) if asked.lse else None
        self._narrow = tuple(_is_wide(name, t, q) for name, t in (("sinks", call.sinks), ("alibi", call.alibi)))
        self._fill: Fill | None = None
        self._views: Sequence[tuple[str, Any, Any]] = ()
        if not shapes.is_empty:
            self._problem = _problem(call, shapes)
            self._names = (*self._problem.definition.inputs, *self._problem.definition.outputs)

    def __call__(self, call: Call) -> tuple[Tensor, Tensor | None]:
        out = self._new(call.q) if call.out is None else call.out
        log = None if self._new_log is None else self._new_log(call.q)
        if self._shapes.is_empty:
            return _nothing(call, out, log)
        given = self._given(call, out, log)
        if self._fill is None:
            self._first(given)
        else:
            self._fill(
                [given[n] if size is None else given[n].as_strided(size, stride) for n, size, stride in self._views]
            )
        return out, log

    def _first(self, given: dict[str, Tensor]) -> None:
        views = [self._shapes.view(n, given[n]) for n in self._names]
        inputs = self._problem.definition.inputs
        self._problem.dtypes.update(
            {n: dtype_name(t, n) for n, t in zip(self._names, views, strict=True) if n in inputs}
        )
        self._fill = serve(self._problem, views)
        # Each begins where its tensor does, so that one operation makes it again.
        self._views = [
            (n, None, None) if v is given[n] else (n, tuple(v.shape), v.stride())
            for n, v in zip(self._names, views, strict=True)
        ]

    def _given(self, call: Call, out: Tensor, log: Tensor | None) -> dict[str, Tensor]:
        """The call's tensors by the names of the kernel's."""
        first, end, place = call.stretches
        keys, values = ("K", "V") if call.table is None else ("KC", "VC")
        found = {"Q": call.q, keys: call.k, values: call.v, FIRST: first, END: end, "AV": out}
        sinks, slopes = self._narrow
        others = {"BT": call.table, PLACE: place, "L": log}
        others["SINK"] = call.sinks.float() if sinks and call.sinks is not None else call.sinks
        others["SLOPE"] = call.alibi.float() if slopes and call.alibi is not None else call.alibi
        found |= {n: t for n, t in others.items() if t is not None}
        return found


class _Shapes:
    """The sizes of a kind of call, and the kernel's views of its tensors."""

    def __init__(self, call: Call) -> None:
        (queries, heads, head_dim), paged = call.q.shape[-3:], call.table is not None
        self.kv_heads = kv_heads = call.k.shape[-2]
        self.groups = heads // kv_heads if kv_heads else 1
        batch = call.q.shape[0] if call.q.ndim == 4 else 1
        keys = call.table.shape[1] * call.k.shape[1] if call.table is not None else call.k.shape[-3]
        grouped = {"g": self.groups} if self.groups > 1 else {}
        self.sizes = {"b": batch, "h": kv_heads, **grouped, "p": queries, "m": keys, "e": head_dim}
        self.sizes["f"] = call.v.shape[-1]
        if call.table is not None:
            self.sizes |= {"x": call.k.shape[0], "o": call.k.shape[1], "j": call.table.shape[1]}
        self.page = call.k.shape[1] if paged else None
        self.is_empty = 0 in self.sizes.values()

    def view(self, name: str, t: Tensor) -> Tensor:
        match name:
            case "Q" | "AV":
                return self._by_head(_batched(t).transpose(1, 2), 1)
            case "K" | "V":
                return _batched(t).transpose(1, 2)
            case "L":
                return self._by_head(t if t.ndim == 3 else t[None], 1)
            case "SINK" | "SLOPE":
                return self._by_head(t, 0)
            case _:
                return t

    def _by_head(self, t: Tensor, axis: int) -> Tensor:
        """A tensor whose axis counts query heads, as key heads and the query heads of each."""
        if self.groups == 1:
            return t
        split: Tensor = torch.unflatten(t, axis, (self.kv_heads, self.groups))
        return split


def _batched(t: Tensor) -> Tensor:
    return t if t.ndim == 4 else t[None]


def _problem(call: Call, shapes: _Shapes) -> Problem:
    axes = "b" if call.stretches.first.ndim == 1 else "bp"
    asked, slopes = call.options, call.alibi is not None
    if (asked.standard or slopes) and shapes.sizes["m"] > MOST_PLACES:
        raise UnsupportedArgument(
            f"`alibi` counts keys in float32: there must be at most 2**24 in all, but there are {shapes.sizes['m']}"
        )
    variant = variant_of(asked, axes, call.sinks is not None, slopes, shapes.page)
    scale = 1 / math.sqrt(shapes.sizes["e"]) if asked.scale is None else asked.scale
    return posed(variant, shapes.sizes, dtype_name(call.q, "q"), {"scale": scale})


def variant_of(asked: Options, axes: str, sinks: bool, slopes: bool, page: int | None) -> Attention:
    """Which attention a call's options come to. axes: of its stretches. slopes: whether they are given."""
    modifiers: list[Modifier] = [Softcap(asked.softcap)] if asked.softcap is not None else []
    if asked.standard or slopes:
        modifiers.append(PlacedSlopes(asked.standard, axes=axes))
    return Attention((*modifiers, Spans(axes)), sinks=sinks, lse=asked.lse, page=page)


def _is_wide(name: str, t: Tensor | None, q: Tensor) -> bool:
    """Whether a tensor has to be made float32: nothing else would run as fast."""
    if t is None or t.dtype != torch.float64 or q.dtype == torch.float64:
        return False
    say_once(f"eintune: `{name}` is float64 beside {q.dtype} tensors: it is made float32 at each call")
    return True


def _nothing(call: Call, out: Tensor, log: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """What queries get that see no key at all: 0, and the log of a denominator that has the sinks alone."""
    if log is not None:
        log.fill_(-torch.inf)
        if call.sinks is not None:
            log.copy_(call.sinks[:, None].expand(log.shape))
    return out.zero_(), log
