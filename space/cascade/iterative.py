"""Iterative cascades: EDGE's recurrences over a rank, such as a running maximum.

    RM0,p = -inf                              the initialisation of a state
    RMm1+1,p = max(RMm1,p, LMm1,p)            a step, from index m1 to m1+1
    AVf,p = RNV|m1|,f,p / RD|m1|,p            the result, from the last states
    until m1 >= |m1|                          the stopping condition (EDGE's ⋄)

After FuseMax (arXiv 2406.10491, Cascade 5) and EDGE. In the nodes, an index over the iterated rank m1 is one of
the strings "m1", "m1+1", "0" and "|m1|"; all other indices are ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from eintune.space.ir.einsum import CascadeError, Einsum, Update
from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Fold,
    Gather,
    Iota,
    Predicate,
    Rank,
    Reduce,
    Split,
    Tensor,
    Term,
    Unsplit,
    Where,
    free,
    reads,
    rewrite,
    topological,
)
from eintune.space.ir.pointwise import Array
from eintune.space.notation.iterations import read_iterative, write_iterative

from .cascade import Cascade
from .run import run_cascade


@dataclass(frozen=True)
class IterativeCascade:
    """A recurrence over `rank`.

    before: einsums that are evaluated once, such as views that split the inputs. initial: the states' first
    values, at index "0". step: evaluated in order at each index; states at "m1+1", what lives within a step at
    "m1". after: the results, which read states at "|m1|". until: the stopping condition over the index alone.
    Raises CascadeError where these do not fit together.
    """

    rank: Rank
    before: tuple[Einsum, ...]
    initial: tuple[Update, ...]
    step: tuple[Update, ...]
    after: tuple[Update, ...]
    until: Predicate

    def __post_init__(self) -> None:
        _check_shape(self)
        _check_reads(self)

    @property
    def here(self) -> str:
        return self.rank

    @property
    def next(self) -> str:
        return f"{self.rank}+1"

    @property
    def last(self) -> str:
        return f"|{self.rank}|"

    @property
    def stop(self) -> Rank:
        """The rank whose size the stopping condition compares with: the iterated one, or one as long."""
        return self.until.sizes[0][0] if self.until.sizes else self.rank

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The tensors that nothing defines, by name."""
        made = {s.output.name for s in self.statements()}
        found: dict[str, Tensor] = {}
        for s in self.statements():
            for x in _accesses(s.expr):
                if x.tensor.name not in made:
                    found.setdefault(x.tensor.name, x.tensor)
        return found

    def statements(self) -> tuple[Einsum | Update, ...]:
        return (*self.before, *self.initial, *self.step, *self.after)

    @classmethod
    def parse(cls, text: str) -> IterativeCascade:
        """Read the notation; raises CascadeError with the line and the construct."""
        return cls(*read_iterative(text))

    def __str__(self) -> str:
        return write_iterative(self.rank, self.before, self.initial, self.step, self.after, self.until)

    def run(
        self,
        data: Mapping[str, Array],
        sizes: Mapping[Rank, int] | None = None,
        params: Mapping[str, float] | None = None,
    ) -> dict[str, Array]:
        """The results in float64, axes as each declares them.

        data: one array per input. sizes: ranks that index no input (tiles of a split). Raises CascadeError for
        a stopping condition that never holds, ValueError for shapes that disagree.
        """
        return _Run(self, dict(data), _sizes(self, data, sizes or {}), dict(params or {})).results()


# ---- rules


def _accesses(x: Expr) -> Iterator[Access]:
    return (a for a in topological([x]) if isinstance(a, Access))


def _fail(name: str, message: str) -> None:
    raise CascadeError(f"{name}: {message}")


def _check_shape(c: IterativeCascade) -> None:
    if not c.initial or not c.step or not c.after:
        raise CascadeError("an iteration has an initial value of a state, a step and a result")
    if c.until.ranks != {c.rank}:
        raise CascadeError(f"the stopping condition is over {c.rank} alone, but reads {sorted(c.until.ranks)}")
    for u in (*c.initial, *c.step):
        where = {i for i in u.index if i not in u.output.ranks or i == c.rank}
        allowed = {"0"} if u in c.initial else {c.here, c.next}
        if len(where) != 1 or not where <= allowed:
            _fail(u.output.name, f"its index over {c.rank} must be one of {sorted(allowed)}, but got {list(u.index)}")
        plain = tuple(c.rank if i in where else i for i in u.index)
        if plain != u.output.ranks:
            _fail(u.output.name, f"its ranks {list(u.output.ranks)} and its index {list(u.index)} differ")
    for u in c.step:
        for x in topological([u.expr]):
            _check_node(c, u.output.name, x)


def _check_node(c: IterativeCascade, name: str, x: Expr) -> None:
    """Within a step the iterated rank is an index, no axis."""
    if isinstance(x, (Reduce, Fold)) and x.rank == c.rank:
        _fail(name, f"a step cannot reduce over the iterated rank {c.rank}; make it a state")
    if isinstance(x, (Split, Unsplit)) and c.rank in (x.rank, x.outer, x.inner):
        _fail(name, f"a step cannot split the iterated rank {c.rank}; split before the iteration")


def _check_reads(c: IterativeCascade) -> None:
    """Every index over the iterated rank exists where it is read, and every other rank is on the left."""
    states = {u.output.name for u in c.initial}
    made: set[str] = set()
    known: set[tuple[str, str]] = {(name, c.here) for name in states}
    defined = {s.output.name for s in c.statements()}
    for s in c.statements():
        extra = free(s.expr) - set(s.output.ranks) - {c.here, c.next, c.last}
        if extra:
            _fail(s.output.name, f"ranks {sorted(extra)} are neither reduced nor on the left")
        for lookup in (x for x in reads([s.expr]) if isinstance(x, Gather)):
            _fail(s.output.name, f"an iteration addresses axes by ranks only, but {lookup.tensor.name} is looked up")
        for x in _accesses(s.expr):
            _check_read(c, s, x, known, defined - made if x.tensor.name not in states else set())
        made.add(s.output.name)
        if isinstance(s, Update) and s in c.step:
            key = s.output.name, c.next if c.next in s.index else c.here
            if key in known:
                _fail(s.output.name, "a step defines it once, but this is its second")
            known.add(key)
    if missing := [name for name in states if (name, c.next) not in known]:
        _fail(missing[0], f"it has an initial value, but no step to {c.next}")
    if missing := [name for name, index in known if index == c.next and name not in states]:
        _fail(missing[0], f"it has a step to {c.next}, but no initial value at 0")


def _check_read(
    c: IterativeCascade, s: Einsum | Update, x: Access, known: set[tuple[str, str]], later: set[str]
) -> None:
    name = x.tensor.name
    if name in later:
        _fail(s.output.name, f"reads {name}, which is defined later or is itself")
    states = {u.output.name for u in c.initial}
    if c.last in x.index and (s not in c.after or name not in states):
        _fail(s.output.name, f"only a result reads {c.last}, and only of a state, but it stands on {name}")
    if c.next in x.index and (s not in c.step or (name, c.next) not in known):
        _fail(s.output.name, f"{name} at {c.next} is read in a step, below its definition")
    if c.here in x.index and s not in c.step and (s not in c.before or name in states):
        _fail(s.output.name, f"{name} at {c.here} is read in a step only; a result reads a state at {c.last}")


# ---- running


def _sizes(c: IterativeCascade, data: Mapping[str, Array], given: Mapping[Rank, int]) -> dict[Rank, int]:
    sizes = dict(given)
    for name, tensor in c.inputs.items():
        if name not in data:
            raise ValueError(f"input {name} is missing (the cascade reads {sorted(c.inputs)})")
        if np.ndim(data[name]) != len(tensor.ranks):
            raise ValueError(f"{name} has ranks {list(tensor.ranks)}, but its shape is {np.shape(data[name])}")
    for s in c.statements():
        for x in _accesses(s.expr):
            shape = np.shape(data[x.tensor.name]) if x.tensor.name in c.inputs else ()
            for rank, n in zip(x.index, shape, strict=False):
                if sizes.setdefault(rank, n) != n:
                    raise ValueError(
                        f"rank {rank} must have one size, but {x.tensor.name} has {n} and not {sizes[rank]}"
                    )
    if c.rank not in sizes and c.stop in sizes and c.until == Predicate((Term(c.rank, 1),), ((c.stop, -1),)):
        sizes[c.rank] = sizes[c.stop]
    if c.rank not in sizes:
        raise ValueError(f"the size of the iterated rank {c.rank} is not known; give it in `sizes`")
    return sizes


class _Run:
    """One evaluation: arrays of states and of what lives within a step, by (name, index)."""

    def __init__(
        self, c: IterativeCascade, data: dict[str, Array], sizes: dict[Rank, int], params: dict[str, float]
    ) -> None:
        self.c, self.data, self.sizes, self.params = c, data, sizes, params
        self.values: dict[str, Array] = {}
        self.local = {u.output.name for u in (*c.initial, *c.step)}
        self.mark = "_at_"
        while any(self.mark in name for name in (*c.inputs, *(s.output.name for s in c.statements()))):
            self.mark += "_"

    def results(self) -> dict[str, Array]:
        c, n = self.c, self.sizes[self.c.rank]
        if c.before:
            named = tuple(e.output.name for e in c.before)
            self.data |= self._run(Cascade(c.before, named))
        for u in c.initial:
            self._update(u, 0)
        i = 0
        while not self._holds(i):
            if i == n:
                raise CascadeError(f"the stopping condition does not hold at {c.rank} = |{c.rank}| = {n}")
            for u in c.step:
                self._update(u, i)
            self.values = {k: v for k, v in self.values.items() if k.endswith(f"{self.mark}{i + 1}")}
            i += 1
        if i != n:
            raise CascadeError(f"the result reads states at |{c.rank}| = {n}, but the iteration stopped at {i}")
        after = tuple(Einsum(e.output, self._at(e.expr, i)) for e in c.after)
        return self._run(Cascade(after, tuple(e.output.name for e in c.after)))

    def _run(self, cascade: Cascade) -> dict[str, Array]:
        return run_cascade(cascade, {**self.data, **self.values}, self.sizes, self.params)

    def _update(self, u: Update, i: int) -> None:
        """Evaluate one statement at iteration i; what stands at m1+1 is kept under i + 1."""
        ranks = tuple(r for r in u.output.ranks if r != self.c.rank)
        output = Tensor(f"{u.output.name}{self.mark}{i + (self.c.next in u.index)}", ranks, u.output.kind)
        self.values |= self._run(Cascade((Einsum(output, self._at(u.expr, i)),)))

    def _at(self, x: Expr, i: int) -> Expr:
        """The expression at iteration i: the iterated rank becomes a number everywhere."""
        return rewrite([x], lambda node: self._node_at(node, i))[0]

    def _node_at(self, x: Expr, i: int) -> Expr | None:
        c = self.c
        match x:
            case Access() if found := [a for a in x.index if a in (c.here, c.next, c.last)]:
                axis = x.index.index(found[0])
                return self._slice(x, axis, i + (found[0] == c.next))
            case Iota() if x.rank == c.rank:
                return Const(i)
            case Where() if c.rank in x.predicate.ranks:
                return replace_where(x, c.rank, i, self.sizes)
        return None

    def _slice(self, x: Access, axis: int, i: int) -> Expr:
        """One index of a tensor along an axis."""
        name = f"{x.tensor.name}{self.mark}{i}"
        rest = tuple(r for a, r in enumerate(x.index) if a != axis)
        if name not in self.values:
            if x.tensor.name in self.local:
                raise CascadeError(f"{x.tensor.name} has no value at index {i}")
            self.values[name] = np.take(self.data[x.tensor.name], i, axis)
        own = tuple(r for a, r in enumerate(x.tensor.ranks) if a != axis)
        return Access(Tensor(name, own, x.tensor.kind), rest)

    def _holds(self, i: int) -> bool:
        return _value(self.c.until, self.c.rank, i, self.sizes).const + self._sizes_of(self.c.until) >= 0

    def _sizes_of(self, p: Predicate) -> int:
        return sum(coef * self.sizes[r] for r, coef in p.sizes)


def replace_where(x: Where, rank: Rank, i: int, sizes: Mapping[Rank, int]) -> Expr:
    """The filter with `rank` at index i."""
    return Where(_value(x.predicate, rank, i, sizes), x.arg, x.fill)


def _value(p: Predicate, rank: Rank, i: int, sizes: Mapping[Rank, int]) -> Predicate:
    fixed = [t for t in p.terms if t.rank == rank]
    const = p.const + sum(t.coef * i * (sizes[t.stride] if t.stride else 1) for t in fixed)
    return replace(p, terms=tuple(t for t in p.terms if t.rank != rank), const=const)
