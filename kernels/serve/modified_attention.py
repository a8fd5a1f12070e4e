"""Attention with modifiers, for programs: arguments to a variant and its tensors, once for each kind of call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from eintune.host.notices import say_once
from eintune.host.recent import Recent
from eintune.kernels.reference.eager import DTYPES
from eintune.space.cascade.problem import Problem
from eintune.space.tracing.captures import Path, follow
from eintune.space.tracing.refusals import Untraceable
from eintune.space.tracing.site import AXES, Site
from eintune.space.workloads.attention import Attention, Weights, posed
from eintune.space.workloads.modifiers import (
    Align,
    Bias,
    Causal,
    Documents,
    HeadScale,
    Mask,
    Modifier,
    Prefix,
    RelativeBias,
    Slopes,
    Softcap,
    Window,
)

from .call_kinds import Meaning, Written, kind, kind_of_function, meaning, steady_kind
from .errors import FORWARD_ONLY, NeedsGradient, UnsupportedArgument
from .plain_tensors import check_plain, kind_of_tensor
from .serving import MOST_READY, Empty, Fill, dtype_name, serve
from .user_numbers import changing_numbers, check_filters, constant_numbers, number_views, outcome

Arguments: TypeAlias = Mapping[str, Any]
View: TypeAlias = Callable[[Arguments], Tensor]
"""From the arguments of a call to one input of the kernel, without moving data."""
NAMES = (
    "head_scale", "softcap", "alibi", "bias", "relative_bias", "score_mod", "window", "window_both", "prefix",
    "documents", "mask", "mask_mod", "sinks", "sigmoid", "return_lse",
)  # fmt: skip
STATISTICS = "statistics"
"""What a recorded call asks for besides: the greatest score and the logarithm of the sum, a row (`Attention`)."""
LABELS = {
    "HS": "head_scale", "SLOPE": "alibi", "BIAS": "bias", "REL": "relative_bias", "DOCQ": "documents",
    "DOCK": "documents", "MASK": "mask", "SINK": "sinks",
}  # fmt: skip
"""Inputs by what a caller calls them."""
FUNCTIONS = ("score_mod", "mask_mod")

Run: TypeAlias = Callable[[Tensor, Tensor, Tensor, Arguments], Any]
"""Attention with modifiers of one kind: a tensor, or a pair of them."""

_ready: Recent[Any, Run] = Recent(MOST_READY)


def seen_call(
    q: Tensor, k: Tensor, v: Tensor, causal: object, scale: float | None, modifiers: Arguments
) -> tuple[Any, Run | None]:
    """A key for all that decides how a call is served, of arguments as they were given, and what serves it, if such a
    call was served before. Nothing is known, and no key, where a function would have to be traced, and of arguments
    that are no good."""
    try:
        known = [_quickly(name, x) for name, x in modifiers.items()]
        key = (
            q.shape, k.shape, v.shape, q.stride(), k.stride(), v.stride(), q.dtype, k.dtype, v.dtype, q.device,
            k.device, v.device, q.is_neg(), k.is_neg(), v.is_neg(), causal, scale, *modifiers, *known,
        )  # fmt: skip
        return key, _ready.get(key)
    except Exception:
        return None, None


def _quickly(name: str, x: Any) -> Any:
    if x is None:
        return None
    if name not in FUNCTIONS:
        return kind(name, x)
    known, is_all = steady_kind(x)
    if not is_all:
        raise Untraceable("what it sees may change")
    return known


def modified_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: Align | None, scale: float, arguments: Arguments, seen: Any = None
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention.attention` for q, k, v that it has checked; arguments: those of NAMES that the caller gave; seen: the
    key of `seen_call`."""
    site = Site(("h", "g")) if q.shape[1] // max(k.shape[1], 1) > 1 else Site()
    meanings: dict[str, Meaning] = {}
    known: dict[str, Any] = {}
    try:
        for name, given in arguments.items():
            if name in FUNCTIONS:
                known[name], comes_to = kind_of_function(name, given, site)
                meanings |= {name: comes_to} if comes_to else {}
            else:
                known[name] = kind(name, given)
        tensors = tuple(kind_of_tensor(n, t) for n, t in (("q", q), ("k", k), ("v", v)))
        key = (tensors, causal, scale, *known.items())
        run = _ready.get(key)
        if run is None:
            missing = [n for n in FUNCTIONS if n in arguments and n not in meanings]
            meanings |= {n: meaning(n, arguments[n], site) for n in missing}
            family = (tensors, causal, scale, *(known | {n: m.kind for n, m in meanings.items()}).items())
            run = _prepared(ModifiedCall(q, k, v, causal, scale, arguments, meanings, family))
            if q.device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
                # a graph's own tensors, which hold numbers, are nothing until it is replayed
                _ready[key] = run
                if seen is not None:
                    _ready[seen] = run
    except Untraceable as error:
        raise UnsupportedArgument(str(error)) from error
    made: Tensor | tuple[Tensor, Tensor] = run(q, k, v, arguments)
    return made


# ---- the first call of a kind


class Shapes:
    """The sizes of a call, and views of tensors along its axes."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        self.batch, self.heads, self.rows = q.shape[:3]
        self.kv_heads, self.keys = k.shape[1:3]
        self.groups = self.heads // max(self.kv_heads, 1)
        self.full = {"b": self.batch, "h": self.heads, "p": self.rows, "m": self.keys}
        groups = {"g": self.groups} if self.groups > 1 else {}
        self.is_empty = 0 in (*self.full.values(), self.kv_heads)
        self.sizes = {
            "b": self.batch, "h": self.kv_heads, **groups, "p": self.rows, "m": self.keys,
            "e": q.shape[3], "f": v.shape[3],
        }  # fmt: skip

    def by_head(self, t: Tensor, axis: int) -> Tensor:
        """A tensor whose axis counts query heads, as key heads and the query heads of each."""
        if self.groups == 1:
            return t
        view: Tensor = torch.unflatten(t, axis, (self.kv_heads, self.groups))
        return view

    def along(self, t: Tensor, axes: str) -> Tensor:
        return self.by_head(t, axes.index("h")) if "h" in axes else t

    def check(self, name: str, t: object, axes: str, *own: int) -> Tensor:
        """`t`, if it is a tensor over these axes (of b, h, p, m, and "*" for one of its own, whose lengths are `own`).
        Else raises UnsupportedArgument."""
        lengths = iter(own)
        wanted = tuple(next(lengths) if a == "*" else self.full[a] for a in axes)
        if not isinstance(t, Tensor) or tuple(t.shape) != wanted:
            got = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            words = {"b": "batch", "h": "heads", "p": "queries", "m": "keys", "*": "distances"}
            raise UnsupportedArgument(
                f"`{name}` must be a tensor of shape ({', '.join(words[a] for a in axes)}) = {wanted}, but got {got}"
            )
        return t

    def broadcast(self, name: str, t: object) -> tuple[str, Callable[[Tensor], Tensor]]:
        """The axes along which a tensor that broadcasts to (b, h, p, m) varies, and its view over those."""
        if not isinstance(t, Tensor) or t.ndim > 4:
            raise UnsupportedArgument(f"`{name}` must be a tensor that broadcasts to (batch, heads, queries, keys)")
        offset = 4 - t.ndim
        for axis, n in zip(AXES[offset:], t.shape, strict=True):
            if n not in (1, self.full[axis]):
                raise UnsupportedArgument(
                    f"`{name}` must broadcast to (batch, heads, queries, keys) = {tuple(self.full.values())}, but its "
                    f"shape is {tuple(t.shape)}"
                )
        axes = "".join(a for a, n in zip(AXES[offset:], t.shape, strict=True) if n != 1)
        if not axes:
            return "m", lambda t: t.reshape(1).expand(self.keys)
        single = tuple(i for i, n in enumerate(t.shape) if n == 1)
        return axes, lambda t: self.along(t.squeeze(single), axes)


@dataclass(frozen=True)
class ModifiedCall:
    """The first call of a kind. given: its arguments of NAMES. meanings: what tracing its functions gave, by argument.
    family: a key for the kind of call, without the numbers that functions capture."""

    q: Tensor
    k: Tensor
    v: Tensor
    causal: Align | None
    scale: float
    given: Arguments
    meanings: Mapping[str, Meaning]
    family: Any


def _prepared(call: ModifiedCall) -> Run:
    changing = changing_numbers(call.family, call.meanings)
    try:
        shapes, variant, views = _read(call, changing)
        return _run(call, shapes, variant, views, (call.family, constant_numbers(call.meanings, changing)))
    except UnsupportedArgument:
        raise
    except ValueError as error:
        raise UnsupportedArgument(" ".join(str(error).split())) from error


def _read(call: ModifiedCall, changing: Mapping[str, frozenset[int]]) -> tuple[Shapes, Attention, dict[str, View]]:
    """Which attention a call asks for, and how that one's inputs come from its arguments."""
    _check_given(call)
    shapes = Shapes(call.q, call.k, call.v)
    views: dict[str, View] = {}
    modifiers = _modifiers(shapes, call, changing, views)
    given = call.given
    sinks, sigmoid, lse = "sinks" in given, bool(given.get("sigmoid")), bool(given.get("return_lse"))
    if sinks:
        _check_floating("sinks", shapes.check("sinks", given["sinks"], "h"))
        views["SINK"] = lambda a: shapes.along(a["sinks"], "h")
    weights: Weights = "sigmoid" if sigmoid else "softmax"
    variant = Attention(tuple(modifiers), weights, sinks, lse, statistics=STATISTICS in given)
    if shapes.is_empty:
        views = {}
    return shapes, variant, {name: _narrowed(name, view, view(given), call.q) for name, view in views.items()}


@dataclass(frozen=True)
class PosedCall:
    """A call as a cascade on tensors. views: the inputs in the cascade's order, from q, k, v and the arguments, without
    moving data. by_head: an output over query heads, as one over key heads and the query heads of each; flat: and
    back."""

    problem: Problem
    names: tuple[str, ...]
    views: Callable[[Tensor, Tensor, Tensor, Arguments], list[Tensor]]
    by_head: Callable[[Tensor], Tensor]
    is_empty: bool


def posed_call(q: Tensor, k: Tensor, v: Tensor, causal: Align | None, scale: float, arguments: Arguments) -> PosedCall:
    """The call that `modified_attention` would serve, as its cascade: with modifiers in the order of NAMES, as
    `attention` gives them to that. Raises UnsupportedArgument as it does."""
    arguments = {n: arguments[n] for n in (*NAMES, STATISTICS) if n in arguments}
    site = Site(("h", "g")) if q.shape[1] // max(k.shape[1], 1) > 1 else Site()
    meanings = {n: meaning(n, arguments[n], site) for n in FUNCTIONS if n in arguments}
    call = ModifiedCall(q, k, v, causal, scale, arguments, meanings, None)
    changing = {n: frozenset[int]() for n in meanings}
    shapes, variant, others = _read(call, changing)
    served = _posed(call, shapes, variant, others)

    def views(q: Tensor, k: Tensor, v: Tensor, a: Arguments) -> list[Tensor]:
        found = {"Q": shapes.by_head(q, 1), "K": k, "V": v}
        return [found[n] if n in found else others[n](a) for n in served.names]

    return PosedCall(served.problem, served.names, views, lambda t: shapes.by_head(t, 1), shapes.is_empty)


def _modifiers(
    shapes: Shapes, call: ModifiedCall, changing: Mapping[str, frozenset[int]], views: dict[str, View]
) -> Sequence[Modifier]:
    """The modifiers in the order of the arguments. For each tensor that they read, `views` is given a function from a
    call's arguments to it.

    A prefix is causal in its own way: beside it, `causal` only says how positions are aligned.
    """
    causal, given = call.causal, call.given
    align: Align = causal or "top_left"
    found: list[Modifier] = []
    for name, value in given.items():
        match name:
            case "softcap":
                found.append(Softcap(value))
            case "alibi" if value is True:
                found.append(Slopes(True, align))
            case "window":
                found.append(Window(value, bool(given.get("window_both")), align))
            case "prefix":
                found.append(Prefix(value, align))
            case "score_mod" | "mask_mod":
                comes_to = call.meanings[name]
                check_filters(name, comes_to, shapes.sizes)
                found.append(outcome(name, comes_to, changing[name]))
                views |= _captures(shapes, name, value, comes_to)
                views |= number_views(name, comes_to, changing[name], call.q)
            case "head_scale" | "alibi" | "bias" | "relative_bias" | "documents" | "mask":
                modifier, own = _of_tensors(shapes, name, value, align)
                found.append(modifier)
                views |= own
            case _:
                pass
    return [*found, *([Causal(causal)] if causal and "prefix" not in given else [])]


def _of_tensors(shapes: Shapes, name: str, value: Any, align: Align) -> tuple[Modifier, dict[str, View]]:
    """A modifier that reads tensors, and how the kernel's inputs come from them. Raises UnsupportedArgument for a
    tensor of another shape or dtype."""
    match name:
        case "head_scale":
            _check_floating(name, shapes.check(name, value, "h"))
            return HeadScale(), {"HS": lambda a: shapes.along(a["head_scale"], "h")}
        case "alibi":
            _check_floating(name, shapes.check(name, value, "h"))
            return Slopes(False, align), {"SLOPE": lambda a: shapes.along(a["alibi"], "h")}
        case "bias":
            axes, view = shapes.broadcast(name, value)
            _check_floating(name, value)
            return Bias(axes), {"BIAS": partial(_viewed, name, view)}
        case "relative_bias":
            columns = shapes.rows + shapes.keys - 1
            _check_floating(name, shapes.check(name, value, "h*", columns))
            return RelativeBias(columns), {"REL": lambda a: shapes.along(a["relative_bias"], "h*")}
        case "documents":
            return Documents(), _documents(shapes, value)
        case "mask":
            axes, view = shapes.broadcast(name, value)
            if value.dtype != torch.bool:
                raise UnsupportedArgument(f"`mask` must have dtype torch.bool, but got {value.dtype}")
            return Mask(axes), {"MASK": partial(_viewed, name, view)}
        case _:
            raise ValueError(f"no modifier reads tensors of the name {name!r}")


def _check_floating(name: str, t: Tensor) -> None:
    """What is added to scores, or multiplied with them, is no mask and no count. Raises UnsupportedArgument for one."""
    if not (t.is_floating_point() or t.is_complex()):  # complex numbers are refused with all dtypes that have no name
        hint = "; what hides keys is a boolean `mask`" if name == "bias" else ""
        raise UnsupportedArgument(f"`{name}` must have a floating-point dtype, but got {t.dtype}{hint}")


def _viewed(name: str, view: Callable[[Tensor], Tensor], arguments: Arguments) -> Tensor:
    return view(arguments[name])


def _documents(shapes: Shapes, given: object) -> dict[str, View]:
    """Of queries and of keys: a pair, or one tensor for both, with or without the batch."""
    pair = isinstance(given, (tuple, list)) and len(given) == 2
    both = (given[0], given[1]) if isinstance(given, (tuple, list)) and pair else (given, given)
    for wanted, axis in zip(both, "pm", strict=True):
        t = shapes.check("documents", wanted, axis if getattr(wanted, "ndim", 2) == 1 else "b" + axis)
        if t.dtype not in (torch.int32, torch.int64):
            raise UnsupportedArgument(f"`documents` must have dtype torch.int32 or torch.int64, but got {t.dtype}")

    def view(position: int, axis: str) -> View:
        shape = (shapes.batch, shapes.full[axis])
        return lambda a: (a["documents"][position] if pair else a["documents"]).expand(shape)

    return {"DOCQ": view(0, "p"), "DOCK": view(1, "m")}


def _captures(shapes: Shapes, argument: str, function: Callable[..., Any], comes_to: Meaning) -> dict[str, View]:
    """Captured tensors, found again in the function of each call by the name under which it sees them."""
    found: dict[str, View] = {}
    for name, (tensor, axes) in comes_to.trace.tensors.items():
        own = (n for n, a in zip(tensor.shape, axes, strict=True) if a == "*")
        # A table may go on beyond the positions that there are.
        longer = [i for i, a in enumerate(axes) if a in "pm" and tensor.shape[i] > shapes.full[a]]
        read = _narrow(tensor, axes, longer, shapes)
        shapes.check(f"{argument}'s {name[2:].lower()}", read, axes, *own)
        if isinstance(function, Written):
            found[name] = partial(_written, shapes, argument, name, axes, longer)
            continue

        def view(
            a: Arguments, path: Path = comes_to.trace.paths[name], axes: str = axes, longer: Sequence[int] = longer
        ) -> Tensor:
            return shapes.along(_narrow(follow(a[argument], path), axes, longer, shapes), axes)

        found[name] = view
    return found


def _narrow(t: Any, axes: str, longer: Sequence[int], shapes: Shapes) -> Any:
    """Some axes of a tensor as long as there are positions."""
    for i in longer:
        t = t.narrow(i, 0, shapes.full[axes[i]])
    return t


def _written(shapes: Shapes, argument: str, name: str, axes: str, longer: Sequence[int], a: Arguments) -> Tensor:
    return shapes.along(_narrow(a[argument].tensors[name], axes, longer, shapes), axes)


def _check_given(call: ModifiedCall) -> None:
    """Before anything looks at them: the tensors that were given, and those that functions read."""
    for name, given in call.given.items():
        for t in given if isinstance(given, (tuple, list)) else (given,):
            if isinstance(t, Tensor) and t.device == call.q.device:
                check_plain(name, t)
    for m in call.meanings.values():
        for name, (t, _) in m.trace.tensors.items():
            if t.device == call.q.device:
                check_plain(f"captured {name[2:].lower()}", t)


def _label(name: str) -> str:
    """What a caller calls an input."""
    return LABELS.get(name, f"captured {name[2:].lower()}")


def _narrowed(name: str, view: View, t: Tensor, q: Tensor) -> View:
    """A view that gives float32 where a tensor is float64 and `q` is not: nothing else would run as fast. Raises
    UnsupportedArgument for a tensor that no kernel reads beside `q`."""
    label = _label(name)
    if t.device != q.device:
        raise UnsupportedArgument(f"`{label}` must be on the device of `q` ({q.device}), but is on {t.device}")
    if t.dtype != torch.float64 or q.dtype == torch.float64:
        return view
    say_once(f"eintune: `{label}` is float64 beside {q.dtype} tensors: it is made float32 at each call")
    return lambda a: view(a).float()


@dataclass
class Served:
    """What serves one kind of call. outputs: their shapes and dtypes. makers: what makes them. fill: once it was
    called."""

    problem: Problem
    names: tuple[str, ...]
    outputs: Sequence[tuple[tuple[int, ...], torch.dtype]]
    makers: Sequence[Callable[[Tensor], Tensor]]
    fill: Fill | None = None


_served: Recent[Any, Served] = Recent(MOST_READY)


def _run(call: ModifiedCall, shapes: Shapes, variant: Attention, views: Mapping[str, View], key: Any) -> Run:
    served = _served.get(key)
    if served is None:
        served = _served[key] = _posed(call, shapes, variant, views)
    if shapes.is_empty:
        return partial(_empty, served.outputs)
    names = served.names
    by_head = [n == "Q" for n in names] + [True] * len(served.outputs)

    def view(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [shapes.by_head(t, 1) if has_heads else t for t, has_heads in zip(tensors, by_head, strict=True)]

    def run(q: Tensor, k: Tensor, v: Tensor, a: Arguments) -> Any:
        found = {"Q": q, "K": k, "V": v}
        tensors = [found[n] if n in found else views[n](a) for n in names]
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            raise NeedsGradient(FORWARD_ONLY)
        made = [new(q) for new in served.makers]
        tensors += made
        if served.fill is None:
            served.fill = serve(served.problem, view(tensors), view)
        else:
            served.fill(tensors)
        return made[0] if len(made) == 1 else tuple(made)

    return run


def _posed(call: ModifiedCall, shapes: Shapes, variant: Attention, views: Mapping[str, View]) -> Served:
    problem = posed(variant, shapes.sizes, dtype_name(call.q, "q"), {"scale": call.scale})
    cascade = variant.cascade(grouped="g" in shapes.sizes)
    rows = (shapes.batch, shapes.heads, shapes.rows)
    outputs = [
        ((*rows, *((call.v.shape[3],) if n == "AV" else ())), DTYPES[problem.dtypes[n]]) for n in cascade.outputs
    ]
    problem.dtypes.update({name: dtype_name(view(call.given), _label(name)) for name, view in views.items()})
    makers = [Empty(tuple(shape), dtype, call.q) for shape, dtype in outputs]
    return Served(problem, tuple(cascade.inputs), outputs, makers)


def _empty(
    outputs: Sequence[tuple[tuple[int, ...], torch.dtype]], q: Tensor, k: Tensor, v: Tensor, a: Arguments
) -> Any:
    """What queries get that see no key at all: 0, and the log of a denominator that has the sinks alone."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        raise NeedsGradient(FORWARD_ONLY)
    (shape, dtype), *logs = outputs
    made = [torch.zeros(shape, dtype=dtype, device=q.device)]
    sinks = a.get("sinks")
    for shape, dtype in logs:
        log = torch.full(shape, -torch.inf, dtype=dtype, device=q.device)
        made.append(log if sinks is None else log.copy_(sinks[:, None].expand(shape)))
    if STATISTICS in a and sinks is not None:
        made[-1].zero_()  # the sink is the greatest, and all there is
    return made[0] if len(made) == 1 else tuple(made)
