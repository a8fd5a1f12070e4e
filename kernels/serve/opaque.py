"""Calls that PyTorch's tools do not look into. Where one records or transforms what runs, the call is made as one of an
operator (`RECORDED`, which `kernels/operators` fills); else what is served runs as ever, and no tool sees it.

PyTorch's own way, `torch.compiler.disable`, imports the compiler, which takes longer than PyTorch itself; so it is
taken once something else has imported that.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from .errors import UnsupportedArgument
from .recorders import check_recorders, is_recording, is_wrapped, recorded_call, refuse_scripting

F = TypeVar("F", bound=Callable[..., Any])
COMPILER = "torch._dynamo"

RECORDED: dict[str, Callable[..., Any]] = {}
"""name of a function -> the same call, made as one of an operator. It may be read by PyTorch's compiler."""

_disabled: dict[Any, Callable[..., Any]] = {}
_looking: Callable[[], object]
"""What gives what looks at the frames that this thread runs, PyTorch's compiler, or None."""
try:
    from torch._C._dynamo.eval_frame import get_eval_frame_callback as _looking
except ImportError:  # a PyTorch that does not say

    def _looking() -> object:
        return COMPILER


def opaque(function: F) -> F:
    """The function, as one that PyTorch's compiler calls and does not trace."""
    name = f"eintune.{function.__qualname__.removesuffix('.__call__')}"

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return _recorded(name, function)(*args, **named)
        if is_recording() and check_recorders(name):
            return _recorded(name, function)(*args, **named)
        try:
            if _looking() is not None and COMPILER in sys.modules:
                return _without_compiler(function)(*args, **named)
            return function(*args, **named)
        except UnsupportedArgument:
            if name in RECORDED and is_wrapped(args, named):
                return RECORDED[name](*args, **named)
            if (made := recorded_call(call, args, named)) is None:
                raise
            return made

    marked: Any = call
    marked.__prepare_scriptable__ = refuse_scripting(name)
    _skip(call)
    return call  # type: ignore[return-value]


def hidden(function: F) -> F:
    """The function, as one that PyTorch's compiler does not look into, where a kernel of PyTorch's calls it."""

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if _looking() is not None and COMPILER in sys.modules:
            return _without_compiler(function)(*args, **named)
        return function(*args, **named)

    _skip(call)
    return call  # type: ignore[return-value]


def _recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return RECORDED[name] if name in RECORDED else _without_compiler(function)


def _without_compiler(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which no compiler sees, nor what it calls."""
    known = _disabled.get(function)
    if known is None:
        known = _disabled[function] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return known


def _skip(function: Any) -> None:
    """Spare the compiler a look at this frame, without importing it; a PyTorch that has this by other names looks."""
    with contextlib.suppress(ImportError, AttributeError, TypeError):
        from torch._C._dynamo import eval_frame

        c: Any = eval_frame
        c.set_code_exec_strategy(function.__code__, c._FrameExecStrategy(c._FrameAction.SKIP, c._FrameAction.DEFAULT))
