"""PyTorch's attention kernels, called where they were measured to be faster: what they take, and how they are called.

A library is called for no more than what its kernel computes as ours does: softmax attention without a filter, or
causal over as many queries as keys, where every query sees a key. There NaN, inf and large scores come out alike (a
test compares them). Left to our kernels are: modifiers, log-sum-exps, masks (of a row that sees nothing some libraries
make NaN), lengths that differ under a causal mask (theirs are aligned one way), scales that were not measured, queries
that are not contiguous (theirs lay out the result like the queries), and calls of which a gradient is recorded: our
backward reads what our forward leaves.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable
from hashlib import sha256
from typing import TypeAlias

import torch
from torch import Tensor

from eintune.host.notices import one_line, say_once
from eintune.kernels.store.cache import Cache, Key
from eintune.kernels.store.platform import platform_of
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.attention import CausalMode, attention_problem

from .fastest import Faster, fastest_known
from .policy import calls_libraries, still_calls_libraries

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, bool, float], Tensor]
"""Of q, k, v, whether it is causal, and the scale."""
Run: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
FIXED = ("e", "f", "g")
"""Head dims and the query heads of a key head: kernels are others at each."""


# Operators of PyTorch's, and not its function: that looks at settings of the process which a program changes for calls
# of its own, and to hold them would change them for other threads.


def _cpu(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
    made: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)[0]
    return made


def _cudnn(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
    operator = torch.ops.aten._scaled_dot_product_cudnn_attention
    made: Tensor = operator(q, k, v, None, False, 0.0, causal, False, scale=scale)[0]
    return made


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
    made: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)[0]
    return made


LIBRARIES: dict[str, dict[str, Attend]] = {
    "cpu": {"sdpa": _cpu},
    "cuda": {"sdpa-cudnn": _cudnn, "sdpa-flash": _flash},
}
"""What may be called on a device, by the name of the peer that was timed. Not among them: PyTorch's own choice on a
GPU, which is one of these; its memory-efficient kernel, whose result is not contiguous; its plain operators, which take
a NaN among keys to queries that do not see it; what is compiled at its first call."""


def libraries_for(key: Key) -> dict[str, Attend]:
    """The libraries that take a problem, by its key; none where its definition is not one of theirs."""
    causal, sizes, (scale,) = is_causal(key.cascade), dict(key.sizes), (*dict(key.params).values(), 0.0)[:1]
    if causal is None or sizes["e"] != sizes["f"] or (causal and sizes["p"] != sizes["m"]) or not scale > 0:
        return {}
    return LIBRARIES[key.device]


def is_causal(digest: str) -> bool | None:
    """Whether a definition (its digest) is causal attention; False: attention without a filter, None: neither."""
    return _definitions().get(digest)


@functools.cache
def _definitions() -> dict[str, bool]:
    modes: tuple[CausalMode, ...] = (None, "top_left", "lower_right")
    return {
        sha256(_small(mode, heads).cascade.encode()).hexdigest(): mode is not None for mode in modes for heads in (1, 2)
    }


def _small(mode: CausalMode, heads: int) -> Problem:
    return attention_problem(batch=1, heads=heads, kv_heads=1, seq=8, kv_seq=8, head_dim=8, dtype="fp32", causal=mode)


def by_library(
    problem: Problem, q: Tensor, k: Tensor, v: Tensor, own: Run, about: Hashable
) -> tuple[LibraryRun, Tensor] | None:
    """What serves a problem by a library, after its first run, and what that gave; None where our kernel is to serve.

    own: what serves by our kernel. about: the problem without its sizes, for which it is said once who serves.
    """
    if not calls_libraries() or not _as_measured(q, k, v):
        return None
    key = Key.of(problem, platform_of(q.device))
    known = libraries_for(key)
    found = fastest_known(Cache(), key, known, FIXED) if known else None
    if found is None:
        return None
    run = LibraryRun(known[found.library], bool(is_causal(key.cascade)), problem.params["scale"], own)
    try:
        made = run(q, k, v)
        if not made.is_contiguous() or made.shape != q.shape or made.dtype != q.dtype:
            raise ValueError(f"its result has shape {tuple(made.shape)}, strides {made.stride()} and {made.dtype}")
    except Exception as error:
        # It is one more kernel that does not run here: ours does.
        said = f"eintune: {found.library}, which was faster, does not serve {problem.workload}: {one_line(error)}"
        say_once(said, logging.INFO, about=("no library", found.library, type(error), about))
        return None
    say_once(_notice(problem, found), about=("library", found.library, about))
    return run, made


def _as_measured(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether tensors lie in memory as they did when libraries were timed, as far as that changes what comes."""
    rows = q.is_contiguous() and k.stride(3) == 1 and v.stride(3) == 1
    return rows and not (q.is_neg() or k.is_neg() or v.is_neg())


def _notice(problem: Problem, found: Faster) -> str:
    sizes = " ".join(f"{r}={n}" for r, n in problem.sizes.items())
    at = "" if dict(found.sizes) == problem.sizes else " at " + " ".join(f"{r}={n}" for r, n in found.sizes)
    return (
        f"eintune: {problem.workload} {sizes} is served by PyTorch's kernel {found.library}, which was "
        f"{found.times:.2f}x as fast as Eintune's when it was measured{at} (EINTUNE_POLICY=own calls no library)"
    )


class LibraryRun:
    """Serves a kind of call by a library as long as libraries may be called, then by our own kernel."""

    __slots__ = ("_attend", "_causal", "_own", "_scale")

    def __init__(self, attend: Attend, causal: bool, scale: float, own: Run) -> None:
        self._attend, self._causal, self._scale, self._own = attend, causal, scale, own

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not still_calls_libraries():
            return self._own(q, k, v)
        return self._attend(q, k, v, self._causal, self._scale)
