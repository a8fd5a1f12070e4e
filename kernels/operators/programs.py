"""What an operator is told besides its tensors: a text that says the same in every process.

A call's options are numbers, names, and tensors, which are inputs of the operator by their place among them. Functions
are written as what tracing them gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from torch import Tensor

from eintune.kernels.packed.arguments import Options
from eintune.kernels.packed.attention import wanted
from eintune.kernels.serve.call_kinds import Written
from eintune.kernels.serve.errors import UnsupportedArgument
from eintune.kernels.serve.modified_attention import FUNCTIONS, NAMES, STATISTICS

from .functions import FunctionText, read_function

Option: TypeAlias = bool | int | float
S = TypeVar("S", bound=msgspec.Struct)
Place: TypeAlias = int | tuple[int, int]


class AttentionProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Of a call of attention. options: its arguments that are numbers; inputs: those that are tensors, or a pair of
    them, by their places among the operator's; functions: those that are functions."""

    causal: Literal["top_left", "lower_right"] | None = None
    scale: float | None = None
    options: dict[str, Option] = {}
    inputs: dict[str, Place] = {}
    functions: dict[str, FunctionText] = {}

    def text(self) -> str:
        return msgspec.json.encode(self, order="sorted").decode()


class CascadeProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Of a compiled cascade: what it states of itself, the arguments of `compile`."""

    cascade: str
    params: dict[str, float] = {}
    sizes: dict[str, int] = {}
    dtype: str | dict[str, str] | None = None
    name: str = "cascade"


@dataclass(frozen=True)
class Prepared:
    """A program of attention, as it is called: read once. count: of the inputs besides q, k and v."""

    program: AttentionProgram
    functions: Mapping[str, Written]
    count: int

    def arguments(self, others: Sequence[Tensor]) -> dict[str, Any]:
        """Those of `attention` by name, without `causal` and `scale`. Raises UnsupportedArgument for another number of
        inputs than the program reads."""
        if len(others) != self.count:
            raise UnsupportedArgument(f"the operator's program reads {self.count} inputs, but got {len(others)}")
        found: dict[str, Any] = dict(self.program.options)
        for name, place in self.program.inputs.items():
            found[name] = others[place] if isinstance(place, int) else (others[place[0]], others[place[1]])
        for name, function in self.functions.items():
            places = self.program.functions[name].tensors
            found[name] = replace(function, tensors={n: others[place] for n, place in places.items()})
        return found


@lru_cache(maxsize=1024)
def prepared(text: str) -> Prepared:
    """Raises UnsupportedArgument for a text that is no program."""
    program = _read(text, AttentionProgram)
    if unknown := sorted({*program.options, *program.inputs, *program.functions} - {*NAMES, STATISTICS}):
        raise UnsupportedArgument(f"modifiers are {', '.join(NAMES)}, but got {', '.join(unknown)}")
    if surplus := sorted(set(program.functions) - set(FUNCTIONS)):
        raise UnsupportedArgument(f"functions are {', '.join(FUNCTIONS)}, but got {', '.join(surplus)}")
    functions = {name: read_function(f) for name, f in program.functions.items()}
    places = [n for place in program.inputs.values() for n in ((place,) if isinstance(place, int) else place)]
    places += [n for f in program.functions.values() for n in f.tensors.values()]
    if sorted(places) != [*range(len(places))]:
        raise UnsupportedArgument(f"an operator's program must read each input once, but reads {sorted(places)}")
    return Prepared(program, functions, len(places))


@lru_cache(maxsize=1024)
def cascade_program(text: str) -> CascadeProgram:
    """Raises UnsupportedArgument for a text that is no program."""
    return _read(text, CascadeProgram)


PACKED_INPUTS = ("seqused_k", "cu_seq_q", "sinks", "alibi")
"""The inputs that an operator's program may name."""


class PackedProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an operator is told besides its tensors: a call's options, and its other tensors by their places among the
    operator's."""

    causal: bool | str = False
    scale: float | None = None
    window: int | None = None
    window_size: tuple[int, int] | None = None
    softcap: float | None = None
    alibi: bool = False
    return_lse: bool = False
    inputs: dict[str, int] = {}

    def options(self) -> Options:
        return wanted(
            self.causal, self.scale, self.window, self.window_size, self.softcap, self.alibi or None, self.return_lse
        )

    def arguments(self, others: list[Tensor]) -> dict[str, Any]:
        """Those of an eager call by name."""
        found: dict[str, Any] = {n: getattr(self, n) for n in ("causal", "scale", "window", "window_size", "softcap")}
        found |= {"return_lse": self.return_lse, "alibi": self.alibi or None}
        return found | {name: others[place] for name, place in self.inputs.items()}


@lru_cache(maxsize=1024)
def packed_program(text: str) -> PackedProgram:
    """Raises UnsupportedArgument for a text that is no program."""
    program = _read(text, PackedProgram)
    if surplus := sorted(set(program.inputs) - set(PACKED_INPUTS)):
        raise UnsupportedArgument(f"an operator's inputs are {', '.join(PACKED_INPUTS)}, but got {', '.join(surplus)}")
    if sorted(program.inputs.values()) != [*range(len(program.inputs))]:
        raise UnsupportedArgument(f"an operator's program must read each input once, but reads {program.inputs}")
    program.options()
    return program


def _read(text: str, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise UnsupportedArgument(f"an operator's program must be what this version writes: {error}") from None
