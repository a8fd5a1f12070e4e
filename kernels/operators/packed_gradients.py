"""The gradient of `eintune.varlen_attention`: the call as one of its cascade's operator, which knows its gradient, on
views of the arguments, of which PyTorch knows theirs. Eager and compiled programs make the same call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eintune.kernels.packed.calls import variant_of
from eintune.kernels.packed.lengths import Reach, of_packed
from eintune.kernels.reference.eager import DTYPES
from eintune.kernels.serve.attention import autocasted
from eintune.kernels.serve.compiled import compile
from eintune.space.workloads.attention import posed
from eintune.space.workloads.spans import END, FIRST, PLACE

from . import cascade
from .library import call
from .programs import packed_program
from .refusals import constant_result, refuse, settled


def differentiable_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, used: Tensor | None, sinks: Tensor | None,
    alibi: Tensor | None, program: str,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """What `varlen_attention` returns, with its gradient recorded. program: an operator's, which has the options.
    PyTorch's compiler reads this function."""
    q, k, v = autocasted((q, k, v))
    heads, kv_heads, head_dim = settled(q.shape[1]), settled(k.shape[1]), settled(q.shape[2])
    found = _stated(program, heads, kv_heads, head_dim, str(q.dtype), sinks is not None, alibi is not None)
    if found[0] != "|":
        return refuse(found)  # type: ignore[no-any-return]
    _, numbers, names, text = found.split("|", 3)
    before, beyond, top_left, places, lse = [int(n) for n in numbers.split(",")]
    reach = Reach(None if before < 0 else before, None if beyond < 0 else beyond, bool(top_left))
    if q.dtype != torch.float64:  # nothing else would run as fast
        sinks, alibi = (None if t is None else t.float() if t.dtype == torch.float64 else t for t in (sinks, alibi))
    lengths = None if used is None else used.int()
    first, end, place = of_packed(q.shape[0], cu_q, cu_k.int(), lengths, reach, bool(places))
    groups = (kv_heads, heads // kv_heads)
    given: dict[str, Any] = {
        "Q": q.transpose(0, 1)[None], "K": k.transpose(0, 1)[None], "V": v.transpose(0, 1)[None], FIRST: first,
        END: end, PLACE: place, "SINK": sinks, "SLOPE": alibi,
    }  # fmt: skip
    if heads != kv_heads:
        given["Q"] = torch.unflatten(given["Q"], 1, groups)
        for name in ("SINK", "SLOPE"):
            if given[name] is not None:
                given[name] = torch.unflatten(given[name], 0, groups)
    inputs: list[Any] = [given[n] for n in names.split(",")]
    compiling = torch.compiler.is_dynamo_compiling()
    made = torch.ops.eintune.cascade(inputs, text) if compiling else call(cascade.operator, inputs, text)
    out, log = made[0][0], made[1][0] if lse else None
    if heads != kv_heads:
        out, log = out.flatten(0, 1), None if log is None else log.flatten(0, 1)
    return out.transpose(0, 1).contiguous(), log


@constant_result
def _stated(program: str, heads: int, kv_heads: int, head_dim: int, dtype: str, sinks: bool, alibi: bool) -> str:
    """ "|" and how far a query sees, "|" the inputs of the cascade in order, "|" the program of its operator that gives
    what the gradient wants as well; or why there is none. All that it is given is constant."""
    try:
        asked = packed_program(program).options()
        name = next((n for n, d in DTYPES.items() if str(d) == dtype), "")
        grouped = {"g": heads // kv_heads} if heads != kv_heads else {}
        sizes = {"b": 1, "h": kv_heads, **grouped, "p": 1, "m": 1, "e": head_dim, "f": 1}
        scale = head_dim**-0.5 if asked.scale is None else asked.scale
        problem = posed(variant_of(asked, "bp", sinks, alibi, None), sizes, name, {"scale": scale})
        definition = problem.definition
        own = {r for t in definition.inputs.values() for r in t.ranks}
        told = {r: n for r, n in problem.sizes.items() if r in definition.same_sizes() and r not in own}
        dtypes = {n: problem.dtypes[n] for n in definition.outputs}
        stated = compile(problem.cascade, params=problem.params, sizes=told, dtype=dtypes, name="attention").stated
        text = cascade.differentiable(stated, "fp64" if name == "fp64" else "fp32")
    except ValueError as error:
        return f"`varlen_attention` has no gradient here: {' '.join(str(error).split())}"
    if text[0] != "{":
        return text
    reach = asked.reach
    numbers = [-1 if n is None else n for n in reach[:2]]
    numbers += [int(reach.top_left), int(asked.standard or alibi), int(asked.lse)]
    return f"|{','.join(map(str, numbers))}|{','.join(definition.inputs)}|{text}"
