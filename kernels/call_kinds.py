"""What of a call's arguments decides how it is served: shapes and types, and of a function what it computes.

A function is known by its code and by what it sees besides its arguments. Where that can change in place (a list, an
object's attributes), the function is traced at each call, and known by what it comes to.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..space.expr import Param
from ..space.modifiers import Site
from ..space.traced_functions import Trace, captured, is_tensor, trace_mask, trace_score
from ..space.tracing import Untraceable

SETTLED = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, types.BuiltinFunctionType)
"""Of what has one of these types nothing changes in place."""
OURS = ("torch", "math", "eintune")
"""Packages whose modules and functions are taken to stay as they are."""
CHANGING = object()
"""Stands for what may change in place."""


def kind(x: Any) -> Any:
    """What of an argument that is no function decides how it is served: not the numbers in a tensor."""
    if isinstance(x, Tensor):
        return x.shape, x.stride(), x.dtype, x.device
    if isinstance(x, (tuple, list)):
        return tuple(map(kind, x))
    return type(x), x


def kind_of_score(function: Any) -> Any:
    """Of a `score_mod`. Raises Untraceable for what is no function that can be traced."""
    return _kind_of(function, lambda: trace_score(function, Param("score"), Site()))


def kind_of_mask(function: Any) -> Any:
    """Of a `mask_mod`. Raises Untraceable for what is no function that can be traced."""
    return _kind_of(function, lambda: trace_mask(function, Site()))


def _kind_of(function: Any, trace: Callable[[], tuple[Any, Trace]]) -> Any:
    known = _seen(function, ())
    if not any(part is CHANGING for part in _leaves(known)):
        return known
    comes_to, traced = trace()
    for name, (t, _) in traced.tensors.items():
        if not isinstance(t, Tensor):
            raise Untraceable(f"what a function reads must be a torch.Tensor, but {name[2:].lower()} is {type(t)!r}")
    return known, comes_to, tuple((name, kind(t), axes) for name, (t, axes) in traced.tensors.items())


def _seen(function: Any, around: tuple[Any, ...]) -> Any:
    """Code, defaults, and what the function captures; `around`: the functions that led here."""
    seen = captured(function)
    within = (*around, function)
    given = (*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items()))
    return (
        function.__code__,
        tuple(_inside(x, within) for x in given),
        tuple((name, _inside(x, within)) for name, x in seen.items()),
    )


def _inside(x: Any, around: tuple[Any, ...]) -> Any:
    if is_tensor(x):
        return kind(x) if isinstance(x, Tensor) else CHANGING
    if isinstance(x, SETTLED):
        return type(x), repr(x) if isinstance(x, float) else x  # -0.0 is 0.0, and NaN is not NaN
    if isinstance(x, (tuple, frozenset)):
        return type(x), tuple(_inside(y, around) for y in x)
    if _package(x) in OURS:
        return type(x), id(x)
    if isinstance(x, types.FunctionType):
        return ("within", around.index(x)) if x in around else _seen(x, around)
    return CHANGING


def _package(x: Any) -> str:
    """Of a module or of a function, "" for anything else."""
    name = x.__name__ if isinstance(x, types.ModuleType) else getattr(x, "__module__", None) if callable(x) else None
    return name.partition(".")[0] if isinstance(name, str) else ""


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, tuple):
        for y in x:
            yield from _leaves(y)
    else:
        yield x
