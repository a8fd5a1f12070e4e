"""Functions of scores and positions, written in Python, as expressions: run once on proxies that record.

A score function takes (score, b, h, p, m) and returns the changed score; a mask function takes (b, h, p, m) and says
what is seen. They may use Python's operators, the functions below, PyTorch's functions of the same names, numbers, and
tensors around them, indexed by positions and by whole numbers computed of them: `slopes[h]`, `documents[b, m]`,
`table[h, buckets[p - m + 63]]`. Comparisons of positions become filters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from eintune.space.ir.expr import (
    Access,
    Computed,
    Const,
    Expr,
    Gather,
    Index,
    Integer,
    Iota,
    Map,
    Part,
    Predicate,
    Rank,
    Size,
    Term,
)
from eintune.space.ir.index_arithmetic import is_constant

from .captures import letters
from .conditions import Condition, boolean, holds
from .deferred import Deferred
from .names import BINARY, CLAMPS, COMPARISONS, FILLED, LOGIC, MOST_FACTORS, UNARY
from .positions import integer_of, position_terms
from .record import AXES, TraceRecord, kind_of
from .refusals import refuse


class Traced:
    """A value, a position or a condition that is being recorded. whole: whether it is a whole number everywhere.
    integer: the same as an index that may address an axis, None where it cannot."""

    __array_ufunc__ = None  # NumPy's numbers leave operators to what is on their right

    def __init__(self, record: TraceRecord, value: Expr, whole: bool = False, integer: Integer | None = None) -> None:
        self._record, self._value, self._whole, self._integer = record, value, whole, integer

    # ---- arithmetic

    def __add__(self, other: Any) -> Any:
        return _binary("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return _binary("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return _binary("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _binary("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return _binary("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _binary("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return _binary("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _binary("div", other, self)

    def __floordiv__(self, other: Any) -> Any:
        n = _number(other, "//")
        return Traced(self._record, self._quotient(n), True, self._part("//", n))

    def __mod__(self, other: Any) -> Any:
        n = _number(other, "%")
        value = self._value - self._quotient(n) * float(n)
        return Traced(self._record, value, self._whole and _is_whole(n), self._part("%", n))

    def _part(self, op: str, n: int | float) -> Integer | None:
        return Part(op, self._integer, n) if isinstance(self._integer, str) and isinstance(n, int) else None

    def _quotient(self, n: int | float) -> Expr:
        """floor(x / n). A kernel may multiply by 1/n, rounded, or divide term by term: of whole numbers the middle
        between x and x + 1 is taken, which no such rounding moves past the next multiple."""
        exact = not (self._whole and _is_whole(n)) or math.log2(n).is_integer()
        return Map("floor", ((self._value if exact else self._value + 0.5) / float(n),))

    def __neg__(self) -> Any:
        return _binary("mul", self, -1)

    def __abs__(self) -> Any:
        return apply("abs", self)

    # ---- comparisons and logic

    def __lt__(self, other: Any) -> Any:
        return _compared("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return _compared("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return _compared("gt", self, other)

    def __ge__(self, other: Any) -> Any:
        return _compared("ge", self, other)

    def __eq__(self, other: object) -> Any:
        return _compared("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return _compared("ne", self, other)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Any) -> Any:
        return Seen(self._record, condition_of(self) & condition_of(other))

    def __or__(self, other: Any) -> Any:
        return Seen(self._record, condition_of(self) | condition_of(other))

    def __invert__(self) -> Any:
        return Seen(self._record, ~condition_of(self))

    __rand__, __ror__ = __and__, __or__

    # ---- what has no expression

    def __bool__(self) -> bool:
        refuse("a traced value where Python needs true or false (if, and, or, not)", "use where(…), &, | and ~")

    def __index__(self) -> int:
        refuse("a position as a number", "index a tensor that the function captures, such as slopes[h]")

    def __float__(self) -> float:
        refuse("a traced value as a number", "use the operators and functions of eintune.space.tracing.proxies")

    __int__ = __index__

    def __iter__(self) -> Any:
        refuse("a loop over a traced value", "it is one number for each (b, h, p, m)")

    def __getitem__(self, index: Any) -> Any:
        refuse("an index on a traced value", "only tensors that the function captures are indexed")

    def __pow__(self, other: Any) -> Any:
        if not _whole(other) or not 1 <= other <= MOST_FACTORS:
            refuse(f"** {other!r}", f"whole powers go from 1 to {MOST_FACTORS}; others are exp(log(x) * y)")
        root = self if other < 4 else self ** (other // 2)
        if other < 4:
            return self if other == 1 else _binary("mul", self ** (other - 1), self)
        square = _binary("mul", root, root)
        return _binary("mul", square, self) if other % 2 else square

    def __getattr__(self, name: str) -> Any:
        plain = name.rstrip("_")
        if (plain in UNARY or plain in CLAMPS or plain in ("pow", "square")) and not name.startswith("__"):
            return lambda *args, **bounds: apply(plain, self, *args, **bounds)
        if plain in ("int", "long") and self._whole:
            return lambda: self
        if name == "device":  # of conditions that are put together: `mask.to(result.device)`
            return None
        if name in FILLED:
            return lambda *args, **given: _filled(self._record, name, *args, **given)
        if plain in ("float", "double", "half", "bfloat16", "to", "type_as"):
            return lambda *_, **__: self  # values are computed in float32 anyway
        refuse(f".{name}", f"the functions are {', '.join(sorted((*UNARY, *BINARY, 'where')))}")

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """PyTorch's functions of the same names."""
        if kwargs and function.__name__ not in CLAMPS:
            refuse(f"{function.__name__} with {', '.join(kwargs)}", "leave them out")
        if function.__name__ == "__getitem__":
            refuse(
                "a tensor that it reaches through an object, a list or a default",
                "give the tensor a name of its own around the function, such as slopes = self.slopes",
            )
        return apply(function.__name__, *args, **(kwargs or {}))


class Seen(Traced):
    """A condition."""

    def __init__(self, record: TraceRecord, condition: Condition) -> None:
        super().__init__(record, Const(0.0))
        self._condition = condition


class Position(Traced):
    """An affine combination of positions: sum(coef * index * |stride|) + const."""

    def __init__(self, record: TraceRecord, terms: Mapping[tuple[Rank, Rank | None], int], const: int = 0) -> None:
        value: Expr | None = None
        for (rank, stride), coef in sorted(terms.items(), key=lambda item: -item[1]):
            term = Iota(rank) * Size(stride) if stride else Iota(rank)
            term = term if abs(coef) == 1 else term * float(abs(coef))
            start = term if coef > 0 else term * -1.0
            value = start if value is None else value + term if coef > 0 else value - term
        shifted = Const(float(const)) if value is None else value if const == 0 else value + float(const)
        super().__init__(record, shifted, True, integer_of(terms, const))
        self._terms, self._const = dict(terms), const

    def _plus(self, other: Position | int, sign: int) -> Position:
        terms, const = dict(self._terms), self._const
        if isinstance(other, int):
            return Position(self._record, terms, const + sign * other)
        for key, coef in other._terms.items():
            terms[key] = terms.get(key, 0) + sign * coef
        return Position(self._record, {k: c for k, c in terms.items() if c}, const + sign * other._const)

    def _times(self, n: int) -> Position:
        return Position(self._record, {k: c * n for k, c in self._terms.items() if n}, self._const * n)

    def _predicate(self, extra: int = 0) -> Predicate:
        """This plus `extra` is at least 0."""
        terms = sorted(self._terms.items(), key=lambda item: item[1])
        return Predicate(tuple(Term(r, c, stride) for (r, stride), c in terms), (), self._const + extra)


class Captured:
    """A tensor that the function captures; an index of positions reads it."""

    def __init__(self, record: TraceRecord, name: str, tensor: Any, path: Any = ()) -> None:
        self._record, self._name, self._tensor, self._path = record, name, tensor, path

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if len(parts) != len(self._tensor.shape):
            refuse(
                f"{self._name} with {len(parts)} of its {len(self._tensor.shape)} indices",
                "give one index for each axis",
            )
        if any(map(_whole, parts)):
            return self._selected(parts)
        found = [_axis(self._record, self._name, p) for p in parts]
        axes = "".join(i if isinstance(i, str) else "*" for i in found)
        if any(axes.count(a) > 1 for a in AXES):
            refuse(f"{self._name}[{', '.join(axes)}]", "a position indexes one axis only")
        numbers = tuple(i[0] for i in found if not isinstance(i, str))
        return _read(self._record, self._record.read(self._name, self._tensor, axes, self._path, numbers))

    def _selected(self, parts: tuple[Any, ...]) -> Any:
        """Read at numbers along some axes, which a view leaves out."""
        name, tensor, path = self._name, self._tensor, self._path
        for axis in reversed([i for i, p in enumerate(parts) if _whole(p)]):
            if not -tensor.shape[axis] <= parts[axis] < tensor.shape[axis]:
                refuse(f"{name} with the index {parts[axis]}", f"that axis has {tensor.shape[axis]} elements")
            path = (*path, ("select", (axis, parts[axis])))
            name, tensor = self._record.view(name + letters(parts[axis]), tensor, path)
        found = Captured(self._record, name, tensor, path)
        return found[tuple(p for p in parts if not _whole(p))] if tensor.shape else found.scalar()

    def scalar(self) -> Traced:
        """Its number, where it has no axes."""
        if self._tensor.shape:
            refuse(f"{self._name} without an index", "a captured tensor is indexed by positions, such as slopes[h]")
        return _read(self._record, self._record.read(self._name, self._tensor, "", self._path))

    def __bool__(self) -> bool:
        refuse(f"{self._name} where Python needs true or false (if, and, or, not)", "use where(…), &, | and ~")

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "device", "ndim"):
            return getattr(self._tensor, name)
        refuse(f"{self._name}.{name}", "a captured tensor is indexed by positions; prepare it before")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        refuse(f"{function.__name__} of a whole tensor", "a captured tensor is indexed by positions; prepare it before")


def _arithmetic(symbol: str) -> Callable[..., Any]:
    def of_whole(self: Captured, *others: Any) -> Any:
        return getattr(self.scalar(), symbol)(*others)

    return of_whole


SYMBOLS = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv mod pow neg abs lt le gt ge eq ne and or rand ror invert"
)
for _symbol in SYMBOLS.split():
    setattr(Captured, f"__{_symbol}__", _arithmetic(f"__{_symbol}__"))


def _read(record: TraceRecord, x: Access | Gather) -> Traced:
    if x.tensor.kind == "bool":
        return Seen(record, boolean(x))
    whole = x.tensor.kind == "int"
    # an element that is 0 beyond an axis addresses none: what is beyond is not told from the first
    return Traced(record, x, whole, x if whole and not (isinstance(x, Gather) and x.padded) else None)


def _axis(record: TraceRecord, name: str, index: Any) -> str | tuple[Index]:
    """A position as it is given, by its name, or a number that is computed."""
    if isinstance(index, Position):
        for axis in AXES:
            if index._terms == position_terms(record.site, axis) and index._const == 0:
                return axis
    if isinstance(index, Captured):
        index = index.scalar()
    found = index._integer if isinstance(index, Traced) else None
    if found is not None and not isinstance(found, (int, Size)):
        return (found,)
    kind = "a slice" if isinstance(index, slice) else f"the index {index!r}" if isinstance(index, int) else "an index"
    refuse(
        f"{name} with {kind} that is no whole number of positions",
        "index it by b, h, p, m, elements of integer tensors, what +, -, * by a whole number, abs, minimum, maximum "
        "and clamp make of them, or // and % of a position",
    )


# ---- operators


def _computed(op: str, *args: Any) -> Integer | None:
    """An operation on numbers that may address an axis, if it gives one."""
    found = tuple(map(_integer_in, args))
    known = tuple(i for i in found if i is not None)
    if len(known) < len(args) or (op == "mul" and not any(map(is_constant, known))):
        return None
    return Computed(op, known)


def _integer_in(x: Any) -> Integer | None:
    if isinstance(x, Captured):
        x = x.scalar()
    return x._integer if isinstance(x, Traced) else int(x) if _whole(x) else None


def expression_of(x: Any) -> Expr:
    match x:
        case Seen():
            return x._condition.boolean()
        case Traced():
            return x._value
        case bool():
            return Const(float(x))
        case int() | float():
            return Const(float(x))
        case Captured():
            return x.scalar()._value
    if _is_element(x):
        return Const(float(x.item()))
    refuse(f"a {type(x).__name__}", "values are numbers, positions, and tensors that the function captures")


def _is_element(x: Any) -> bool:
    """Whether it is a tensor without axes, of the user's own."""
    return not isinstance(x, (Traced, Captured)) and hasattr(x, "item") and getattr(x, "shape", None) == ()


def _record_of(*args: Any) -> TraceRecord:
    for a in args:
        if isinstance(a, (Traced, Captured)):
            a._record.elements += (x for x in args if _is_element(x))
            return a._record
    refuse("a function of numbers alone", "use math, or Python's own")


def _number(x: Any, symbol: str) -> int | float:
    if isinstance(x, bool) or not isinstance(x, (int, float)) or x <= 0:
        refuse(f"{symbol} by anything but a positive number", "write it with floor and a division")
    return x


def _whole(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _is_whole(x: Any) -> bool:
    """Of a number or of a traced value."""
    if isinstance(x, Captured):
        x = x.scalar()
    return x._whole if isinstance(x, Traced) else _whole(x)


def _binary(op: str, a: Any, b: Any) -> Any:
    if isinstance(a, Seen) or isinstance(b, Seen):
        refuse(f"{op} of a condition", "use where(condition, x, y)")
    affine = [isinstance(x, Position) or _whole(x) for x in (a, b)]
    if all(affine) and op in ("add", "sub"):
        sign = 1 if op == "add" else -1
        return a._plus(b, sign) if isinstance(a, Position) else b._times(sign)._plus(a, 1)
    if op == "mul" and isinstance(a, Position) and _whole(b):
        return a._times(b)
    if op == "mul" and isinstance(b, Position) and _whole(a):
        return b._times(a)
    whole = op in ("add", "sub", "mul", "min", "max") and _is_whole(a) and _is_whole(b)
    integer = _computed(op, a, b) if whole else None
    return Traced(_record_of(a, b), Map(op, (expression_of(a), expression_of(b))), whole, integer)


def _compared(op: str, a: Any, b: Any) -> Seen:
    record = _record_of(a, b)
    both = [isinstance(x, Position) or _whole(x) for x in (a, b)]
    if not all(both):
        return Seen(record, boolean(Map(op, (expression_of(a), expression_of(b)))))
    difference = _binary("sub", b, a)  # a <= b where it is at least 0
    assert isinstance(difference, Position)
    at_most, at_least = holds(difference._predicate()), holds(difference._times(-1)._predicate())
    found = {
        "le": at_most,
        "lt": holds(difference._predicate(-1)),
        "ge": at_least,
        "gt": holds(difference._times(-1)._predicate(-1)),
        "eq": at_most & at_least,
        "ne": ~(at_most & at_least),
    }
    return Seen(record, found[op])


def _filled(record: TraceRecord, name: str, shape: Any = (), value: Any = None, dtype: Any = None, **_: Any) -> Any:
    """What `x.new_zeros(())` and its kind give: a number, or a condition that always or never holds."""
    fill = FILLED[name] if value is None else value
    if tuple(shape) if isinstance(shape, (tuple, list)) else shape:
        refuse(f".{name} with a shape", "a traced value is one number for each (b, h, p, m): its shape is ()")
    if dtype is not None and "bool" in str(dtype):
        return Seen(record, Condition(() if fill else ((),)))
    return fill


def condition_of(x: Any) -> Condition:
    match x:
        case Seen():
            return x._condition
        case bool():
            return Condition(() if x else ((),))
        case Captured() if not x._tensor.shape and kind_of(x._tensor) == "bool":
            return boolean(x._record.read(x._name, x._tensor, "", x._path))
    if _is_element(x) and kind_of(x) == "bool":  # made within the function, else it would be captured
        return Condition(() if x.item() else ((),))
    refuse(f"{type(x).__name__} as a condition", "compare it with something")


def _clamped(name: str, x: Any, *given: Any, **named: Any) -> Any:
    """`x`, at least and at most what is given."""
    bounds = dict(zip(CLAMPS[name], given, strict=False)) | named
    if len(given) > len(CLAMPS[name]) or set(bounds) - set(CLAMPS[name]) or all(b is None for b in bounds.values()):
        refuse(f"{name} with {', '.join(named) or len(given)}", f"its bounds are {' and '.join(CLAMPS[name])}")
    for bound, op in (("min", "max"), ("max", "min")):
        x = x if bounds.get(bound) is None else _binary(op, x, bounds[bound])
    return x


def apply(name: str, *args: Any, **named: Any) -> Any:
    """A function of PyTorch's or of this package, by name. Raises Untraceable for one that is none."""
    for x in args:
        if isinstance(x, Deferred):
            return x.deferred(name, args, named)
    if name in CLAMPS and args:
        return _clamped(name, *args, **named)
    record = _record_of(*args)
    if name == "where" and len(args) == 3:
        return Traced(
            record, Map("select", (condition_of(args[0]).boolean(), expression_of(args[1]), expression_of(args[2])))
        )
    if name in UNARY and len(args) == 1:
        kept = name == "floor" or (name in ("abs", "absolute", "neg", "negative") and _is_whole(args[0]))
        integer = _computed(UNARY[name], args[0]) if kept and name != "floor" else None
        return Traced(record, Map(UNARY[name], (expression_of(args[0]),)), kept, integer)
    if name in BINARY and len(args) == 2:
        return _binary(BINARY[name], *args)
    if name in COMPARISONS and len(args) == 2:
        return _compared(COMPARISONS[name], *args)
    if name in LOGIC:
        first, *rest = map(condition_of, args)
        if name.endswith("not"):
            return Seen(record, ~first)
        return Seen(record, first & rest[0] if name.endswith("and") else first | rest[0])
    if name == "pow" and len(args) == 2:
        return args[0] ** args[1]
    if name == "square" and len(args) == 1:
        return args[0] ** 2
    refuse(f"{name}", f"the functions are {', '.join(sorted((*UNARY, *BINARY, *CLAMPS, *LOGIC, 'pow', 'where')))}")
