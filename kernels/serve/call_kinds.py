"""What of a call's arguments decides how it is served: shapes and types, and of a function what it computes.

A function is known by its code and by what it sees besides its arguments, tensors by their shapes and by which names
are one tensor. Where what it sees can change in place (a list, an object's attributes, a random draw), the function is
traced at each call, and known by what it comes to.
"""

from __future__ import annotations

import builtins
import functools
import math
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Number
from opcode import opmap
from typing import Any

import torch
from torch import Tensor

from eintune.space.cascade.holes import Opened, opened
from eintune.space.ir.expr import Expr, Rank, reads
from eintune.space.tracing.captures import captured, is_bound, is_entered, is_tensor, names_in
from eintune.space.tracing.names import BINARY, CLAMPS, COMPARISONS, FILLED, LOGIC, UNARY
from eintune.space.tracing.refusals import Untraceable
from eintune.space.tracing.site import Site
from eintune.space.tracing.trace import Trace
from eintune.space.workloads.function_modifiers import traced

from .errors import UnsupportedArgument
from .plain_tensors import kind_of_tensor

SETTLED = (bool, int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device, torch.Size)
"""Of what has exactly one of these types nothing changes in place."""
STEADY = frozenset(
    {
        *UNARY,
        *BINARY,
        *CLAMPS,
        *COMPARISONS,
        *LOGIC,
        *FILLED,
        "bool",
        "where",
        "pow",
        "square",
        "nn",
        "functional",
        "special",
        "space",
    }
    | {"tracing", "pi", "inf", "e", "nan", "shape", "ndim", "dtype", "device", "int", "long", "float", "double", "half"}
    | {"bfloat16", "to", "type_as", "tensor", "torch", "eintune", "math"}
)
"""What PyTorch and this package mean by these names does not change, and no other is taken for that."""
OF_MATH = frozenset(dir(math))
CALCULATE = frozenset(
    {"abs", "all", "any", "bool", "divmod", "enumerate", "float", "int", "isinstance", "len", "list", "map", "max"}
    | {"min", "pow", "range", "reversed", "round", "sorted", "str", "sum", "tuple", "zip"}
)
"""Builtins that depend on what they are given and on nothing else."""
IMPORT = opmap["IMPORT_NAME"]
CHANGING = object()
"""Stands for what may change in place."""


def kind(name: str, x: Any) -> Any:
    """What of an argument that is no function decides how it is served: not the numbers in a tensor. Raises
    UnsupportedArgument for what has no kind."""
    if type(x) is int or type(x) is bool:
        return type(x), x
    if isinstance(x, (tuple, list)) and len(x) == 2 and all(isinstance(y, Tensor) for y in x):
        return tuple(kind_of_tensor(name, y) for y in x)
    if isinstance(x, Tensor):
        return kind_of_tensor(name, x)
    if not isinstance(x, (Number, str)):
        got = type(x).__name__
        raise UnsupportedArgument(f"`{name}` must be a number, a tensor or a pair of tensors, but got {got}")
    return type(x), float.__repr__(x) if isinstance(x, float) else x


@dataclass(frozen=True)
class Meaning:
    """What tracing a function gives at one call."""

    opened: Opened
    trace: Trace

    @property
    def kind(self) -> Any:
        """A key for all of the meaning but the plain numbers that the function captures."""
        tensors = ((name, kind_of_tensor(name, t), axes) for name, (t, axes) in self.trace.tensors.items())
        paths = tuple(self.trace.paths.items())
        return self.opened.skeleton, self.opened.whole, tuple(tensors), tuple(self.trace.lengths.items()), paths


@dataclass(frozen=True)
class Written:
    """What a function came to when it was traced, in the function's place: another process may have traced it. made: an
    expression of the score at the site. axes: those of the tensors that it reads, as a trace has them."""

    made: Expr
    site: Site
    axes: Mapping[str, str]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def kind(self) -> Any:
        tensors = ((name, kind_of_tensor(name, t), self.axes[name]) for name, t in self.tensors.items())
        return Written, self.made, self.site, tuple(tensors)

    def meaning(self, argument: str, site: Site) -> Meaning:
        if site != self.site:
            raise Untraceable(f"`{argument}` was traced for heads {self.site.heads}, but they are {site.heads} here")
        tensors = {name: (t, self.axes[name]) for name, t in self.tensors.items()}
        return Meaning(opened(self.made), Trace(None, tensors, self._lengths()))

    def _lengths(self) -> dict[Rank, int]:
        """Of the tensors' own axes."""
        found: dict[Rank, int] = {}
        for x in reads([self.made]):
            axes = self.axes[x.tensor.name]
            own = [own for a in axes for own in (a == "*",) * (len(self.site.heads) if a == "h" else 1)]
            lengths = [n for a, n in zip(axes, self.tensors[x.tensor.name].shape, strict=True) if a == "*"]
            found |= zip((r for r, is_own in zip(x.tensor.ranks, own, strict=True) if is_own), lengths, strict=True)
        return found


def meaning(argument: str, function: Callable[..., Any] | Written, site: Site) -> Meaning:
    """Of the function given as `argument`, "score_mod" or "mask_mod". Raises Untraceable."""
    if isinstance(function, Written):
        return function.meaning(argument, site)
    made, trace = traced(argument, function, site)
    if torch.is_grad_enabled() and any(getattr(t, "requires_grad", False) for t in trace.elements):
        raise UnsupportedArgument(
            "a single number that a function reads of a tensor has no gradient: give the tensor an axis that heads or "
            "positions address, or detach it"
        )
    for name, (t, _) in trace.tensors.items():
        if not isinstance(t, Tensor):
            raise Untraceable(f"what a function reads must be a torch.Tensor, but {name[2:].lower()} is {type(t)!r}")
    return Meaning(opened(made), trace)


def steady_kind(function: Any) -> tuple[Any, bool]:
    """What a function is known by, and whether that is all: else what it sees may change in place. Raises Untraceable
    for what is no function that can be traced."""
    if type(function) is Written:
        return function.kind, True
    try:
        known = _Sight().of(function)
        return known, not any(part is CHANGING for part in _leaves(known))
    except RecursionError:
        raise Untraceable("a traced function captures tuples and functions nested too deeply") from None


def seen_numbers(function: Any) -> tuple[bool, str]:
    """Whether a function sees nothing at all besides its arguments, and a name for what it sees that is neither a
    tensor nor the same for ever, or ""."""
    if function.__defaults__ or function.__kwdefaults__:
        return False, "default values of its arguments"
    alone = True
    for name, x in captured(function).items():
        if is_tensor(x):
            alone = False
        elif type(x) is types.FunctionType and not _is_ours(x):
            inner, numbers = seen_numbers(x)
            alone = alone and inner
            if numbers:
                return False, numbers
        elif not _is_ours(x):
            return False, name
    return alone, "" if steady_kind(function)[1] else "what may change"


def kind_of_function(argument: str, function: Any, site: Site) -> tuple[Any, Meaning | None]:
    """What a function is known by; its meaning where that has to be asked for at each call. Raises as `steady_kind`."""
    known, is_all = steady_kind(function)
    if is_all:
        return known, None
    comes_to = meaning(argument, function, site)
    return (known, comes_to.kind, tuple(map(repr, comes_to.opened.numbers))), comes_to


class _Sight:
    """What a function sees, as a key. Tensors and functions are numbered as they are met, so that two functions whose
    names lead to one tensor here and to two there are of two kinds."""

    def __init__(self) -> None:
        self._met: dict[int, tuple[int, Any]] = {}

    def of(self, function: Any, entered: bool = True) -> Any:
        """Code, defaults, and what the function captures. entered: whether tracing reads its tensors by name."""
        if isinstance(function, functools.partial):
            self._number(function)
            given = (function.func, function.args, *sorted(function.keywords.items()))
            return functools.partial, tuple(self._captured(x, function.func, entered) for x in given)
        if not isinstance(function, types.FunctionType):  # of an object, whose attributes may change
            return type(function), CHANGING
        seen = captured(function)
        self._number(function)
        given = (*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items()))
        odd = bool(function.__dict__) or _looks_around(function.__code__, tuple(seen))
        return (
            function.__code__,
            CHANGING if odd or (_from_packages(seen) and _is_unsteady(function.__code__, tuple(seen))) else None,
            tuple(self.inside(x) for x in given),
            tuple((name, self._captured(x, function, entered)) for name, x in seen.items()),
        )

    def _number(self, x: Any) -> int:
        """How many tensors and functions were met before this one."""
        return self._met.setdefault(id(x), (len(self._met), x))[0]

    def _captured(self, x: Any, by: Any, entered: bool) -> Any:
        """What a name of a function stands for: a tensor is read at each call, and so are those of functions beside."""
        if isinstance(x, Tensor) and entered:
            return kind_of_tensor("a captured tensor", x), self._number(x)
        if type(x) is tuple:
            return tuple, tuple(self._captured(y, by, entered) for y in x)
        if is_bound(x) and not _is_ours(x):
            return self._number(x) if id(x) in self._met else self.of(x, entered)
        if type(x) is types.FunctionType and not _is_ours(x):
            return self._number(x) if id(x) in self._met else self.of(x, entered and is_entered(x, by))
        return self.inside(x)

    def inside(self, x: Any) -> Any:
        """What does not have a name of its own: a tensor there becomes the number that it holds."""
        if type(x) in SETTLED:
            return type(x), repr(x) if type(x) in (float, complex) else x  # -0.0 is 0.0, and NaN is not NaN
        if type(x) in (tuple, frozenset):
            return type(x), tuple(map(self.inside, x))
        return x if not is_tensor(x) and _is_ours(x) else CHANGING


def _is_ours(x: Any) -> bool:
    """Whether it is a module or a function that means the same for ever: Python's, PyTorch's or this package's."""
    if isinstance(x, types.ModuleType):
        return x in (torch, torch.nn, torch.nn.functional, torch.special) or x.__name__ in (
            "math",
            "eintune.space.tracing.proxies",
        )
    if isinstance(x, type):
        return x in (bool, int, float)
    if not isinstance(x, (types.FunctionType, types.BuiltinFunctionType)):
        return False
    holder = getattr(x, "__self__", None)
    if not (holder is None or isinstance(holder, (types.ModuleType, type))):
        return False  # the method of an object
    package = (getattr(x, "__module__", None) or "").partition(".")[0]
    named = x.__name__ in STEADY and (not isinstance(x, types.FunctionType) or not x.__closure__)
    return package == "math" or (package in ("torch", "eintune") and named)


def _from_packages(seen: dict[str, Any]) -> bool:
    return any(isinstance(x, types.ModuleType) for x in seen.values())


@lru_cache(maxsize=1024)
def _is_unsteady(code: types.CodeType, seen: tuple[str, ...]) -> bool:
    """Whether a function asks a module for what may change: `torch.rand`, or what somebody has put there."""
    steady = STEADY | OF_MATH | CALCULATE
    return any(n.rstrip("_") not in steady and n not in seen for n in names_in(code))


@lru_cache(maxsize=1024)
def _looks_around(code: types.CodeType, seen: tuple[str, ...]) -> bool:
    """Whether a function imports, or asks a builtin for what is not among its arguments."""
    names = (n for n in names_in(code) if n not in seen and n not in STEADY)
    return _imports(code) or any(hasattr(builtins, n) and n not in CALCULATE for n in names)


def _imports(code: types.CodeType) -> bool:
    within = (x for x in code.co_consts if isinstance(x, types.CodeType))
    return IMPORT in code.co_code[::2] or any(map(_imports, within))


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, tuple):
        for y in x:
            yield from _leaves(y)
    else:
        yield x
