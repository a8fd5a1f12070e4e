"""What calls of packed and of paged attention take: options as one value, and what must hold of tensors.

Each check raises UnsupportedArgument with the rule, the value and the valid options.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from eintune.kernels.serve.attention import checked_mode
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.kernels.serve.plain_tensors import check_plain
from eintune.kernels.serve.serving import dtype_name
from eintune.space.ir.dtypes import FLOATS
from eintune.space.workloads.modifiers import Softcap, check_reach

from .lengths import FARTHEST, Reach

Causal: TypeAlias = bool | Literal["lower_right", "top_left"]
Rule: TypeAlias = tuple[str, Any]
"""What must hold, and whether it does: a condition on symbols where a compiler asks."""

MOST_PLACES = 2**24
"""Keys that a float32 number counts."""


@dataclass(frozen=True)
class Options:
    """A call's arguments that are no tensors. standard: ALiBi by the published slopes. lse: whether it is returned."""

    reach: Reach = field(default_factory=Reach)
    scale: float | None = None
    softcap: float | None = None
    standard: bool = False
    lse: bool = False


@functools.lru_cache(maxsize=1024, typed=True)
def options(
    causal: object, scale: object, window: object, window_size: object, softcap: object, standard: bool, lse: object
) -> Options:
    """Raises UnsupportedArgument. Only for arguments that are hashable."""
    try:
        if causal not in (None, False, True, "lower_right", "top_left"):
            raise ValueError(f"`causal` must be False, True, 'lower_right' or 'top_left', but got {causal!r:.80}")
        if lse is not True and lse is not False:
            raise ValueError(f"`return_lse` must be True or False, but got {type(lse).__name__}")
        before, beyond = _reach(window, window_size)
        if causal:
            beyond = 0
        if softcap is not None:
            Softcap(softcap)  # type: ignore[arg-type]
        number = checked_mode(False, scale)[1]
    except UnsupportedArgument:
        raise
    except ValueError as error:
        raise UnsupportedArgument(str(error)) from error
    cap = None if softcap is None else float(softcap)  # type: ignore[arg-type]
    return Options(Reach(before, beyond, causal == "top_left"), number, cap, standard, lse)


def _reach(window: object, window_size: object) -> tuple[int | None, int | None]:
    if window is not None:
        if window_size not in (None, (-1, -1)):
            raise ValueError("`window` and `window_size` are two ways to say one thing: give one of them")
        check_reach("window", window)
        assert isinstance(window, int)
        return window - 1, None
    if window_size is None:
        return None, None
    pair = window_size if isinstance(window_size, tuple) else ()
    if len(pair) != 2 or any(type(n) is not int for n in pair):
        raise ValueError(
            f"`window_size` must be (left, right), whole numbers of keys or -1 for all, but got {window_size!r:.80}"
        )
    before, beyond = (None if n < 0 else n for n in pair)
    return before, beyond


# ---- tensors


def check_every(**tensors: Tensor | None) -> None:
    """Before anything else is asked of them."""
    for name, t in tensors.items():
        if t is not None and not isinstance(t, Tensor):
            raise UnsupportedArgument(f"`{name}` must be a torch.Tensor, but got {type(t).__name__}")
        if t is not None:
            check_plain(name, t)


def check_floats(axes: tuple[str, ...], q: Tensor, named: dict[str, Tensor]) -> None:
    """Keys and values, by name, beside queries."""
    for name, t in named.items():
        if t.ndim != len(axes):
            raise UnsupportedArgument(
                f"`{name}` must have {len(axes)} axes ({', '.join(axes)}), but its shape is {tuple(t.shape)}"
            )
    for name, t in {"q": q, **named}.items():
        if t.dtype != q.dtype or t.device != q.device:
            raise UnsupportedArgument(
                f"`{name}` must have the dtype and device of `q` ({q.dtype} on {q.device}), but is {t.dtype} on "
                f"{t.device}"
            )
        try:
            dtype_name(t, name, FLOATS)
        except ValueError as error:
            raise UnsupportedArgument(str(error)) from None


def check_integers(name: str, t: Tensor, axes: int, q: Tensor) -> None:
    if t.ndim != axes or t.dtype not in (torch.int32, torch.int64) or t.device != q.device:
        raise UnsupportedArgument(
            f"`{name}` must be an int32 or int64 tensor of {axes} axes on {q.device}, but got {t.dtype} of shape "
            f"{tuple(t.shape)} on {t.device}"
        )


def check_by_head(name: str, t: Tensor, q: Tensor) -> None:
    if t.ndim != 1 or not t.is_floating_point() or t.device != q.device:
        raise UnsupportedArgument(
            f"`{name}` must be a floating-point tensor of shape (heads,) on {q.device}, but got {t.dtype} of shape "
            f"{tuple(t.shape)} on {t.device}"
        )


def check_varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, used: Tensor | None) -> None:
    """What is known before a program runs, whatever the sizes are."""
    axes = ("total", "heads", "head_dim")
    check_floats(axes, q, {"q": q, "k": k, "v": v})
    for name, t in (("cu_seq_q", cu_q), ("cu_seq_k", cu_k), ("seqused_k", used)):
        if t is not None:
            check_integers(name, t, 1, q)


def check_paged(q: Tensor, k: Tensor, v: Tensor, table: Tensor, used: Tensor, cu_q: Tensor | None) -> None:
    """As `check_varlen`."""
    check_floats(("blocks", "block_size", "kv_heads", "head_dim"), q, {"k_cache": k, "v_cache": v})
    if q.ndim not in (3, 4) or (cu_q is not None and q.ndim == 4):
        beside = " beside `cu_seq_q`" if cu_q is not None else ""
        raise UnsupportedArgument(
            "`q` must have the axes (batch, queries, heads, head_dim), or (total, heads, head_dim) with `cu_seq_q`, "
            f"but its shape is {tuple(q.shape)}{beside}"
        )
    check_integers("block_table", table, 2, q)
    check_integers("cache_seqlens", used, 1, q)
    if cu_q is not None:
        check_integers("cu_seq_q", cu_q, 1, q)


def of_varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, used: Tensor | None) -> Iterator[Rule]:
    """What must hold of the sizes."""
    yield f"`k` and `v` must agree in total and heads, but got {_shapes(k, v)}", k.shape[0] == v.shape[0]
    yield f"`k` and `v` must agree in total and heads, but got {_shapes(k, v)}", k.shape[1] == v.shape[1]
    yield from _of_heads(q, k, v)
    lengths = f"{_shapes(cu_q, cu_k)}"
    yield f"`cu_seq_q` and `cu_seq_k` must have sequences + 1 elements, but got {lengths}", cu_q.shape[0] > 0
    yield (
        f"`cu_seq_q` and `cu_seq_k` must have sequences + 1 elements each, but got {lengths}",
        cu_q.shape[0] == cu_k.shape[0],
    )
    if used is not None:
        said = f"`seqused_k` must have an element for each sequence of {_shapes(cu_q)}, but got {_shapes(used)}"
        yield said, used.shape[0] + 1 == cu_q.shape[0]


def of_paged(q: Tensor, k: Tensor, v: Tensor, table: Tensor, used: Tensor, cu_q: Tensor | None) -> Iterator[Rule]:
    """As `of_varlen`."""
    for axis in range(3):
        said = f"`k_cache` and `v_cache` must agree in blocks, block_size and kv_heads, but got {_shapes(k, v)}"
        yield said, k.shape[axis] == v.shape[axis]
    yield f"`k_cache` must have a block_size of at least 1, but got {_shapes(k)}", k.shape[1] > 0
    yield from _of_heads(q, k, v)
    said = f"`block_table` and `cache_seqlens` must agree in batch, but got {_shapes(table, used)}"
    yield said, table.shape[0] == used.shape[0]
    if cu_q is not None:
        said = f"`cu_seq_q` must have batch + 1 elements, but got {_shapes(cu_q)} beside `block_table` {_shapes(table)}"
        yield said, cu_q.shape[0] == table.shape[0] + 1
    else:
        without = "; queries of several lengths need `cu_seq_q`" if q.ndim == 3 else ""
        said = f"`q` and `block_table` must agree in batch, but got {_shapes(q, table)}{without}"
        yield said, q.shape[0] == table.shape[0]


def check_places(k: Tensor, table: Tensor | None = None) -> None:
    """When a program runs, as a compiler would take the limit for one of its own."""
    places = k.shape[0] if table is None else table.shape[0] * table.shape[1] * k.shape[1]
    if places > FARTHEST:
        named = _shapes(k) if table is None else f"{_shapes(table)} blocks of {k.shape[1]}"
        raise UnsupportedArgument(f"a call must have room for at most 2**30 keys, but got {named}")


def check_rules(rules: Iterable[Rule]) -> None:
    for said, holds in rules:
        if not holds:
            raise UnsupportedArgument(said)


def of_by_head(name: str, t: Tensor, q: Tensor) -> Rule:
    return f"`{name}` must have shape (heads,) beside {_shapes(q)}, but got {_shapes(t)}", t.shape[0] == q.shape[-2]


def _of_heads(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Rule]:
    heads, kv_heads = q.shape[-2], k.shape[-2]
    yield f"queries and keys must agree in head_dim, but got {_shapes(q, k)}", q.shape[-1] == k.shape[-1]
    said = f"heads of `q` must be a multiple of those of keys, but got {_shapes(q, k)}"
    yield said, kv_heads == 0 or heads % kv_heads == 0
    said = f"head_dim must be 1 to 512, but got {_shapes(q, v)}"
    yield said, 0 < q.shape[-1] <= 512
    yield said, 0 < v.shape[-1] <= 512


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(str(tuple(t.shape)) for t in tensors)
