"""Attention for programs: the stored winner for these shapes, behind a call that costs a few microseconds.

This is the only file of the runtime that knows attention; everything below it serves any cascade.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import NoneType
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, overload

import torch
from torch import Tensor

from eintune.host.recent import Recent
from eintune.kernels.libraries.attention import by_library
from eintune.kernels.libraries.policy import forgets
from eintune.space.cascade.problem import Problem
from eintune.space.ir.dtypes import FLOATS
from eintune.space.workloads.attention import attention_problem

from .choices import signature
from .errors import FORWARD_ONLY, NeedsGradient, UnsupportedArgument, unknown_modifiers
from .opaque import RECORDED, opaque
from .plain_tensors import check_plain, is_transformed
from .serving import MOST_READY, Empty, Fill, dtype_name, serve

Causal: TypeAlias = bool | Literal["top_left", "lower_right"]
CAUSAL: dict[Any, Literal["top_left", "lower_right"] | None] = {
    False: None,
    None: None,
    True: "top_left",
    "top_left": "top_left",
    "lower_right": "lower_right",
}

Function: TypeAlias = Callable[..., Any]


class Modifiers(TypedDict, total=False):
    """What `attention` takes besides, by name; None is as if it were not given."""

    head_scale: Tensor | None
    softcap: float | None
    alibi: Tensor | bool | None
    bias: Tensor | None
    relative_bias: Tensor | None
    score_mod: Function | None
    window: int | None
    window_both: bool | None
    prefix: int | None
    documents: Tensor | tuple[Tensor, Tensor] | None
    mask: Tensor | None
    mask_mod: Function | None
    sinks: Tensor | None
    sigmoid: bool | None


_any_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled
_ready: Recent[Any, Callable[[Tensor, Tensor, Tensor], Tensor]] = Recent(MOST_READY)
forgets(lambda: _ready.clear())


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: Causal = ..., scale: float | None = ...,
    return_lse: Literal[False] = ..., **modifiers: Unpack[Modifiers],
) -> Tensor: ...  # fmt: skip
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: Causal = ..., scale: float | None = ...,
    return_lse: Literal[True], **modifiers: Unpack[Modifiers],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


@opaque
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: Causal = False,
    scale: float | None = None,
    return_lse: bool = False,
    **modifiers: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale * q k^T) v, by the fastest kernel that is known for these shapes on this device.

    q: (batch, heads, queries, head_dim); k: (batch, kv_heads, keys, head_dim); v: (batch, kv_heads, keys,
    value_dim), any strides, one dtype of fp16, bf16, fp32, fp64, on one CPU or CUDA device. Returns
    (batch, heads, queries, value_dim), contiguous. `heads` is a multiple of `kv_heads`; query head i reads key
    head i // (heads / kv_heads). causal: False, True or "top_left" (a query sees keys up to its own index),
    "lower_right" (the last query sees all keys). A query that sees no key gets zeros. scale: 1/sqrt(head_dim)
    unless given. Gradients of what is floating are recorded (docs/gradients.md). Raises UnsupportedArgument, in one
    line.

    modifiers, freely combined, applied in this order (what filters comes last):
    head_scale: (heads,), a factor a head. softcap: scores become softcap * tanh(score / softcap). alibi: slopes
    (heads,), or True for the standard ones: score + slope * (m - p). bias: floats broadcast to (batch, heads, queries,
    keys); -inf hides a key. relative_bias: (heads, queries + keys - 1): score + table[h, p - m + keys - 1].
    score_mod: a function (score, b, h, p, m) -> score. window: a query p sees keys with
    p - m < window, and with window_both also m - p < window. prefix: a query p sees keys with m <= p or m < prefix
    (causal adds nothing to it). These two and alibi are aligned as causal is: with "lower_right", p is in them the
    position of the key below the query, p + keys - queries. documents: whole numbers (batch, length), or a pair for
    queries and keys; a query sees its own document. mask: booleans broadcast like a bias, true where seen.
    mask_mod: a function (b, h, p, m) -> condition. sinks: (heads,), a score that every query sees, without a value.
    sigmoid: weights by sigmoid in place of softmax. What functions may use: docs/your_own_mask.md.
    return_lse: also return the log of the softmax's denominator, (batch, heads, queries), float32; -inf where a query
    sees nothing.
    """
    if not (type(q) is Tensor and type(k) is Tensor and type(v) is Tensor):  # parameters are tensors, too
        _check_tensors(q=q, k=k, v=v)
    if _any_autocast():
        q, k, v = autocasted((q, k, v))
    if scale is not None and type(scale) is not float:
        scale = _scale(scale)
    if is_transformed():
        _check(q, k, v)
        _check_tensors(**{name: x for name, x in modifiers.items() if isinstance(x, Tensor)})
    if modifiers or return_lse:
        return _modified(q, k, v, causal, scale, {**modifiers, "return_lse": return_lse})
    key: Any = None
    run = None
    try:
        key = (
            q.shape, k.shape, v.shape, q.stride(), k.stride(), v.stride(), q.dtype, k.dtype, v.dtype, q.device,
            k.device, v.device, q.is_neg(), k.is_neg(), v.is_neg(), causal, scale,
        )  # fmt: skip
        run = _ready.get(key)
    except Exception:  # an unhashable `causal`, or tensors without shapes or strides
        pass
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        made: Tensor = _differentiable(q, k, v, causal, scale, {})
        return made
    if run is not None:
        try:
            return run(q, k, v)
        except Exception:
            _check(q, k, v)
            raise
    mode, number = _causal(causal), _scale(scale)
    _check(q, k, v)
    _check_range(number, q)
    if 0 in (*q.shape[:3], *k.shape[1:3], v.shape[3]):
        return q.new_zeros((*q.shape[:3], v.shape[3]))
    return _first(key, q, k, v, mode, number)


def _modified(
    q: Tensor, k: Tensor, v: Tensor, causal: object, scale: float | None, modifiers: dict[str, Any]
) -> Tensor | tuple[Tensor, Tensor]:
    try:
        return _forward(q, k, v, causal, scale, modifiers)
    except NeedsGradient:
        given = {n: x for n, x in modifiers.items() if x is not None and x is not False}
        made: Tensor | tuple[Tensor, Tensor] = _differentiable(q, k, v, causal, scale, given)
        return made


def _forward(
    q: Tensor, k: Tensor, v: Tensor, causal: object, scale: float | None, modifiers: dict[str, Any]
) -> Tensor | tuple[Tensor, Tensor]:
    from .modified_attention import NAMES, STATISTICS, modified_attention, seen_call

    seen, run = seen_call(q, k, v, causal, scale, modifiers)
    if run is not None:
        try:
            made: Tensor | tuple[Tensor, Tensor] = run(q, k, v, modifiers)
            return made
        except Exception:
            _check(q, k, v)
            raise
    if unknown := sorted(set(modifiers) - {*NAMES, STATISTICS}):
        raise unknown_modifiers(unknown, NAMES)
    mode, number = _causal(causal), _scale(scale)
    _check(q, k, v)
    _check_range(number, q)
    for name in ("window_both", "sigmoid", "return_lse"):
        if not isinstance(modifiers.get(name), (bool, NoneType)):
            raise UnsupportedArgument(f"`{name}` must be True or False, but got {type(modifiers[name]).__name__}")
    given = {n: x for n in (*NAMES, STATISTICS) if (x := modifiers.get(n)) is not None and x is not False}
    if given.get("window_both") and "window" not in given:
        raise UnsupportedArgument("`window_both` needs a `window`")
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, *given.values()) if isinstance(t, Tensor)):
        raise NeedsGradient(FORWARD_ONLY)
    number = 1 / math.sqrt(q.shape[3]) if number is None else number
    if v.shape[3]:
        return modified_attention(q, k, v, mode, number, given, seen)
    # values without elements: what else is returned does not depend on them
    made = modified_attention(q, k, v.new_zeros((*v.shape[:3], 1)), mode, number, given)
    return (made[0][..., :0], *made[1:]) if isinstance(made, tuple) else made[..., :0]


def _differentiable(
    q: Tensor, k: Tensor, v: Tensor, causal: object, scale: float | None, modifiers: dict[str, Any]
) -> Any:
    """A call of which a gradient is recorded: one of the operator, which knows its gradient."""
    if (recorded := RECORDED.get("eintune.attention")) is None:
        raise UnsupportedArgument(FORWARD_ONLY)
    _causal(causal)
    _check(q, k, v)
    return recorded(q, k, v, causal=causal, scale=scale, **modifiers)


@opaque
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """PyTorch's function of this name, for inputs of two to any number of axes.

    The axes before the last two are batch axes and must agree (with `enable_gqa`, the last of them are heads).
    `attn_mask` is true where a query sees a key, or is added to the scores. Raises UnsupportedArgument for a mask of
    another dtype than PyTorch takes (integers are neither true nor scores), one beside `is_causal`, a positive
    `dropout_p`, and shapes that PyTorch would broadcast.
    """
    try:
        return _as_pytorch(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    except UnsupportedArgument:
        raise
    except Exception:
        _check_tensors(query=query, key=key, value=value, **({} if attn_mask is None else {"attn_mask": attn_mask}))
        raise


def _as_pytorch(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: object, is_causal: object,
    scale: float | None, enable_gqa: object,
) -> Tensor:  # fmt: skip
    if not isinstance(dropout_p, (int, float)) or dropout_p != 0.0:
        got = dropout_p if isinstance(dropout_p, (int, float, str)) else type(dropout_p).__name__
        raise UnsupportedArgument(f"`dropout_p` must be 0.0, but got {got!r}")
    if not isinstance(is_causal, bool):
        raise UnsupportedArgument(f"`is_causal` must be True or False, but got {type(is_causal).__name__}")
    if not isinstance(enable_gqa, bool):
        raise UnsupportedArgument(f"`enable_gqa` must be True or False, but got {type(enable_gqa).__name__}")
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise UnsupportedArgument(f"`query` must have at least 2 axes, but its shape is {tuple(query.shape)}")
    if not enable_gqa and not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        raise UnsupportedArgument(
            "`query`, `key` and `value` must have the same batch axes unless `enable_gqa`, but got "
            f"{tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
        )
    q, k, v = (query, key, value) if query.ndim == 4 else (_four_axes(t) for t in (query, key, value))
    made: Tensor
    if attn_mask is None:
        made = attention(q, k, v, causal=is_causal, scale=scale)
    else:
        if is_causal:
            raise UnsupportedArgument("`attn_mask` must be None where `is_causal` is True (as in PyTorch)")
        made = attention(q, k, v, scale=scale, **_masked(attn_mask, query))
    return made if query.ndim == 4 else made.reshape(*query.shape[:-1], value.shape[-1])


def _masked(mask: Tensor, query: Tensor) -> dict[str, Any]:
    """PyTorch's mask as a modifier: its batch axes lie like the query's. Its dtype is one that PyTorch takes."""
    if mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise UnsupportedArgument(
            f"`attn_mask` must have dtype torch.bool, torch.float32 or that of `query` ({query.dtype}), but got "
            f"{mask.dtype}"
        )
    if query.ndim > 4:
        mask = mask.expand(*query.shape[:-2], *mask.shape[-2:]).flatten(0, query.ndim - 4)
    elif mask.ndim > query.ndim:
        raise UnsupportedArgument(f"`attn_mask` has at most {query.ndim} axes, but its shape is {tuple(mask.shape)}")
    return {"mask" if mask.dtype == torch.bool else "bias": mask}


def _four_axes(t: Tensor) -> Tensor:
    """Batch axes before the heads made one; missing ones added."""
    return t.flatten(0, t.ndim - 4) if t.ndim > 4 else t[(None,) * (4 - t.ndim)]


# ---- the first call


def _first(
    key: Any, q: Tensor, k: Tensor, v: Tensor, mode: Literal["top_left", "lower_right"] | None, scale: float | None
) -> Tensor:
    batch, heads, seq, head_dim = q.shape
    kv_heads, kv_seq, value_dim = k.shape[1], k.shape[2], v.shape[3]
    problem = attention_problem(
        batch=batch, heads=heads, kv_heads=kv_heads, seq=seq, kv_seq=kv_seq, head_dim=head_dim,
        value_dim=value_dim, dtype=dtype_name(q, "q", FLOATS), causal=mode, scale=scale,
    )  # fmt: skip
    own = partial(_by_own_kernel, _plain(key), problem)
    faster = by_library(problem, q, k, v, own, signature(problem))
    if faster is None:
        return own(q, k, v)
    _ready[_plain(key)], made = faster
    return made


def _by_own_kernel(key: Any, problem: Problem, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The call by a kernel of ours, which serves its like from now on."""
    heads, kv_heads = q.shape[1], k.shape[1]
    new = Empty((*q.shape[:3], v.shape[3]), q.dtype, q)
    made = new(q)
    view = None if heads == kv_heads else _ByKeyHeads(q, made, kv_heads)
    tensors = (q, k, v, made)
    _ready[key] = _Ready(new, serve(problem, tensors if view is None else view(tensors), view))
    return made


def _plain(key: Any) -> Any:
    """An equal key of plain tuples, which the garbage collector leaves alone."""
    return key if key is None else tuple([tuple(x) if isinstance(x, tuple) else x for x in key])


class _Ready:
    """What serves a kind of call. There is one for every length that a program comes with, so it is few objects."""

    __slots__ = ("_fill", "_new")

    def __init__(self, new: Empty, fill: Fill) -> None:
        self._new, self._fill = new, fill

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = self._new(q)
        self._fill((q, k, v, out))
        return out


class _ByKeyHeads:
    """Tensors of a call with the queries' heads in groups, one for each head of the keys."""

    __slots__ = ("_of_out", "_of_q")

    def __init__(self, q: Tensor, out: Tensor, kv_heads: int) -> None:
        (batch, heads, seq, head_dim), value_dim = q.shape, out.shape[3]
        split = (batch, kv_heads, heads // kv_heads)
        self._of_q = ((*split, seq, head_dim), _split_strides(q, split[2]))
        self._of_out = ((*split, seq, value_dim), _split_strides(out, split[2]))

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        q, k, v, out = tensors
        return q.as_strided(*self._of_q), k, v, out.as_strided(*self._of_out)


def _split_strides(t: Tensor, group: int) -> tuple[int, ...]:
    """Strides of (b, h, s, d) seen as (b, h / group, group, s, d)."""
    b, h, s, d = t.stride()
    return b, h * group, h, s, d


def autocasted(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensors in the dtype of `torch.autocast` where that is on for their device, as PyTorch's attention has its
    inputs: float64 stays."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return [t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors]


# ---- checks: each raises UnsupportedArgument with the rule, the value and the valid options


def checked_mode(causal: object, scale: object) -> tuple[Literal["top_left", "lower_right"] | None, float | None]:
    """How queries and keys are aligned, and the scale."""
    return _causal(causal), _scale(scale)


def _causal(causal: object) -> Literal["top_left", "lower_right"] | None:
    try:
        return CAUSAL[causal]
    except (KeyError, TypeError):
        raise UnsupportedArgument(
            f"`causal` must be False, True, 'top_left' or 'lower_right', but got {_short(causal)}"
        ) from None


def _scale(scale: object) -> float | None:
    """A number is read now, of a tensor too: the next call may find another in it."""
    if scale is None:
        return None
    if isinstance(scale, Tensor) and scale.requires_grad and torch.is_grad_enabled():
        raise UnsupportedArgument("`scale` has no gradient: multiply `q` by it, and give `scale=1.0`")
    try:
        number = float(scale)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    except Exception:
        number = math.nan
    if not math.isfinite(number) or isinstance(scale, (bool, str, bytes, bytearray)):  # Python reads texts as numbers
        raise UnsupportedArgument(f"`scale` must be a finite number or None, but got {_short(scale)}")
    return number


def _check_range(scale: float | None, q: Tensor) -> None:
    if scale is not None and abs(scale) > torch.finfo(torch.float32).max and q.dtype != torch.float64:
        raise UnsupportedArgument(f"`scale` must be a float32 number beside {q.dtype} tensors, but got {scale!r}")


def _short(x: object) -> str:
    """What a message says of a value: on one line, and no longer than one."""
    try:
        said = " ".join(repr(x).split())
    except Exception:  # a number of more digits than Python prints
        said = f"a {type(x).__name__}"
    return said if len(said) <= 80 else f"{said[:77]}..."


def _check_tensors(**given: object) -> None:
    for name, t in given.items():
        if not isinstance(t, Tensor):
            raise UnsupportedArgument(f"`{name}` must be a torch.Tensor, but got {type(t).__name__}")
        check_plain(name, t)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, t in (("q", q), ("k", k), ("v", v)):
        check_plain(name, t)
    check_kinds(q, k, v)
    for rule, holds in rules(q, k, v):
        if not holds:
            raise UnsupportedArgument(broken(rule, q, k, v))


def check_kinds(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise UnsupportedArgument for a number of axes, dtypes or devices that attention does not take."""
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.ndim != 4:
            raise UnsupportedArgument(
                f"`{name}` must have 4 axes (batch, heads, length, head_dim), but its shape is {tuple(t.shape)}"
            )
        if t.dtype != q.dtype or t.device != q.device:
            raise UnsupportedArgument(
                f"`{name}` must have the dtype and device of `q` ({q.dtype} on {q.device}), but is {t.dtype} "
                f"on {t.device}"
            )
        try:
            dtype_name(t, name, FLOATS)
        except ValueError as error:
            raise UnsupportedArgument(str(error)) from None


def rules(q: Tensor, k: Tensor, v: Tensor) -> Iterator[tuple[str, bool]]:
    """What must hold of the sizes, and whether it does: each a condition on symbols where a compiler asks."""
    for axis in range(3):
        yield "`k` and `v` must agree in batch, heads and length", k.shape[axis] == v.shape[axis]
    yield "`q` and `k` must agree in batch", q.shape[0] == k.shape[0]
    yield "`q` and `k` must agree in head_dim", q.shape[3] == k.shape[3]
    yield "heads of `q` must be a multiple of heads of `k`", k.shape[1] == 0 or q.shape[1] % k.shape[1] == 0
    yield "head_dim must be 1 to 512", 0 < q.shape[3] <= 512 and v.shape[3] <= 512


def broken(rule: str, q: Tensor, k: Tensor, v: Tensor) -> str:
    """What to say of sizes for which a rule does not hold."""
    return f"{rule}, but the shapes are {', '.join(str(tuple(t.shape)) for t in (q, k, v))}"
