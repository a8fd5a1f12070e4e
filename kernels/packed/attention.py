"""Attention of sequences of different lengths in one call: packed one after another, or over a cache in pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor

from eintune.host.recent import Recent
from eintune.kernels.serve.attention import autocasted
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.kernels.serve.opaque import RECORDED, opaque
from eintune.kernels.serve.serving import MOST_READY

from . import arguments as checks
from .arguments import Causal, Options, options
from .calls import Call, Ready, kinds
from .lengths import Stretches, of_batch, of_packed
from .pieces import length_of, pieces_of

FORWARD_ONLY = (
    "eintune.{name} is forward only: call it under torch.no_grad() or detach its inputs, but an input has "
    "requires_grad=True"
)
_any_autocast = torch._C._is_any_autocast_enabled


@overload
def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor | None = ..., max_q: int | None = ...,
    max_k: int | None = ..., *, causal: Causal = ..., scale: float | None = ..., window: int | None = ...,
    window_size: tuple[int, int] | None = ..., softcap: float | None = ..., alibi: Tensor | bool | None = ...,
    sinks: Tensor | None = ..., seqused_k: Tensor | None = ..., return_lse: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor | None = ..., max_q: int | None = ...,
    max_k: int | None = ..., *, causal: Causal = ..., scale: float | None = ..., window: int | None = ...,
    window_size: tuple[int, int] | None = ..., softcap: float | None = ..., alibi: Tensor | bool | None = ...,
    sinks: Tensor | None = ..., seqused_k: Tensor | None = ..., return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


@opaque
def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None = None,
    max_q: int | None = None,
    max_k: int | None = None,
    *,
    causal: Causal = False,
    scale: float | None = None,
    window: int | None = None,
    window_size: tuple[int, int] | None = None,
    softcap: float | None = None,
    alibi: Tensor | bool | None = None,
    sinks: Tensor | None = None,
    seqused_k: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of sequences of different lengths that are packed one after another, each by itself.

    q: (total, heads, head_dim); k: (total of keys, kv_heads, head_dim); v: (total of keys, kv_heads, value_dim), as
    `attention` takes them. cu_seq_q: (sequences + 1,) whole numbers: sequence i has the queries from cu_seq_q[i] to
    before cu_seq_q[i + 1], beginning with 0. cu_seq_k: the same of keys; those of the queries unless given. max_q,
    max_k: the longest lengths, which PyTorch's and FlashAttention's calls have; nothing here depends on them. Lengths
    are read on the device, and any serve with one kernel: a sequence without keys gives zeros, one without queries
    nothing, and what lies beyond the last one zeros. Their values are not checked.

    causal: a query sees keys up to the one that it stands at. The last query of a sequence stands at its last key (True
    or "lower_right", as FlashAttention has it), or the first at the first ("top_left"). window: a query sees that key
    and those before it, so many in all, and whatever is after it unless `causal`. window_size: (left, right) in its
    place, as PyTorch and FlashAttention have it: so many keys before and after, -1 for all. alibi: (heads,), or True
    for the published slopes: score + slope * (key - the key that the query stands at). softcap, sinks, scale: as
    of `attention`. seqused_k: (sequences,), how many keys of each are used, from its first.

    Returns (total, heads, value_dim), and with `return_lse` the log of the softmax's denominator (heads, total), in
    float32 (-inf where nothing is seen). Gradients of q, k, v, alibi and sinks are recorded. Raises
    UnsupportedArgument, in one line.
    """
    if not (type(q) is Tensor and type(k) is Tensor and type(v) is Tensor):
        checks.check_every(q=q, k=k, v=v)
    slopes = alibi if isinstance(alibi, Tensor) else None
    asked = wanted(causal, scale, window, window_size, softcap, alibi, return_lse)
    if _any_autocast():
        q, k, v = autocasted((q, k, v))
    cu_k = cu_seq_q if cu_seq_k is None else cu_seq_k
    if _needs_gradient(q, k, v, sinks, slopes):
        if (recorded := RECORDED.get("eintune.varlen_attention")) is None:
            raise UnsupportedArgument(FORWARD_ONLY.format(name="varlen_attention"))
        check_packed(q, k, v, cu_seq_q, cu_k, seqused_k, sinks, slopes)
        if 0 in (q.shape[0], k.shape[0]):
            return _of_nothing(q, k, v, sinks, slopes, return_lse)
        return recorded(  # type: ignore[no-any-return]
            q, k, v, cu_seq_q, cu_k, causal=causal, scale=asked.scale, window=window, window_size=window_size,
            softcap=softcap, alibi=alibi, sinks=sinks, seqused_k=seqused_k, return_lse=return_lse,
        )  # fmt: skip
    out, log = packed_call(q, k, v, cu_seq_q, cu_k, seqused_k, asked, sinks, slopes)
    return (out, log) if log is not None else out


def packed_call(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, used: Tensor | None, asked: Options,
    sinks: Tensor | None = None, slopes: Tensor | None = None, out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """What `varlen_attention` comes to. out: what is filled with the output. Raises UnsupportedArgument."""

    def check() -> None:
        check_packed(q, k, v, cu_q, cu_k, used, sinks, slopes)

    def call() -> Call:
        places = asked.standard or slopes is not None
        lengths = None if used is None else used.int()
        stretches = _of_all(q.shape[0], cu_q, cu_k.int(), lengths, asked, places)
        return Call(q, k, v, None, stretches, asked, sinks, slopes, out)

    return _made(check, call, asked, q, k, v, cu_q, cu_k, used, sinks, slopes, out)


def check_packed(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, used: Tensor | None, sinks: Tensor | None,
    slopes: Tensor | None,
) -> None:  # fmt: skip
    """Raises UnsupportedArgument for tensors that `varlen_attention` does not take."""
    checks.check_every(q=q, k=k, v=v, cu_seq_q=cu_q, cu_seq_k=cu_k, seqused_k=used, sinks=sinks, alibi=slopes)
    checks.check_varlen(q, k, v, cu_q, cu_k, used)
    _check_by_head(q, sinks, slopes)
    checks.check_rules(checks.of_varlen(q, k, v, cu_q, cu_k, used))
    checks.check_places(k)


def _of_nothing(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, slopes: Tensor | None, lse: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Where there are no queries or no keys, with gradients: the log-sum-exp is the sink's, and nothing else depends on
    anything."""
    given = [t.flatten()[:0].sum() for t in (q, k, v, sinks, slopes) if t is not None]
    nothing = torch.stack([t.to(q.dtype) for t in given]).sum()
    out = q.new_zeros((*q.shape[:2], v.shape[2])) + nothing
    if not lse:
        return out
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    log = q.new_full((q.shape[1], q.shape[0]), -torch.inf, dtype=wide)
    return out, (log if sinks is None else sinks[:, None].to(wide).expand(log.shape)) + nothing.to(wide)


def _of_all(total: int, cu_q: Tensor, starts: Tensor, used: Tensor | None, asked: Options, places: bool) -> Stretches:
    """Of sequences that are packed as one, (1, total)."""
    if starts.shape[0] == 1:  # no sequence is one without queries
        cu_q, starts, used = cu_q.new_zeros(2), starts.new_zeros(2), None
    return of_packed(total, cu_q, starts, used, asked.reach, places)


@overload
def paged_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_table: Tensor, cache_seqlens: Tensor, *,
    cu_seq_q: Tensor | None = ..., max_q: int | None = ..., causal: Causal = ..., scale: float | None = ...,
    window: int | None = ..., window_size: tuple[int, int] | None = ..., softcap: float | None = ...,
    alibi: Tensor | bool | None = ..., sinks: Tensor | None = ..., return_lse: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def paged_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_table: Tensor, cache_seqlens: Tensor, *,
    cu_seq_q: Tensor | None = ..., max_q: int | None = ..., causal: Causal = ..., scale: float | None = ...,
    window: int | None = ..., window_size: tuple[int, int] | None = ..., softcap: float | None = ...,
    alibi: Tensor | bool | None = ..., sinks: Tensor | None = ..., return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


@opaque
def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    cache_seqlens: Tensor,
    *,
    cu_seq_q: Tensor | None = None,
    max_q: int | None = None,
    causal: Causal = False,
    scale: float | None = None,
    window: int | None = None,
    window_size: tuple[int, int] | None = None,
    softcap: float | None = None,
    alibi: Tensor | bool | None = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention over a cache in pages: of one query a sequence, of several, or of prompts and single queries mixed.

    k_cache: (blocks, block_size, kv_heads, head_dim), v_cache: (blocks, block_size, kv_heads, value_dim). block_table:
    (batch, blocks of a sequence), the block of each `block_size` keys of a sequence in order, whole numbers; those
    beyond a sequence's keys may be anything. cache_seqlens: (batch,), how many keys each sequence has, those of its
    queries included, which are in the cache already. What lies beyond them is never seen, NaN neither.

    q: (batch, queries, heads, head_dim); or (batch, heads, head_dim), one query a sequence; or with `cu_seq_q`
    (batch + 1,) packed, (total, heads, head_dim), as `varlen_attention` has them, so that sequences may have one query,
    many or none. max_q: the most queries, which other calls have; nothing depends on it.

    causal, window, window_size, softcap, alibi, sinks, scale: as of `varlen_attention`: the last query of a sequence
    stands at its last key. A sequence without keys gives zeros. Returns what `q` has for an axis, with value_dim in the
    place of head_dim, and with `return_lse` the log of the softmax's denominator, (batch, heads, queries), or
    (heads, total) of packed queries, or (batch, heads). Forward only. Raises UnsupportedArgument, in one line.
    """
    if not (type(q) is Tensor and type(k_cache) is Tensor and type(v_cache) is Tensor):
        checks.check_every(q=q, k_cache=k_cache, v_cache=v_cache)
    slopes = alibi if isinstance(alibi, Tensor) else None
    asked = wanted(causal, scale, window, window_size, softcap, alibi, return_lse)
    k, v = k_cache, v_cache
    if _any_autocast():
        q, k, v = autocasted((q, k, v))
    if _needs_gradient(q, k, v, sinks, slopes):
        raise UnsupportedArgument(FORWARD_ONLY.format(name="paged_attention"))
    out, log = paged_call(q, k, v, block_table, cache_seqlens, cu_seq_q, asked, sinks, slopes)
    return (out, log) if log is not None else out


def paged_call(
    q: Tensor, k: Tensor, v: Tensor, block_table: Tensor, lengths: Tensor, cu_q: Tensor | None, asked: Options,
    sinks: Tensor | None = None, slopes: Tensor | None = None, out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """What `paged_attention` comes to. out: what is filled with the output. Raises UnsupportedArgument."""

    def check() -> None:
        checks.check_every(
            q=q, k_cache=k, v_cache=v, block_table=block_table, cache_seqlens=lengths, cu_seq_q=cu_q, sinks=sinks,
            alibi=slopes,
        )  # fmt: skip
        checks.check_paged(q, k, v, block_table, lengths, cu_q)
        _check_by_head(q, sinks, slopes)
        checks.check_rules(checks.of_paged(q, k, v, block_table, lengths, cu_q))
        checks.check_places(k, block_table)

    def call() -> Call:
        places = asked.standard or slopes is not None
        room = block_table.shape[1] * k.shape[1]
        used = lengths.int().clamp(0, room)
        if cu_q is not None:
            return pieced(used, places)
        stretches = of_batch(q.shape[1] if q.ndim == 4 else 1, used, asked.reach, places)
        rows, target = (t if t is None or t.ndim == 4 else t[:, None] for t in (q, out))
        assert rows is not None
        return Call(rows, k, v, block_table, stretches, asked, sinks, slopes, target)

    back: list[Tensor] = []

    def pieced(used: Tensor, places: bool) -> Call:
        """Packed queries in pieces, each of one sequence."""
        assert cu_q is not None
        total, table, cu = q.shape[0], block_table, cu_q
        if not len(used):  # no sequence is one without queries
            used, table, cu = used.new_zeros(1), table.new_zeros((1, table.shape[1])), cu.new_zeros(2)
        if not total:
            none = used.new_zeros((1, 0))
            return Call(q[None], k, v, table[:1], Stretches(none, none, none if places else None), asked, sinks, slopes)
        pieces = pieces_of(total, length_of(total, len(used)), cu, used, asked.reach, places)
        back.append(pieces.back)
        shape = (len(pieces.sequence), -1, *q.shape[1:])
        rows = q.index_select(0, pieces.queries.flatten()).view(shape)
        return Call(rows, k, v, table.index_select(0, pieces.sequence), pieces.stretches, asked, sinks, slopes)

    given = (q, k, v, block_table, lengths, cu_q, sinks, slopes, out)
    made, log = _made(check, call, asked, *given)
    if cu_q is not None:
        made, log = made.flatten(0, 1), None if log is None else log.transpose(0, 1).flatten(1)
        if back:
            made = made.index_select(0, back[0])
            log = None if log is None else log.index_select(1, back[0])
        return (made if out is None else out.copy_(made)), log
    if q.ndim == 3:
        return made[:, 0], None if log is None else log[..., 0]
    return made, log


def _made(
    check: Callable[[], None], call: Callable[[], Call], asked: Options, *tensors: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """What a call of these arguments gives. They are checked before the first call of a kind, and where one fails."""
    try:
        key: Any = (*kinds(tensors), asked)
    except Exception:
        check()
        raise
    ready = _known.get(key)
    if ready is None:
        check()
    try:
        made = call()
        if ready is None:
            ready = made.ready()
            if tensors[0] is None or tensors[0].device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
                _known[key] = ready
        return ready(made)
    except UnsupportedArgument:
        raise
    except Exception:
        check()
        raise


_known: Recent[Any, Ready] = Recent(MOST_READY)


def wanted(
    causal: Any, scale: Any, window: Any, window_size: Any, softcap: Any, alibi: Tensor | bool | None, return_lse: Any
) -> Options:
    """The options of a call. Raises UnsupportedArgument."""
    standard = alibi is True
    if not (alibi is None or isinstance(alibi, (bool, Tensor))):
        raise UnsupportedArgument(
            f"`alibi` must be a tensor (heads,), or True for the published slopes, but got {type(alibi).__name__}"
        )
    pair = tuple(window_size) if isinstance(window_size, list) else window_size
    if isinstance(scale, Tensor):
        scale = scale.item()
    try:
        return options(causal, scale, window, pair, softcap, standard, return_lse)
    except TypeError:  # what has no hash
        given = {"causal": causal, "scale": scale, "window": window, "window_size": pair, "softcap": softcap}
        odd = next((n for n, x in given.items() if not isinstance(x, (int, float, str, tuple, type(None)))), "scale")
        raise UnsupportedArgument(f"`{odd}` must be a number, but got {type(given[odd]).__name__}") from None


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and getattr(t, "requires_grad", False) for t in tensors)


def _check_by_head(q: Tensor, sinks: Tensor | None, slopes: Tensor | None) -> None:
    for name, t in (("sinks", sinks), ("alibi", slopes)):
        if t is not None:
            checks.check_by_head(name, t, q)
            checks.check_rules([checks.of_by_head(name, t, q)])
