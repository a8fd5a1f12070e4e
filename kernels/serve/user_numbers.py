"""Numbers that functions of the user's capture: constants while they stay, what a kernel is given once they change.

A constant may fold and bound what is derived, so a function starts with constants. Where a later call comes to the same
with other numbers, those are given to the kernel from then on: a number among values as a tensor without axes, one that
a filter compares positions with as a size. So a temperature that changes at each call costs a derivation twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from eintune.host.recent import Recent
from eintune.space.cascade.holes import closed, names, ranks
from eintune.space.ir.expr import Where, topological
from eintune.space.workloads.function_modifiers import MaskOutcome, Outcome, ScoreOutcome, dtype_of
from eintune.space.workloads.modifiers import FARTHEST, WIDE

from .call_kinds import Meaning
from .errors import UnsupportedArgument
from .serving import MOST_READY

LETTERS = {"score_mod": ("S", "c"), "mask_mod": ("M", "d")}
"""What the names of a function's numbers have: of tensors, and of sizes."""

Changing = Mapping[str, frozenset[int]]
"""argument -> the holes of its function whose numbers change from call to call."""

_seen: Recent[Any, tuple[dict[str, tuple[float | int, ...]], Changing]] = Recent(MOST_READY)


def changing_numbers(family: Any, meanings: Mapping[str, Meaning]) -> Changing:
    """The numbers that are not what they were at the first call of a family, or were not at some call since."""
    numbers = {n: m.opened.numbers for n, m in meanings.items()}
    first, changing = _seen.get(family) or (numbers, {n: frozenset() for n in numbers})
    now = {n: changing[n] | _differing(first[n], given) for n, given in numbers.items()}
    _seen[family] = first, now
    return now


def _differing(first: tuple[float | int, ...], now: tuple[float | int, ...]) -> frozenset[int]:
    return frozenset(i for i, (a, b) in enumerate(zip(first, now, strict=True)) if repr(a) != repr(b))


def constant_numbers(meanings: Mapping[str, Meaning], changing: Changing) -> Any:
    """What a kernel is made for: all numbers but those that tensors hold."""
    return tuple(
        (n, changing[n], tuple(None if i in changing[n] - m.opened.whole else repr(x) for i, x in _numbered(m)))
        for n, m in meanings.items()
    )


def _numbered(m: Meaning) -> enumerate[float | int]:
    return enumerate(m.opened.numbers)


def outcome(argument: str, m: Meaning, changing: frozenset[int]) -> Outcome:
    """The modifier of a function."""
    letter, rank = LETTERS[argument]
    given = names(m.opened, changing, letter).values()
    lengths = {r: int(m.opened.numbers[n]) for n, r in ranks(m.opened, changing, rank).items()}
    made = ScoreOutcome if argument == "score_mod" else MaskOutcome
    return made(
        closed(m.opened, changing, letter, rank),
        {name: axes for name, (_, axes) in m.trace.tensors.items()} | dict.fromkeys(given, ""),
        {name: dtype_of(name, t) for name, (t, _) in m.trace.tensors.items()} | dict.fromkeys(given, WIDE),
        {**m.trace.lengths, **lengths},
    )


def check_filters(argument: str, m: Meaning, sizes: Mapping[str, int]) -> None:
    """Raise UnsupportedArgument where a filter on positions goes beyond the 32 bits in which a kernel counts."""
    for x in topological([closed(m.opened, (), *LETTERS[argument])]):
        if isinstance(x, Where):
            p = x.predicate
            most = abs(p.const) + sum(abs(t.coef) * sizes[t.rank] * sizes.get(t.stride or "", 1) for t in p.terms)
            if most > FARTHEST:
                raise UnsupportedArgument(f"{argument} compares positions with numbers beyond {FARTHEST}")


def number_views(argument: str, m: Meaning, changing: frozenset[int], q: Tensor) -> dict[str, Any]:
    """The tensors that hold numbers, made once for each that a function was called with."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return {
        name: partial(_held, torch.full((), m.opened.numbers[n], dtype=dtype, device=q.device))
        for n, name in names(m.opened, changing, LETTERS[argument][0]).items()
    }


def _held(t: Tensor, arguments: object) -> Tensor:
    return t
