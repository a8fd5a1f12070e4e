"""PyTorch's compiler for peers: what is timed as compiled must be compiled."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from .score_mods import Unavailable

RECOMPILES = 256
"""Shapes a process may compile one function for; beyond PyTorch's own limit it silently runs uncompiled."""
MAX_AUTOTUNE = "max-autotune-no-cudagraphs"

T = TypeVar("T")


def compiled(function: Callable[..., T], mode: str | None = None) -> Callable[..., T]:
    """`function` under torch.compile as one graph of these very shapes.

    Its first call raises Unavailable where nothing was compiled (torch.compile can be switched off by the
    environment), and PyTorch's own error where the function is not one graph.
    """
    _allow_recompiling()
    run: Callable[..., T] = torch.compile(function, dynamic=False, fullgraph=True, mode=mode)
    sure = False

    def call(*arguments: Any) -> T:
        nonlocal sure
        if sure:
            return run(*arguments)
        before = graphs()
        result = run(*arguments)
        if graphs() == before:
            raise Unavailable("torch.compile ran it uncompiled")
        sure = True
        return result

    return call


def graphs() -> int:
    """How many graphs torch.compile has captured in this process."""
    utils: Any = importlib.import_module("torch._dynamo.utils")
    return int(utils.counters["stats"]["unique_graphs"])


def _allow_recompiling() -> None:
    """Beyond the limit torch.compile falls back to eager, which would be timed as if it were compiled."""
    config: Any = importlib.import_module("torch._dynamo.config")
    config.recompile_limit = max(config.recompile_limit, RECOMPILES)
    config.fail_on_recompile_limit_hit = True
