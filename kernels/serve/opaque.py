"""Calls that `torch.compile` does not look into: it breaks its graph there, and what is served runs as ever.

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

F = TypeVar("F", bound=Callable[..., Any])
COMPILER = "torch._dynamo"

_disabled: dict[Any, Callable[..., Any]] = {}


def opaque(function: F) -> F:
    """The function, as one that PyTorch's compiler calls and does not trace."""

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if COMPILER in sys.modules:
            return _without_compiler(function)(*args, **named)
        return function(*args, **named)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]  # as `disable` marks it: it is not inlined
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
