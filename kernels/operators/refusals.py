"""Calls that cannot be recorded as an operator: they are left to an eager call, or refused, in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from eintune.kernels.serve.errors import UnsupportedArgument

F = TypeVar("F", bound=Callable[..., Any])


def refuse(reason: str) -> Any:
    """Break the graph of PyTorch's compiler, which then makes the call as it is; raise UnsupportedArgument where
    another tool records."""
    if torch.compiler.is_dynamo_compiling():
        torch._dynamo.graph_break(msg=f"eintune: {reason}")
    raise UnsupportedArgument(reason)


def settled(x: Any) -> Any:
    """A number that a compiler has as a symbol, as it is now: the program is for it alone, and guarded by it."""
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return guard_scalar(x) if isinstance(x, (bool, int, float, torch.SymBool, torch.SymInt, torch.SymFloat)) else x


def must(holds: Any, said: str) -> None:
    """Raise UnsupportedArgument where a condition on sizes does not hold; where that is not known before a program
    runs, it is checked when it does."""
    if holds is False:
        raise UnsupportedArgument(said)
    torch._check(holds, lambda: said)  # type: ignore[no-untyped-call]


def constant_result(function: F) -> F:
    """The function, as one that PyTorch's compiler calls when it compiles and does not read: what
    `torch.compiler.assume_constant_result` does, without importing the compiler."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
