"""Attention over stretches of keys, for programs: tensors to a variant's inputs, once for each kind of call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eintune.host.notices import say_once
from eintune.host.recent import Recent
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.kernels.serve.plain_tensors import kind_of_tensor
from eintune.kernels.serve.serving import MOST_READY, Empty, Fill, dtype_name, serve
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.modifiers import Modifier, Softcap
from eintune.space.workloads.spans import END, FIRST, PLACE, PlacedSlopes, Spans

from .arguments import MOST_PLACES, Options
from .lengths import Stretches


@dataclass(frozen=True)
class Call:
    """One call, with sequences as a batch or packed as one.

    q: (batch, queries, heads, head_dim), batch 1 where they are packed. k, v: (batch, keys, kv_heads, head_dim), or
    with `table` (batch, pages) a cache (pages, page, kv_heads, head_dim). stretches: (batch, queries) each, or
    (batch,). sinks, alibi: (heads,). out: what is filled with the output; made unless given.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor | None
    stretches: Stretches
    options: Options
    sinks: Tensor | None
    alibi: Tensor | None
    out: Tensor | None = None

    def __call__(self) -> tuple[Tensor, Tensor | None]:
        """The output (batch, queries, heads, value dim), and the log-sum-exp (batch, heads, queries) if it is asked
        for."""
        key = self._kind()
        ready = _ready.get(key)
        if ready is None:
            ready = _Ready(self)
            if self.q.device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
                _ready[key] = ready
        return ready(self)

    def _kind(self) -> Any:
        """All that decides how it is served."""
        given = (self.q, self.k, self.v, self.table, *self.stretches, self.sinks, self.alibi, self.out)
        return (
            *kinds(given),
            self.options.scale, self.options.softcap, self.options.standard, self.options.lse,
        )  # fmt: skip

    @property
    def page(self) -> int | None:
        return None if self.table is None else self.k.shape[1]

    @property
    def keys(self) -> int:
        """Of a sequence, as many as there may be."""
        return self.k.shape[1] if self.table is None else self.table.shape[1] * self.k.shape[1]


def kinds(tensors: Iterable[Tensor | None]) -> Sequence[Any]:
    """What of tensors decides how a call is served."""
    return [None if t is None else kind_of_tensor("a tensor", t) for t in tensors]


_ready: Recent[Any, _Ready] = Recent(MOST_READY)


class _Ready:
    """What serves a kind of call."""

    def __init__(self, call: Call) -> None:
        q, k = call.q, call.k
        batch, queries, heads, head_dim = q.shape
        kv_heads, value_dim = k.shape[2], call.v.shape[3]
        self._groups = heads // kv_heads if kv_heads else 1
        self._kv_heads = kv_heads
        grouped = {"g": self._groups} if self._groups > 1 else {}
        sizes = {"b": batch, "h": kv_heads, **grouped, "p": queries, "m": call.keys, "e": head_dim, "f": value_dim}
        if call.table is not None:
            sizes |= {"x": k.shape[0], "o": k.shape[1], "j": call.table.shape[1]}
        self._is_empty = 0 in sizes.values()
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        self._new = Empty((batch, queries, heads, value_dim), q.dtype, q)
        self._new_log = Empty((batch, heads, queries), wide, q) if call.options.lse else None
        self._narrow = tuple(_is_wide(name, t, q) for name, t in (("sinks", call.sinks), ("alibi", call.alibi)))
        self._fill: Fill | None = None
        self._names: Sequence[str] = ()
        if not self._is_empty:
            self._problem = _problem(call, sizes)
            self._names = (*self._problem.definition.inputs, *self._problem.definition.outputs)
            given = self._named(call, q, None)
            self._problem.dtypes.update(
                {n: dtype_name(given[n], n) for n in self._problem.definition.inputs if n in given}
            )

    def __call__(self, call: Call) -> tuple[Tensor, Tensor | None]:
        out = self._new(call.q) if call.out is None else call.out
        log = None if self._new_log is None else self._new_log(call.q)
        if self._is_empty:
            return _nothing(call, out, log)
        named = self._named(call, out, log)
        tensors = [named[n] for n in self._names]
        if self._fill is None:
            self._fill = serve(self._problem, tensors)
        else:
            self._fill(tensors)
        return out, log

    def _named(self, call: Call, out: Tensor, log: Tensor | None) -> dict[str, Tensor]:
        """The kernel's tensors by name, at the addresses of the call's."""
        first, end, place = call.stretches
        found = {"Q": self._by_head(call.q.transpose(1, 2), 1), FIRST: first, END: end, PLACE: place}
        found["AV"] = self._by_head(out.transpose(1, 2), 1)
        if call.table is None:
            found |= {"K": call.k.transpose(1, 2), "V": call.v.transpose(1, 2)}
        else:
            found |= {"KC": call.k, "VC": call.v, "BT": call.table}
        if log is not None:
            found["L"] = self._by_head(log, 1)
        for name, t, narrow in zip(("SINK", "SLOPE"), (call.sinks, call.alibi), self._narrow, strict=True):
            if t is not None:
                found[name] = self._by_head(t.float() if narrow else t, 0)
        return found

    def _by_head(self, t: Tensor, axis: int) -> Tensor:
        """A tensor whose axis counts query heads, as key heads and the query heads of each."""
        if self._groups == 1:
            return t
        split: Tensor = torch.unflatten(t, axis, (self._kv_heads, self._groups))
        return split


def _problem(call: Call, sizes: dict[str, int]) -> Any:
    axes = "b" if call.stretches.first.ndim == 1 else "bp"
    asked = call.options
    modifiers: list[Modifier] = [Softcap(asked.softcap)] if asked.softcap is not None else []
    if asked.standard or call.alibi is not None:
        if call.keys > MOST_PLACES:
            raise UnsupportedArgument(
                f"`alibi` counts keys in float32: there must be at most 2**24 in all, but there are {call.keys}"
            )
        modifiers.append(PlacedSlopes(asked.standard, axes=axes))
    variant = Attention((*modifiers, Spans(axes)), sinks=call.sinks is not None, lse=asked.lse, page=call.page)
    scale = 1 / math.sqrt(sizes["e"]) if asked.scale is None else asked.scale
    return posed(variant, sizes, dtype_name(call.q, "q"), {"scale": scale})


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
