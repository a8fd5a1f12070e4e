"""Tracing a function of the user's: its captured tensors become proxies, and it is run once (see `tracing`)."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Number
from typing import Any

from eintune.space.ir.expr import Expr, Rank

from .conditions import Condition
from .proxies import Captured, Position, Seen, Traced, condition_of, expression_of, position_terms
from .record import AXES, TraceRecord, Untraceable, refuse
from .site import Site


@dataclass(frozen=True)
class Trace:
    """A traced function. tensors: name to (the tensor, its axes), in the order of use; lengths: of their own axes;
    elements: tensors without axes that became numbers, since no name of their own leads to them."""

    result: Any
    tensors: Mapping[str, tuple[Any, str]]
    lengths: Mapping[Rank, int]
    elements: Sequence[Any] = ()


def trace_score(function: Callable[..., Any], score: Expr, site: Site) -> tuple[Expr, Trace]:
    """The changed score. Raises Untraceable for a construct that has no expression."""
    record = TraceRecord(site, "US")
    result = _run(function, record, (Traced(record, score), *_positions(record)))
    if isinstance(result, Seen) or not isinstance(result, (Traced, int, float)):
        refuse(f"a result that is {_said(result)}", "a score function returns the changed score")
    return expression_of(result), Trace(result, record.tensors, record.lengths(), record.elements)


def trace_mask(function: Callable[..., Any], site: Site) -> tuple[Condition, Trace]:
    """The condition. Raises Untraceable for a construct that has no expression."""
    record = TraceRecord(site, "UM", "u")
    result = _run(function, record, tuple(_positions(record)))
    if not isinstance(result, (Seen, bool)):
        refuse(f"a result that is {_said(result)}", "a mask function returns a comparison, or several by & and |")
    return condition_of(result), Trace(result, record.tensors, record.lengths(), record.elements)


def _said(result: Any) -> str:
    return "a condition" if isinstance(result, Seen) else "a value" if isinstance(result, Traced) else repr(result)


def _positions(record: TraceRecord) -> list[Position]:
    return [Position(record, position_terms(record.site, axis)) for axis in AXES]


def _run(function: Callable[..., Any], record: TraceRecord, args: tuple[Any, ...]) -> Any:
    try:
        return _wrapped(function, record, {})(*args)
    except Untraceable:
        raise
    except Exception as error:
        name = getattr(function, "__name__", "the function")
        said = " ".join(str(error).split())[:300]
        raise Untraceable(f"{name} cannot be traced: {type(error).__name__}: {said}") from error


def captured(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function sees besides its arguments: enclosed variables, and globals that its code names."""
    if not isinstance(function, types.FunctionType):
        raise Untraceable(
            f"a traced function must be a Python function, but got a {type(function).__name__} (wrap it in a lambda)"
        )
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    enclosed = {name: _held(name, cell) for name, cell in cells}
    named = {n: function.__globals__[n] for n in names_in(function.__code__) if n in function.__globals__}
    return {**named, **enclosed}


def _held(name: str, cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        raise Untraceable(f"{name}, which a traced function captures, must have a value when it is called") from None


@lru_cache(maxsize=1024)
def names_in(code: types.CodeType) -> tuple[str, ...]:
    """The names that a function's code reads, and the functions that are written within it."""
    within = (n for x in code.co_consts if isinstance(x, types.CodeType) for n in names_in(x))
    return tuple(dict.fromkeys((*code.co_names, *within)))


def is_tensor(x: Any) -> bool:
    looks = all(hasattr(x, name) for name in ("shape", "dtype", "__getitem__", "__array__"))
    return looks and not isinstance(x, Number)  # NumPy's numbers look like its arrays


def is_entered(x: Any, by: Callable[..., Any]) -> bool:
    """Whether the captured tensors of `x`, which `by` captures, become proxies too: a function of the same module."""
    here = isinstance(x, types.FunctionType) and x.__module__ == by.__module__
    return here and x.__module__ != Traced.__module__


def _wrapped(function: Callable[..., Any], record: TraceRecord, done: dict[Any, Any]) -> Callable[..., Any]:
    """The function with its captured tensors as proxies, and the functions that it captures likewise."""
    if function in done:
        return done[function]  # type: ignore[no-any-return]
    seen = captured(function)
    assert isinstance(function, types.FunctionType)
    done[function] = function

    def proxy(name: str, x: Any) -> Any:
        if is_tensor(x):
            return Captured(record, name, x)
        if isinstance(x, Number) and hasattr(x, "item"):
            return x.item()  # NumPy's, as Python's
        return _wrapped(x, record, done) if is_entered(x, function) else x

    proxies = {name: proxy(name, x) for name, x in seen.items()}
    cells = tuple(types.CellType(proxies[n]) for n in function.__code__.co_freevars)
    enclosed = set(function.__code__.co_freevars)
    surroundings = {**function.__globals__, **{n: x for n, x in proxies.items() if n not in enclosed}}
    new = types.FunctionType(function.__code__, surroundings, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__ = function.__kwdefaults__
    done[function] = new
    return new
