"""Sums of products: which factors belong to which operand of a matrix product."""

from __future__ import annotations

from dataclasses import dataclass

from eintune.space.ir.expr import Expr, Rank
from eintune.space.plan.values import Value


@dataclass(frozen=True)
class Product:
    """A product that is summed over an axis. parts: its factors as expressions. weights: further factors that are
    values already, and 0 in every invalid lane."""

    parts: list[Expr]
    weights: tuple[Value, ...] = ()


def arrange(values: list[Value], axis: Rank | None, order: tuple[Rank, ...]) -> list[list[Value]]:
    """Group factors into operands: two lists if both have axes that the other lacks, else one.

    A factor whose axes another has already joins it (a broadcast multiplication). The operand whose own axes
    come first in the global order is the left one.
    """
    groups: list[list[Value]] = []
    # Largest first, so that smaller factors find a host whose axes contain theirs.
    for v in sorted(values, key=lambda v: -len(v.axes)):
        host = next((g for g in groups if set(v.axes) <= _axes(g)), None)
        if host is None:
            groups.append([v])
        else:
            host.append(v)
    while len(groups) > 2:
        # A product of three or more has to be multiplied out somewhere: where the result is smallest.
        a, b = _closest(groups)
        groups = [g for g in groups if g is not a and g is not b] + [a + b]
    if axis is None and len(groups) == 2:
        return [groups[0] + groups[1]]
    if len(groups) == 2:
        return sorted(groups, key=lambda g: _first_own(g, groups, order))
    return groups


def _axes(group: list[Value]) -> set[Rank]:
    return {q for v in group for q in v.axes}


def _closest(groups: list[list[Value]]) -> tuple[list[Value], list[Value]]:
    """The two groups whose product has the fewest axes."""
    pairs = [(a, b) for i, a in enumerate(groups) for b in groups[i + 1 :]]
    return min(pairs, key=lambda pair: len(_axes(pair[0]) | _axes(pair[1])))


def _first_own(group: list[Value], groups: list[list[Value]], order: tuple[Rank, ...]) -> int:
    others = {q for g in groups if g is not group for q in _axes(g)}
    return min((order.index(q) for q in _axes(group) - others), default=len(order))
