"""What a workload is: a naive definition, the options that state its size, and what its inputs hold."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem, Values
from eintune.space.ir.dtypes import FLOATS
from eintune.space.ir.expr import Rank, params

Kind: TypeAlias = Literal["size", "count", "number", "flag", "choice", "text", "function"]
INTEGERS = "int32"
MAX_SIZE = 2**31
MAX_ELEMENTS = 2**36
"""The largest tensor, in elements: 128 GiB in a 2-byte type."""


@dataclass(frozen=True)
class Option:
    """One named option: a size, another whole number, a number, a flag, one of `choices`, text, or a function.

    ranks: those whose size it is. default: None where it must be given, or "" where leaving it out says something
    of its own. bare: what it means without a value. short: what stands before a size in a folder's name.
    """

    name: str
    help: str
    kind: Kind = "size"
    ranks: tuple[Rank, ...] = ()
    default: Any = None
    choices: tuple[str, ...] = ()
    bare: str = ""
    short: str = ""
    words: str = ""


@dataclass(frozen=True)
class Posed:
    """A problem, its title, a short name for folders, and, where there is one, a description for programs."""

    problem: Problem
    title: str
    folder: str
    about: Any = None


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    define: the definition; its keyword arguments are the options that are no sizes. values: from the sizes, what
    inputs may hold that take not just anything. params: of the definition's scalars. wide: outputs in float32
    whatever the dtype of the inputs is. pose: how options become a problem, where sizes and dtypes are not all.
    """

    name: str
    define: Callable[..., Cascade]
    options: tuple[Option, ...]
    values: Callable[[Mapping[Rank, int]], dict[str, Values]] = lambda sizes: {}
    params: Mapping[str, float] = field(default_factory=dict)
    wide: tuple[str, ...] = ()
    pose: Callable[[Mapping[str, Any], str], Posed] | None = None

    def __call__(self, **choices: Any) -> Cascade:
        """The definition."""
        return self.define(**choices)

    @property
    def summary(self) -> str:
        """The first line of the definition's documentation."""
        return (inspect.getdoc(self.define) or "").partition("\n")[0]

    def posed(self, given: Mapping[str, Any], dtype: str) -> Posed:
        """The problem that options state, by name; what is left out takes its default.

        Raises ValueError for an option that is missing, unknown or out of its bounds, with the valid ones.
        """
        known = {o.name: o for o in self.options}
        unknown = [n for n in given if n not in known]
        if unknown:
            raise ValueError(f"{self.name} has the options {', '.join(known)}, but got {', '.join(unknown)}")
        missing = [o.name for o in self.options if o.default is None and given.get(o.name) is None]
        if missing:
            raise ValueError(f"{self.name} needs the options {', '.join(missing)}")
        if dtype not in FLOATS:
            raise ValueError(f"`dtype` must be one of {list(FLOATS)}, but got {dtype!r}")
        wanted = {o.name: given.get(o.name, o.default) for o in self.options}
        return self.pose(wanted, dtype) if self.pose else self._posed(wanted, dtype)

    def _posed(self, wanted: Mapping[str, Any], dtype: str) -> Posed:
        sizes = {r: _size(o.name, wanted[o.name]) for o in self.options for r in o.ranks}
        chosen = {o.name: _chosen(o, wanted[o.name]) for o in self.options if o.kind == "choice"}
        cascade = self.define(**chosen)
        tensors = {**cascade.inputs, **cascade.outputs}
        for t in tensors.values():
            if math.prod(sizes[r] for r in t.ranks) > MAX_ELEMENTS:
                raise ValueError(
                    f"a tensor must have at most 2**36 elements, but {t.name} has {[sizes[r] for r in t.ranks]}"
                )
        kinds = {"float": dtype, "int": INTEGERS, "bool": "bool"}
        dtypes = {n: kinds[t.kind] for n, t in tensors.items()}
        dtypes |= dict.fromkeys(self.wide, "fp64" if dtype == "fp64" else "fp32")
        scalars = {n: float(wanted.get(n, self.params.get(n, 1.0))) for n in params(e.expr for e in cascade.einsums)}
        problem = Problem(self.name, str(cascade), sizes, dtypes, scalars, self.values(sizes))
        return Posed(problem, self._title(wanted, dtype), self._folder(wanted, dtype))

    def _title(self, wanted: Mapping[str, Any], dtype: str) -> str:
        sizes = [counted(wanted[o.name], o.words or o.name) for o in self.options if o.kind == "size"]
        chosen = [str(wanted[o.name]) for o in self.options if o.kind == "choice"]
        name = self.name.replace("_", " ")
        return f"{name[0].upper()}{name[1:]}: {', '.join([*chosen, *sizes, dtype])}"

    def _folder(self, wanted: Mapping[str, Any], dtype: str) -> str:
        parts = [f"{o.short or o.name[0]}{wanted[o.name]}" for o in self.options if o.kind == "size"]
        chosen = [str(wanted[o.name]) for o in self.options if o.kind == "choice"]
        return "-".join([self.name.replace("_", "-"), *chosen, *parts, dtype])


def counted(count: int, nouns: str) -> str:
    """ "1 head", "2 heads", "1 query": of a noun in the plural; another word stays as it is."""
    if count == 1 and nouns.endswith("s"):
        nouns = f"{nouns[:-3]}y" if nouns.endswith("ies") else nouns[:-1]
    return f"{count} {nouns}"


def _size(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_SIZE:
        raise ValueError(f"`{name}` must be a positive integer of at most 2**31, but got {value!r}")
    return value


def _chosen(option: Option, value: object) -> str:
    if value not in option.choices:
        raise ValueError(f"`{option.name}` must be one of {list(option.choices)}, but got {value!r}")
    return str(value)


WORKLOADS: dict[str, Workload] = {}
"""Every workload by name."""


def workload(*options: Option, **more: Any) -> Callable[[Callable[..., Cascade]], Workload]:
    """Register a definition under its function's name, with its options (see `Workload` for `more`)."""

    def register(define: Callable[..., Cascade]) -> Workload:
        row = Workload(define.__name__, define, options, **more)
        WORKLOADS[row.name] = row
        return row

    return register


def size(name: str, ranks: str, default: int | None = None, *, short: str = "", words: str = "") -> Option:
    """An option for the size of some ranks of one letter."""
    told = f"default: {default}" if default is not None else "needed"
    return Option(name, f"{words or name}; {told}", "size", tuple(ranks), default, short=short, words=words)
