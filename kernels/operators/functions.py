"""Functions of the user's as text: what tracing them gave, an einsum of the score, in the notation of cascades."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from torch import Tensor

from eintune.kernels.serve.call_kinds import Written, meaning
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.einsum import Einsum
from eintune.space.ir.expr import Param, reads, topological
from eintune.space.ir.expr import Tensor as Output
from eintune.space.tracing.site import Site
from eintune.space.workloads.function_modifiers import SCORE, traced

RESULT = "R"


class FunctionText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """text: one einsum of `score` over all positions. grouped: whether heads share keys. tensors: those that it reads,
    by their places among an operator's inputs; axes: which positions index each ("*": something else)."""

    text: str
    grouped: bool = False
    tensors: dict[str, int] = {}
    axes: dict[str, str] = {}


def site_of(grouped: bool) -> Site:
    return Site(("h", "g")) if grouped else Site()


def write_function(
    argument: str, function: Callable[..., Any], grouped: bool, first: int
) -> tuple[FunctionText, list[Tensor]]:
    """A "score_mod" or a "mask_mod" as text, and the tensors that it captures, which are inputs from place `first` on.
    Raises Untraceable, and UnsupportedArgument for what has no text."""
    site = site_of(grouped)
    meaning(argument, function, site)  # which says what is wrong with what it captures
    made, trace = traced(argument, function, site)
    if trace.elements:
        raise UnsupportedArgument(f"`{argument}` reads a number from a tensor, which is another one at each call")
    einsum = Einsum(Output(RESULT, ("b", *site.heads, "p", "m")), made)
    text = str(Cascade((einsum,)))
    places = {name: first + n for n, name in enumerate(trace.tensors)}
    written = FunctionText(text, grouped, places, {name: axes for name, (_, axes) in trace.tensors.items()})
    if read_function(written).made is not made:
        raise UnsupportedArgument(f"`{argument}` comes to what has no text")
    return written, [t for t, _ in trace.tensors.values()]


def read_function(written: FunctionText) -> Written:
    """What stands for the function in a call, without its tensors. Raises UnsupportedArgument for a text that
    `write_function` does not write."""
    site = site_of(written.grouped)
    try:
        (einsum,) = Cascade.parse(written.text).einsums
    except ValueError as error:
        raise UnsupportedArgument(f"a function's text must be one einsum: {' '.join(str(error).split())}") from None
    if einsum.output.ranks != ("b", *site.heads, "p", "m"):
        raise UnsupportedArgument(f"a function's text must be over all positions, but is over {einsum.output.ranks}")
    if others := {x.name for x in topological([einsum.expr]) if isinstance(x, Param) and x is not SCORE}:
        raise UnsupportedArgument(f"a function's text has the score alone, but reads {', '.join(sorted(others))}")
    names = {x.tensor.name for x in reads([einsum.expr])}
    if not names == set(written.tensors) == set(written.axes):
        raise UnsupportedArgument(f"a function's text reads {sorted(names)}, but its inputs are {written.tensors}")
    return Written(einsum.expr, site, dict(written.axes))
