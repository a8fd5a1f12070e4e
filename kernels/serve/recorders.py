"""Tools of PyTorch's that record a program to run it later: what a call says to each.

Those that record operators (`torch.compile`, `torch.export`, `make_fx`) have a call as one of an operator of this
package (`opaque`). `torch.fx` records calls of functions, and has it as one; TorchScript asks functions whether they
may be compiled, and is told, and calls objects in Python; `torch.jit.trace` is told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NoReturn, TypeVar

import torch

from .errors import UnsupportedArgument

F = TypeVar("F", bound=Callable[..., Any])

WAY_OUT = "use torch.compile or torch.export, which have it as one operator"
_PROXIES = "torch.fx.experimental.proxy_tensor"

_tracing: Callable[[], object] = torch._C._get_tracing_state
_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_included: Callable[[Any], bool] = torch._C._dispatch_tls_is_dispatch_key_included
_EARLY = torch._C.DispatchKey.PreDispatch


def is_recording() -> bool:
    """Whether a tool may be at work that records operators: in three calls, at every call of a program."""
    return _tracing() is not None or bool(_modes()) or _included(_EARLY)


def check_recorders(name: str) -> bool:
    """Whether a call of what is named is recorded as an operator: not unless `is_recording`. Raises UnsupportedArgument
    where it would be recorded operator by operator."""
    if _tracing() is not None:
        _refuse(name, "torch.jit.trace")
    return _has_proxies()


def is_wrapped(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether an argument is no tensor in memory but one that PyTorch's tools have wrapped, and an operator takes: by
    vmap, grad, functionalization, or a mode that computes shapes alone."""
    stack = _functorch.peek_interpreter_stack() if _functorch is not None else None
    if stack is not None:
        return stack.key().name in ("Vmap", "Grad", "Functionalize")
    fakes: Any = sys.modules.get("torch._subclasses.fake_tensor")
    return fakes is not None and any(isinstance(x, fakes.FakeTensor) for x in _every(chain(args, named.values())))


_functorch: Any = getattr(torch._C, "_functorch", None)


def refuse_scripting(name: str) -> Callable[[], NoReturn]:
    """What TorchScript asks of a function before it compiles it."""
    return lambda: _refuse(name, "torch.jit.script")


def called_by_scripts(method: F) -> F:
    """The `__call__` of a class, as one that functions in TorchScript call at run time: with no types to be read, which
    are texts of this package's that it does not know. It asks an object nothing else before it calls one."""
    method.__annotations__ = {}
    return method


def _refuse(name: str, tool: str) -> NoReturn:
    raise UnsupportedArgument(f"a call of {name} cannot be recorded by {tool}: {WAY_OUT}")


def _has_proxies() -> bool:
    """Whether operators on tensors are recorded as a graph."""
    proxies: Any = sys.modules.get(_PROXIES)
    return proxies is not None and proxies.get_proxy_mode() is not None


def recorded_call(function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The call as one node of a graph of `torch.fx`, where an argument is of one; else None."""
    proxy = next((x for x in _every(chain(args, named.values())) if isinstance(x, torch.fx.Proxy)), None)
    if proxy is None:
        return None
    try:
        return proxy.tracer.create_proxy("call_function", function, args, named)
    except NotImplementedError as error:
        raise UnsupportedArgument(f"torch.fx cannot record a call with this argument: {error}") from error


def _every(args: Iterable[Any]) -> Iterable[Any]:
    for x in args:
        yield from x if isinstance(x, (tuple, list)) else (x,)
