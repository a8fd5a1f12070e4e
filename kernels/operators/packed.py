"""`eintune.varlen_attention` and `eintune.paged_attention` as operators: how a call is recorded, and what its recording
runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import torch
from torch import Tensor

from eintune.kernels.packed import arguments as checks
from eintune.kernels.packed import attention as eager
from eintune.kernels.serve.errors import UnsupportedArgument

from .library import define
from .packed_gradients import differentiable_varlen
from .programs import PACKED_INPUTS, PackedProgram, packed_program
from .refusals import constant_result, must, refuse, settled
from .vmapped import one_by_one


def _read(text: str, others: list[Tensor]) -> PackedProgram:
    program = packed_program(text)
    if len(others) != len(program.inputs):
        said = f"the operator's program reads {len(program.inputs)} inputs, but got {len(others)}"
        raise UnsupportedArgument(said)
    return program


# ---- recording


def recorded_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Any = None, max_q: Any = None, max_k: Any = None, *,
    seqused_k: Any = None, **options: Any,
) -> Any:  # fmt: skip
    """A call of `varlen_attention` as one of the operator. PyTorch's compiler reads this function."""
    cu_k = cu_seq_q if cu_seq_k is None else cu_seq_k
    given = {"q": q, "k": k, "v": v, "cu_seq_q": cu_seq_q, "cu_seq_k": cu_k}
    return _recorded(
        torch.ops.eintune.varlen_attention, given, {"seqused_k": seqused_k}, options, differentiable_varlen
    )


def recorded_paged(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_table: Tensor, cache_seqlens: Tensor, *, cu_seq_q: Any = None,
    max_q: Any = None, **options: Any,
) -> Any:  # fmt: skip
    """As `recorded_varlen`."""
    given = {
        "q": q, "k_cache": k_cache, "v_cache": v_cache, "block_table": block_table, "cache_seqlens": cache_seqlens,
    }  # fmt: skip
    return _recorded(torch.ops.eintune.paged_attention, given, {"cu_seq_q": cu_seq_q}, options)


def _recorded(
    operator: Any, given: dict[str, Any], more: dict[str, Any], options: dict[str, Any], differentiable: Any = None
) -> Any:
    for name, t in given.items():
        if not isinstance(t, Tensor):
            return refuse(f"`{name}` must be a torch.Tensor")
    others: list[Tensor] = []
    inputs: dict[str, int] = {}
    numbers: dict[str, Any] = {}
    for name, x in (*more.items(), *options.items()):
        if x is None or x is False:
            continue
        if isinstance(x, Tensor) and name in PACKED_INPUTS:
            inputs[name] = len(others)
            others.append(x)
        elif isinstance(x, Tensor):
            return refuse(f"`{name}` must be a number, and no tensor's, whose number is another one at each call")
        elif name == "window_size" and isinstance(x, (tuple, list)):
            numbers[name] = tuple([settled(n) for n in x])
        else:
            numbers[name] = settled(x)
    text = _text(tuple(numbers.items()), tuple(inputs.items()))
    if text[0] != "{":
        return refuse(text)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*given.values(), *others)):
        if differentiable is None:
            return refuse(eager.FORWARD_ONLY.format(name=operator.__name__))
        tensors = [others[inputs[n]] if n in inputs else None for n in ("seqused_k", "sinks", "alibi")]
        out, log = differentiable(*given.values(), *tensors, text)
        return (out, log) if numbers.get("return_lse") else out
    made = operator(*given.values(), others, text)
    return (made[0], made[1]) if numbers.get("return_lse") else made[0]


@constant_result
def _text(numbers: tuple[tuple[str, Any], ...], inputs: tuple[tuple[str, int], ...]) -> str:
    """The program's text, or why there is none. PyTorch's compiler calls this: all that it is given is constant."""
    try:
        program = PackedProgram(**dict(numbers), inputs=dict(inputs))
        program.options()
        return msgspec.json.encode(program, order="sorted").decode()
    except UnsupportedArgument as error:
        return str(error)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        return f"a call of packed attention takes {', '.join(PackedProgram.__struct_fields__)}: {error}"


# ---- implementations


def _run(function: Callable[..., Any], tensors: Iterable[Tensor], others: list[Tensor], text: str) -> list[Tensor]:
    made = function(*tensors, **_read(text, others).arguments(others))
    return [*made] if isinstance(made, tuple) else [made]


_varlen: Any = eager.varlen_attention.__wrapped__  # type: ignore[attr-defined]
_paged: Any = eager.paged_attention.__wrapped__  # type: ignore[attr-defined]


def run_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, others: list[Tensor], program: str
) -> list[Tensor]:
    """The call, as an eager one."""
    return _run(_varlen, (q, k, v, cu_seq_q, cu_seq_k), others, program)


def run_paged(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_table: Tensor, cache_seqlens: Tensor, others: list[Tensor],
    program: str,
) -> list[Tensor]:  # fmt: skip
    """The call, as an eager one."""
    return _run(_paged, (q, k_cache, v_cache, block_table, cache_seqlens), others, program)


def fake_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, others: list[Tensor], program: str
) -> list[Tensor]:
    """Shapes and dtypes of a call's results. Raises UnsupportedArgument for what the call does not take."""
    ready = _read(program, others)
    more = ready.arguments(others)
    used = more.get("seqused_k")
    checks.check_varlen(q, k, v, cu_seq_q, cu_seq_k, used)
    _must(checks.of_varlen(q, k, v, cu_seq_q, cu_seq_k, used), q, more)
    return _fakes(q, v.shape[2], (q.shape[1], q.shape[0]), ready.return_lse)


def fake_paged(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_table: Tensor, cache_seqlens: Tensor, others: list[Tensor],
    program: str,
) -> list[Tensor]:  # fmt: skip
    """As `fake_varlen`."""
    ready = _read(program, others)
    more = ready.arguments(others)
    cu_q = more.get("cu_seq_q")
    checks.check_paged(q, k_cache, v_cache, block_table, cache_seqlens, cu_q)
    _must(checks.of_paged(q, k_cache, v_cache, block_table, cache_seqlens, cu_q), q, more)
    if q.ndim == 4:
        logs: tuple[int, ...] = (q.shape[0], q.shape[2], q.shape[1])
    else:
        logs = (q.shape[1], q.shape[0]) if cu_q is not None else (q.shape[0], q.shape[1])
    return _fakes(q, v_cache.shape[3], logs, ready.return_lse)


def _must(rules: Iterable[checks.Rule], q: Tensor, more: dict[str, Any]) -> None:
    for said, holds in rules:
        must(holds, said)
    for name in ("sinks", "alibi"):
        if isinstance(t := more.get(name), Tensor):
            checks.check_by_head(name, t, q)
            said, holds = checks.of_by_head(name, t, q)
            must(holds, said)


def _fakes(q: Tensor, value_dim: int, logs: tuple[int, ...], lse: bool) -> list[Tensor]:
    made = [q.new_empty((*q.shape[:-1], value_dim))]
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    return [*made, q.new_empty(logs, dtype=wide)] if lse else made


def _varlen_batched(info: Any, in_dims: Any, *args: Any) -> Any:
    return one_by_one(torch.ops.eintune.varlen_attention.default, info.batch_size, in_dims, args)


def _paged_batched(info: Any, in_dims: Any, *args: Any) -> Any:
    return one_by_one(torch.ops.eintune.paged_attention.default, info.batch_size, in_dims, args)


varlen = define(
    "varlen_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor cu_seq_q, Tensor cu_seq_k, Tensor[] others, str program) -> Tensor[]",
    run_varlen, fake_varlen, _varlen_batched,
    forward_only=lambda *_: eager.FORWARD_ONLY.format(name="varlen_attention"),
    casted=3,
)  # fmt: skip
paged = define(
    "paged_attention",
    "(Tensor q, Tensor k_cache, Tensor v_cache, Tensor block_table, Tensor cache_seqlens, Tensor[] others, "
    "str program) -> Tensor[]",
    run_paged, fake_paged, _paged_batched,
    forward_only=lambda *_: eager.FORWARD_ONLY.format(name="paged_attention"),
    casted=3,
)  # fmt: skip
