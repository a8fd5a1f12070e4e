"""What a function sees besides its arguments, and the way from the function to each of it.

A way is followed again in the function of each call, so that a tensor there is the one that is read.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from numbers import Number
from typing import Any, TypeAlias

from .refusals import Untraceable

Step: TypeAlias = tuple[str, Any]
Path: TypeAlias = tuple[Step, ...]
"""Steps by a name that a function sees ("name"), an attribute ("attribute"), an index or a key ("item"), an axis and an
index along it ("select")."""

LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "eintune"} - {"__main__"}
"""Packages whose functions are called as they are."""
COMPOSED = ("and_masks.<locals>.and_mask", "or_masks.<locals>.or_mask")
"""What PyTorch's `and_masks` and `or_masks` make: functions that capture the user's."""


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


def follow(x: Any, path: Path) -> Any:
    """What a way leads to."""
    for kind, step in path:
        match kind:
            case "name":
                x = captured(x)[step]
            case "attribute":
                x = getattr(x, step)
            case "select":
                axis, index = step
                x = x[(slice(None),) * axis + (index,)]
            case _:
                x = x[step]
    return x


def is_entered(x: Any, by: Any) -> bool:
    """Whether the captured tensors of `x`, which `by` captures, become proxies too: a function of the user's."""
    if not isinstance(x, types.FunctionType):
        return False
    module = x.__module__ or ""
    here = module == getattr(by, "__module__", None) or x.__qualname__ in COMPOSED
    return (here or module.partition(".")[0] not in LIBRARIES) and not module.startswith("eintune.space.tracing.")


def is_bound(x: Any) -> bool:
    """Whether it is a function with some of its arguments: a `functools.partial`, a method of an object."""
    return isinstance(x, (functools.partial, types.MethodType))


def is_object(x: Any) -> bool:
    """Whether it is an object of the user's, whose attributes may be tensors."""
    others = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, Number)
    known = isinstance(x, others) or is_tensor(x) or is_bound(x) or isinstance(x, BaseException)
    return not known and hasattr(x, "__dict__")


def items_of(x: Any) -> Iterable[tuple[Any, Any]]:
    """The items of a tuple, a list or a dictionary, by index or key."""
    return x.items() if isinstance(x, Mapping) else enumerate(x)


def letters(key: Any) -> str:
    """An index or a key, as part of a tensor's name."""
    if type(key) is int:
        return f"_{chr(65 + key % 26) * (1 + abs(key) // 26)}"
    return f"_{key}" if isinstance(key, str) else "_X"
