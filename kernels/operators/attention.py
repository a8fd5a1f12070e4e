"""`eintune.attention` as an operator: how a call is recorded, and what its recording runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from eintune.kernels.serve import attention as served
from eintune.kernels.serve.errors import FORWARD_ONLY, UnsupportedArgument
from eintune.kernels.serve.modified_attention import FUNCTIONS, NAMES, STATISTICS
from eintune.space.tracing.refusals import Untraceable

from .functions import FunctionText, write_function
from .library import call, define
from .notes import ALONE, NOTED, note, replay, way_to_read
from .programs import AttentionProgram, Place, prepared
from .refusals import constant_result, must, refuse, settled
from .vmapped import one_by_one, with_batch_in_front

ARGUMENTS = {"score_mod": 5, "mask_mod": 4}
"""How many arguments a function has: the score before all positions."""

_eager: Any = served.attention.__wrapped__  # type: ignore[attr-defined]


def recorded(
    q: Tensor, k: Tensor, v: Tensor, *, causal: Any = False, scale: Any = None, return_lse: bool = False,
    **modifiers: Any,
) -> Any:  # fmt: skip
    """A call of `eintune.attention` as one of the operator. PyTorch's compiler reads this function: it looks at nothing
    but what it is given, and what it cannot say to the operator it leaves to an eager call, with the reason."""
    inputs: list[Tensor] = []
    places: list[tuple[str, Place]] = []
    options: list[tuple[str, Any]] = []
    functions: list[tuple[str, Any]] = []
    for name, t in (("q", q), ("k", k), ("v", v)):
        if not isinstance(t, Tensor):
            return refuse(f"`{name}` must be a torch.Tensor")
    for name, x in modifiers.items():
        if x is None or x is False:
            continue
        if isinstance(x, Tensor):
            places.append((name, len(inputs)))
            inputs.append(x)
        elif isinstance(x, (tuple, list)) and len(x) == 2 and isinstance(x[0], Tensor) and isinstance(x[1], Tensor):
            places.append((name, (len(inputs), len(inputs) + 1)))
            inputs += [x[0], x[1]]
        elif name in FUNCTIONS:
            functions.append((name, x))
        else:
            options.append((name, settled(x)))
    if return_lse is not True and return_lse is not False:
        return refuse("`return_lse` must be True or False")
    if return_lse:
        options.append(("return_lse", True))
    if isinstance(scale, Tensor):
        return refuse("`scale` must be a number, and no tensor's, whose number is another one at each call")
    if torch.compiler.is_dynamo_compiling():
        noted: list[tuple[str, Any, tuple[Any, ...]]] = []
        seen: list[Tensor] = []
        for name, function in functions:
            how = way_to_read(name, function, ARGUMENTS[name])
            if how == ALONE:
                noted.append((name, function, ()))
            elif how == NOTED:
                notes, read = note(function, ARGUMENTS[name])
                noted.append((name, notes, tuple([(t.ndim, t.dtype) for t in read])))
                seen += read
            else:
                return refuse(how)
        grouped = settled(q.shape[1] > k.shape[1]) if functions else False
        found = described(causal, settled(scale), tuple(places), tuple(options), tuple(noted), grouped, len(inputs))
        order, program = found.split("|", 1)
        captured = [seen[int(n)] for n in order.split(",") if n]
    else:
        grouped = settled(q.shape[1] > k.shape[1]) if functions else False
        program, captured = _described(causal, settled(scale), places, options, functions, grouped, len(inputs))
    if program[0] != "{":
        return refuse(program)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, *inputs, *captured)):
        program = differentiable(program)
    given = (q, k, v, inputs + captured, program)
    compiling = torch.compiler.is_dynamo_compiling()
    made = torch.ops.eintune.attention(*given) if compiling else call(operator, *given)
    return (made[0], made[1]) if return_lse else made[0]


@constant_result
def described(
    causal: Any,
    scale: Any,
    places: tuple[Any, ...],
    options: tuple[Any, ...],
    functions: tuple[Any, ...],
    grouped: bool,
    first: int,
) -> str:
    """Which of the tensors that functions see are inputs, in which order, and after "|" the program's text, or why
    there is none. PyTorch's compiler calls this instead of reading it: all that it is given is constant."""
    stand_ins: list[Tensor] = []
    replays = []
    for name, notes, kinds in functions:
        own = [torch.empty((1,) * ndim, dtype=dtype, device="meta") for ndim, dtype in kinds]
        replays.append((name, replay(notes, own, ARGUMENTS[name]) if isinstance(notes, tuple) else notes))
        stand_ins += own
    program, captured = _described(causal, scale, places, options, replays, grouped, first)
    at = {id(t): n for n, t in enumerate(stand_ins)}
    return f"{','.join(str(at[id(t)]) for t in captured)}|{program}"


@constant_result
def differentiable(program: str) -> str:
    """The program that gives the statistics of rows as well, which the gradient of a softmax needs."""
    p = prepared(program).program
    if p.options.get("sigmoid"):
        return program
    return replace(p, options={**p.options, STATISTICS: True}).text()


def _described(
    causal: Any, scale: Any, places: Sequence[Any], options: Sequence[Any], functions: Sequence[Any], grouped: bool,
    first: int,
) -> tuple[str, list[Tensor]]:  # fmt: skip
    """The program's text, or why there is none; the tensors that functions capture: inputs from `first` on."""
    written: dict[str, FunctionText] = {}
    captured: list[Tensor] = []
    try:
        if unknown := sorted({n for n, _ in (*places, *options, *functions)} - set(NAMES)):
            raise UnsupportedArgument(f"modifiers are {', '.join(NAMES)}, but got {', '.join(unknown)}")
        for name, x in options:
            if type(x) not in (bool, int, float) or not math.isfinite(x):
                raise UnsupportedArgument(f"`{name}` must be a finite number, a tensor or a pair of tensors")
        for name, function in functions:
            written[name], read = write_function(name, function, grouped, first + len(captured))
            captured += read
        mode, number = served.checked_mode(causal, scale)
    except (UnsupportedArgument, Untraceable) as error:
        return str(error), []
    program = AttentionProgram(mode, number, dict(options), dict(places), written)
    return program.text(), captured


def run(q: Tensor, k: Tensor, v: Tensor, others: list[Tensor], program: str) -> list[Tensor]:
    """The call, as an eager one: it finds its kernel by one key."""
    ready = prepared(program)
    made = _eager(q, k, v, causal=ready.program.causal or False, scale=ready.program.scale, **ready.arguments(others))
    return [*made] if isinstance(made, tuple) else [made]


def fake(q: Tensor, k: Tensor, v: Tensor, others: list[Tensor], program: str) -> list[Tensor]:
    """Shapes and dtypes of a call's results. Raises UnsupportedArgument for q, k, v that attention does not take; what
    sizes have to be equal is checked when a program runs, where it is not known before."""
    ready = prepared(program)
    ready.arguments(others)
    served.check_kinds(q, k, v)
    for rule, holds in served.rules(q, k, v):
        must(holds, served.broken(rule, q, k, v))
    shape = (*q.shape[:3], v.shape[3])
    made = [q.new_empty(shape)]
    options = ready.program.options
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    rows = bool(options.get("return_lse")) + 2 * bool(options.get(STATISTICS))
    return [*made, *(q.new_empty(q.shape[:3], dtype=wide) for _ in range(rows))]


def batched(info: Any, in_dims: Any, *args: Any) -> Any:
    """Under vmap: one call whose batch has the new axis in front, where every argument has a batch; else one by one."""
    (q, k, v, others, program), (dq, dk, dv, dothers, _) = args, in_dims
    ready = prepared(program)
    per_head = any(
        dothers[n] is not None
        for name, place in ready.program.inputs.items()
        for n in ((place,) if isinstance(place, int) else place)
        if name not in ("bias", "mask", "documents")
    )
    if per_head or ready.functions:
        return one_by_one(operator, info.batch_size, in_dims, args)
    batch = next(t.shape[0 if d is None or d > 0 else 1] for t, d in ((q, dq),))
    count = info.batch_size
    folded = [with_batch_in_front(t, d, count, 4, batch) for t, d in ((q, dq), (k, dk), (v, dv))]
    inputs = list(others)
    for name, place in ready.program.inputs.items():
        for n in (place,) if isinstance(place, int) else place:
            axes = {"bias": 4, "mask": 4, "documents": 2}.get(name)
            if axes is not None:
                inputs[n] = with_batch_in_front(others[n], dothers[n], count, axes, batch, optional=True)
    made = call(operator, *folded, inputs, program)
    return [t.reshape(count, batch, *t.shape[1:]) for t in made], [0] * len(made)


operator = define(
    "attention",
    "(Tensor q, Tensor k, Tensor v, Tensor[] others, str program) -> Tensor[]",
    run, fake, batched,
    forward_only=lambda *_: FORWARD_ONLY,
    casted=3,
)  # fmt: skip
