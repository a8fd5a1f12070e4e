"""Calls that `torch.compile` does not look into: it breaks its graph there, and what is served runs as ever. Other
tools that record programs are told, or record one call (`recorders`).

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
from .recorders import WAY_OUT, check_recorders, is_recording, recorded_call, refuse_scripting

F = TypeVar("F", bound=Callable[..., Any])
COMPILER = "torch._dynamo"

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
        if is_recording():
            check_recorders(name)
        try:
            if _looking() is not None and COMPILER in sys.modules:
                return _without_compiler(function)(*args, **named)
            return function(*args, **named)
        except UnsupportedArgument:
            if (made := recorded_call(call, args, named)) is None:
                raise
            return made

    marked: Any = call
    marked._torchdynamo_disable = True  # as `disable` marks it: it is not inlined
    marked._torchdynamo_disable_msg = f"{name} runs kernels of its own: {WAY_OUT}"
    marked.__prepare_scriptable__ = refuse_scripting(name)
    _skip(call)
    return call  # type: ignore[return-value]


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
