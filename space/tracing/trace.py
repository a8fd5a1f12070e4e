"""Tracing a function of the user's: its captured tensors become proxies, and it is run once (see `tracing`)."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any, NoReturn

from eintune.space.ir.expr import Expr, Rank

from .captures import Path, captured, is_bound, is_entered, is_object, is_tensor, items_of, letters
from .conditions import Condition
from .positions import position_terms
from .proxies import Captured, Position, Seen, Traced, condition_of, expression_of
from .record import AXES, TraceRecord
from .refusals import Untraceable, refuse
from .site import Site


@dataclass(frozen=True)
class Trace:
    """A traced function. tensors: name to (the tensor, its axes), in the order of use; lengths: of their own axes;
    elements: tensors without axes that became numbers, since no name of their own leads to them; paths: the way from
    the function to each tensor."""

    result: Any
    tensors: Mapping[str, tuple[Any, str]]
    lengths: Mapping[Rank, int]
    elements: Sequence[Any] = ()
    paths: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Any, record: TraceRecord) -> Trace:
        return cls(result, record.tensors, record.lengths(), record.elements, record.paths)


def trace_score(function: Callable[..., Any], score: Expr, site: Site) -> tuple[Expr, Trace]:
    """The changed score. Raises Untraceable for a construct that has no expression."""
    record = TraceRecord(site, "US")
    result = _run(function, record, (Traced(record, score), *_positions(record)))
    if isinstance(result, Seen) or not isinstance(result, (Traced, int, float)):
        refuse(f"a result that is {_said(result)}", "a score function returns the changed score")
    return expression_of(result), Trace.of(result, record)


def trace_mask(function: Callable[..., Any], site: Site) -> tuple[Condition, Trace]:
    """The condition. Raises Untraceable for a construct that has no expression."""
    record = TraceRecord(site, "UM", "u")
    result = _run(function, record, tuple(_positions(record)))
    if not isinstance(result, (Seen, bool)):
        refuse(f"a result that is {_said(result)}", "a mask function returns a comparison, or several by & and |")
    return condition_of(result), Trace.of(result, record)


def _said(result: Any) -> str:
    return "a condition" if isinstance(result, Seen) else "a value" if isinstance(result, Traced) else repr(result)


def _positions(record: TraceRecord) -> list[Position]:
    return [Position(record, position_terms(record.site, axis)) for axis in AXES]


def _run(function: Callable[..., Any], record: TraceRecord, args: tuple[Any, ...]) -> Any:
    try:
        return _Entered(record).called(function)(*args)
    except Untraceable:
        raise
    except Exception as error:
        name = getattr(function, "__name__", "the function")
        said = " ".join(str(error).split())[:300]
        raise Untraceable(f"{name} cannot be traced: {type(error).__name__}: {said}") from error


class _Entered:
    """What a function sees with its tensors as proxies, and what that sees likewise."""

    def __init__(self, record: TraceRecord) -> None:
        self._record = record
        self._done: dict[int, Any] = {}

    def called(self, function: Any) -> Callable[..., Any]:
        """What was given as a function: one, or what is called like one. Raises Untraceable for anything else."""
        if isinstance(function, types.FunctionType):
            return self._function(function, ())
        if is_bound(function):
            return self._bound("function", function, ())
        if is_object(function) and callable(function) and isinstance(call := function.__call__, types.MethodType):
            return self._bound("function", call, (("attribute", "__call__"),))
        raise Untraceable(
            f"a traced function must be a function, a method or a partial of one in Python, but got a "
            f"{type(function).__name__} (wrap it in a lambda)"
        )

    def of(self, name: str, x: Any, path: Path, by: Any) -> Any:
        """What `by` sees under a name."""
        if is_tensor(x):
            return Captured(self._record, name, x, path)
        if isinstance(x, Number) and hasattr(x, "item"):
            return x.item()  # NumPy's, as Python's
        if type(x) in (tuple, list, dict):
            made = {k: self.of(name + letters(k), y, (*path, ("item", k)), by) for k, y in items_of(x)}
            same = all(made[k] is y for k, y in items_of(x))
            return x if same else made if type(x) is dict else type(x)(made.values())
        if is_bound(x):
            return self._bound(name, x, path)
        if is_entered(x, by):
            return self._function(x, path)
        return _Object(self, name, x, path, by) if is_object(x) and not isinstance(x, Traced) else x

    def _function(self, function: types.FunctionType, path: Path) -> Callable[..., Any]:
        if id(function) in self._done:
            return self._done[id(function)]  # type: ignore[no-any-return]
        self._done[id(function)] = function
        seen = captured(function)
        proxies = {n: self.of(n, x, (*path, ("name", n)), function) for n, x in seen.items()}
        cells = tuple(types.CellType(proxies[n]) for n in function.__code__.co_freevars)
        enclosed = set(function.__code__.co_freevars)
        surroundings = {**function.__globals__, **{n: x for n, x in proxies.items() if n not in enclosed}}
        defaults = self._given("default", function.__defaults__, (*path, ("attribute", "__defaults__")), function)
        named = self._given("default", function.__kwdefaults__, (*path, ("attribute", "__kwdefaults__")), function)
        new = types.FunctionType(function.__code__, surroundings, function.__name__, defaults, cells)
        new.__kwdefaults__ = named
        self._done[id(function)] = new
        return new

    def _given(self, name: str, x: Any, path: Path, by: Any) -> Any:
        return x if not x else self.of(name, x, path, by)

    def _bound(self, name: str, x: Any, path: Path) -> Callable[..., Any]:
        """A partial of a function, or a method of an object."""
        if isinstance(x, types.MethodType):
            function = self.of(name, x.__func__, (*path, ("attribute", "__func__")), x.__func__)
            if is_object(x.__self__) and is_entered(x.__func__, x.__func__):
                owner = _Object(self, "self", x.__self__, (*path, ("attribute", "__self__")), x.__func__)
                return functools.partial(function, owner)
            return x
        function = self.of(name, x.func, (*path, ("attribute", "func")), x.func)
        args = self.of(name, x.args, (*path, ("attribute", "args")), x.func)
        named = self.of(name, x.keywords, (*path, ("attribute", "keywords")), x.func)
        return functools.partial(function, *args, **named)


class _Object:
    """An object that a function sees: what is read of it is seen as if it had a name of its own."""

    def __init__(self, entered: _Entered, name: str, x: Any, path: Path, by: Any) -> None:
        vars(self).update(_entered=entered, _name=name, _x=x, _path=path, _by=by)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._x, name)
        return self._entered.of(f"{self._name}_{name}", found, (*self._path, ("attribute", name)), self._by)

    def __getitem__(self, key: Any) -> Any:
        found = self._x[key]
        return self._entered.of(self._name + letters(key), found, (*self._path, ("item", key)), self._by)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._entered.of(self._name, self._x.__call__, (*self._path, ("attribute", "__call__")), self._by)(
            *args, **named
        )

    def __len__(self) -> int:
        return len(self._x)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self._x)))

    def __bool__(self) -> bool:
        return bool(self._x)

    def __eq__(self, other: object) -> bool:
        return bool(self._x == (other._x if isinstance(other, _Object) else other))

    def __hash__(self) -> int:
        return hash(self._x)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        refuse(f"an assignment to {self._name}.{name}", "it is run once, and what it changes is not seen")
