"""Filters and selections of a plan: what they pass on where their condition holds, and what nobody needs there."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

from .bounds import numbers
from .plan import Loop
from .values import Mask, Store, Value

PASSED = {"where": 0, "select": 1, "rounded": 0}
"""The argument that each operation passes on where its condition holds; "rounded" where nothing is fused anyway."""


def passed(v: Value) -> Value | None:
    """The argument that a filter or a selection equals where its condition holds. None for any other value, and where
    the argument has fewer axes or another dtype, so that it cannot simply take the value's place."""
    if v.op not in PASSED:
        return None
    arg = v.args[PASSED[v.op]]
    # A filter that also broadcasts or converts is not its argument where it holds.
    return arg if (arg.axes, arg.dtype) == (v.axes, v.dtype) else None


def is_true(condition: Value, known: Container[object]) -> bool:
    """Whether a condition follows from conditions that are known to hold."""
    return condition in known or (condition.op == "and" and all(is_true(a, known) for a in condition.args))


def passes(v: Value, known: Container[object]) -> bool:
    """Whether a value equals its `passed` argument given what is `known` to hold: then it need not be evaluated."""
    if passed(v) is None:
        return False
    if v.op == "select":
        return is_true(v.args[0], known)
    return isinstance(v, Mask) and v.predicate in known


def source(v: Value, is_passed: Callable[[Value], bool]) -> Value | None:
    """The value that is left when filters and selections which pass their argument on are looked through, one after the
    other. None where `v` itself is none of these. is_passed: as `passes`."""
    found: Value | None = None
    while is_passed(v) and (kept := passed(v)):
        v = found = kept
    return found


def unneeded(loop: Loop, source_of: Callable[[Value], Value | None]) -> frozenset[Value]:
    """The values of a loop's body that no store, carry or inner loop needs, if users of a value read what `source_of`
    gives for it (None: the value itself)."""
    # Liveness, from the end: stores and carries are needed, then what those read, where a filter that holds reads its
    # argument alone and neither its condition nor the indices in it.
    needed = {c.next for c in loop.carries}
    for item in reversed(loop.body.items):
        if isinstance(item, Loop):
            needed.update(_read(item))
        elif isinstance(item, Store) or item in needed:
            kept = source_of(item)
            needed.update((kept,) if kept else item.args)
    return frozenset(v for v in loop.body.items if not isinstance(v, Loop | Store) and v not in needed)


def _read(loop: Loop) -> Iterator[Value]:
    """All that a loop may read, from its bounds inwards."""
    for segment in loop.segments:
        yield from numbers(segment.lo)
        yield from numbers(segment.hi)
    yield from (c.next for c in loop.carries)
    for item in loop.body.items:
        yield from _read(item) if isinstance(item, Loop) else item.args
