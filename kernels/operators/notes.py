"""Functions of the user's under PyTorch's compiler, which reads them as it reads all of a program: they are called with
arguments that note what is done, so that whatever they see (numbers, tensors, attributes) is what the compiler sees, is
guarded by it, and is an input of its graph where it is a tensor. The notes are constant, and are traced.

The compiler reads what stands here, but for `replay` and what is of `constant_result`. What it cannot read so (a
captured tensor with several indices) breaks its graph, and the call is an eager one. It answers a comparison of an
object and a symbol by itself, and wrongly: so a function that compares may see no number that could be one.
"""

from __future__ import annotations

import dis
import operator
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any

from torch import Tensor

from eintune.kernels.serve.call_kinds import seen_numbers
from eintune.space.tracing.deferred import Deferred
from eintune.space.tracing.proxies import Captured, apply
from eintune.space.tracing.refusals import Untraceable

from .refusals import constant_result, settled

ALONE, NOTED = "alone", "noted"
"""Ways to read a function: as it is, since it sees nothing besides its arguments, and by what it notes."""
COMPARING = ("COMPARE_OP", "CONTAINS_OP", "IS_OP", "POP_JUMP", "JUMP_IF")
MODULES = ("torch", "math", "eintune", "abs", "float", "int")
"""Globals that hold no numbers of the user's."""
OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
SINGLE = ("neg", "abs", "invert")
ARGUMENT, TENSOR, NUMBER, TUPLE, OPERATOR, APPLY, METHOD = (
    "argument",
    "tensor",
    "number",
    "tuple",
    "op",
    "apply",
    "method",
)


class Note(Deferred):
    """A value, as what was done to get it: nested tuples of constants. seen: the tensors that were met so far."""

    def __init__(self, said: tuple[Any, ...], seen: list[Tensor]) -> None:
        self.said, self.seen = said, seen

    __hash__ = None  # type: ignore[assignment]

    def deferred(self, name: str, args: tuple[Any, ...], bounds: Mapping[str, Any]) -> Note:
        given = tuple([_said(x, self.seen) for x in args])
        named = tuple([(n, _said(x, self.seen)) for n, x in bounds.items()])
        return Note((APPLY, name, given, named), self.seen)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in args:
            if isinstance(x, Note):
                return x.deferred(function.__name__, args, kwargs or {})
            if isinstance(x, tuple):
                for y in x:
                    if isinstance(y, Note):
                        return y.deferred(function.__name__, args, kwargs or {})
        raise Untraceable(f"a traced function cannot use {function.__name__} of these arguments")

    def __getattr__(self, name: str) -> Any:
        def method(*args: Any, **named: Any) -> Note:
            given = tuple([_said(x, self.seen) for x in args])
            bounds = tuple([(n, _said(x, self.seen)) for n, x in named.items()])
            return Note((METHOD, name, (self.said, *given), bounds), self.seen)

        return method

    def __bool__(self) -> bool:
        raise Untraceable(
            "a traced function cannot use a traced value where Python needs true or false (if, and, or, not): use "
            "where(…), &, | and ~"
        )


def _operator(name: str, swapped: bool) -> Callable[[Note, Any], Note]:
    def of_two(self: Note, other: Any) -> Note:
        pair = (self.said, _said(other, self.seen))
        return Note((OPERATOR, name, (pair[1], pair[0]) if swapped else pair, ()), self.seen)

    return of_two


def _alone(name: str) -> Callable[[Note], Note]:
    return lambda self: Note((OPERATOR, name, (self.said,), ()), self.seen)


for _name in OPERATORS:
    setattr(Note, f"__{_name}__", _operator(_name, False))
    setattr(Note, f"__r{_name}__", _operator(_name, True))
for _name in COMPARISONS:
    setattr(Note, f"__{_name}__", _operator(_name, False))
for _name in SINGLE:
    setattr(Note, f"__{_name}__", _alone(_name))


def _said(x: Any, seen: list[Tensor]) -> tuple[Any, ...]:
    """An operand: a number is one that the compiler guards."""
    if isinstance(x, Note):
        return x.said
    if isinstance(x, Tensor):
        for n, t in enumerate(seen):
            if t is x:
                return (TENSOR, n)
        seen.append(x)
        return (TENSOR, len(seen) - 1)
    if isinstance(x, tuple):
        return (TUPLE, tuple([_said(y, seen) for y in x]))
    if x is None or isinstance(x, (bool, int, float)):
        return (NUMBER, settled(x))
    raise Untraceable(f"a traced function cannot use a {type(x).__name__} as an operand")


def way_to_read(argument: str, function: Any, arguments: int) -> str:
    """ALONE, NOTED, or why a function cannot be read."""
    found = _by_code(argument, getattr(function, "__code__", None), arguments)
    return found or _by_sight(argument, function)


@constant_result
def _by_code(argument: str, code: CodeType | None, arguments: int) -> str:
    """What the code alone says, or "". A function that is made within the program cannot be looked at otherwise if it
    has variables around it."""
    if code is None:
        return f"`{argument}` must be a function for a compiler, no method and no partial"
    if code.co_argcount + code.co_kwonlyargcount != arguments:
        return f"`{argument}` must have {arguments} arguments and no others"
    if not code.co_freevars:
        return ""
    return NOTED if is_innocent(code) else _compares(argument, ", ".join(code.co_freevars))


@constant_result
def _by_sight(argument: str, function: Any) -> str:
    try:
        alone, numbers = seen_numbers(function)
    except (Untraceable, AttributeError) as error:
        return str(error)
    return _compares(argument, numbers) if numbers else ALONE if alone else NOTED


def _compares(argument: str, names: str) -> str:
    return (
        f"`{argument}` may compare positions with {names}, which may be a symbol to a compiler: use arguments of the "
        "call in its place (window, prefix, documents, …), or write the number out"
    )


def is_innocent(code: CodeType) -> bool:
    """Whether code with variables around it compares nothing that may be a symbol: it compares nothing at all and calls
    nothing of theirs, or does no more with them than to index them by an argument."""
    steps = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "NOP", "RESUME", "PUSH_NULL")]
    if any(isinstance(x, CodeType) for x in code.co_consts):
        return False
    if any(i.opname in ("LOAD_GLOBAL", "LOAD_NAME") and i.argval not in MODULES for i in steps):
        return False
    if not any(i.opname.startswith(("CALL", "PRECALL", "LOAD_ATTR", "LOAD_METHOD", *COMPARING)) for i in steps):
        return True
    ends = [("", ""), ("", "")]
    after = [(i.opname, i.argrepr) for i in steps] + ends
    return all(
        after[n + 1][0].startswith("LOAD_FAST")
        and (after[n + 2][0] == "BINARY_SUBSCR" or after[n + 2] == ("BINARY_OP", "[]"))
        for n, i in enumerate(steps)
        if i.opname in ("LOAD_DEREF", "LOAD_CLOSURE")
    )


def note(function: Callable[..., Any], arguments: int) -> tuple[tuple[Any, ...], list[Tensor]]:
    """What a function of so many arguments does with them, and the tensors that it does it with."""
    seen: list[Tensor] = []
    result = function(*[Note((ARGUMENT, n), seen) for n in range(arguments)])
    return _said(result, seen), seen


def replay(notes: tuple[Any, ...], tensors: Sequence[Tensor], arguments: int) -> Callable[..., Any]:
    """A function that does what was noted, for tracing. tensors: stand for those that were seen."""
    again = _Again(notes, tensors)
    if arguments == 5:
        return lambda score, b, h, p, m: again(score, b, h, p, m)
    return lambda b, h, p, m: again(b, h, p, m)


class _Again:
    """Does what was noted. It has no attributes that tracing looks into for tensors."""

    __slots__ = ("notes", "tensors")

    def __init__(self, notes: tuple[Any, ...], tensors: Sequence[Tensor]) -> None:
        self.notes, self.tensors = notes, tensors

    def __call__(self, *given: Any) -> Any:
        return self._value(self.notes, given)

    def _value(self, said: tuple[Any, ...], given: tuple[Any, ...]) -> Any:
        match said:
            case ("argument", n):
                return given[n]
            case ("tensor", n):
                name = "t" + "abcdefghijklmnopqrstuvwxyz"[n % 26] * (n // 26 + 1)
                return Captured(given[-1]._record, name, self.tensors[n])
            case ("number", x):
                return x
            case ("tuple", parts):
                return tuple(self._value(x, given) for x in parts)
            case (how, name, args, named):
                values = [self._value(x, given) for x in args]
                bounds = {n: self._value(x, given) for n, x in named}
                if how == METHOD:
                    return getattr(values[0], name)(*values[1:], **bounds)
                return _done(how, name, values, bounds)
        raise Untraceable(f"a traced function cannot use {said!r}")


def _done(how: str, name: str, args: list[Any], named: dict[str, Any]) -> Any:
    """An operator, or a function by PyTorch's name; those of its names that are operators' (`__getitem__`, `__rsub__`)
    are these."""
    bare = name.strip("_") if how == APPLY and name.startswith("__") else name
    if how == OPERATOR or bare != name:
        if bare.startswith("r") and bare[1:] in OPERATORS:
            bare, args = bare[1:], args[::-1]
        symbol = {"and": "and_", "or": "or_"}.get(bare, bare)
        if bare in (*OPERATORS, *COMPARISONS, *SINGLE, "getitem"):
            return getattr(operator, symbol)(*args)
    return apply(name, *args, **named)
