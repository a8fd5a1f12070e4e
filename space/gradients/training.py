"""A cascade and its gradient as kernels to run: what the forward hands over, and the stages of the backward.

Three kinds of numbers are written between kernels, all of them smaller than a tensor that is there anyway.

- *Residuals*: of the definition's own reduced values those that are read again over more ranks than they have (a
  log-sum-exp, a mean), so that no kernel of the backward goes over a rank to find them again.
- *Statistics* of the cotangents: likewise, where some stage would otherwise find them anew for each of its programs
  (a row's product of output and cotangent, beside keys).
- *Partial sums*: what is summed over more ranks than the results of another stage is first summed there (the gradient
  of a slope over the keys, where that of the queries is), and over the rest last. No sum goes across programs, so
  gradients are the same bits each time.

Gradients that are summed over the same ranks are one stage, so each stage is a cascade like any other: it is derived,
planned, tuned and stored as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from eintune.space.cascade.cascade import Cascade, from_roots
from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Map,
    Rank,
    Reduce,
    Tensor,
    children,
    free,
    topological,
    with_children,
)
from eintune.space.ir.pointwise import POINTWISE

from .adjoints import summed
from .gradient import Reverse, reverse
from .rules import op

Root = tuple[Expr, tuple[Rank, ...]]


@dataclass(frozen=True)
class Training:
    """A definition with what its backward wants of it.

    forward: gives the definition's results, then `residuals`. stages: cascades in the order in which they run; each
    reads inputs and results of the definition, residuals, cotangents, and results of stages before. cotangents,
    gradients: names by result and by input, as in `Gradient`; an input on which nothing depends has none.
    """

    forward: Cascade
    residuals: tuple[str, ...]
    stages: tuple[Cascade, ...]
    cotangents: Mapping[str, str]
    gradients: Mapping[str, str]


def training(cascade: Cascade, *, of: Iterable[str] | None = None, wrt: Iterable[str] | None = None) -> Training:
    """What it takes to run a cascade and its gradient. of, wrt: as of `gradient`. Raises CascadeError as it does."""
    found = reverse(cascade, of=of, wrt=wrt)
    cut = _Cut(cascade, found)
    residuals = cut.residuals()
    forward = cascade
    if residuals:
        roots = {n: (found.own[n], t.ranks) for n, t in cascade.outputs.items()}
        more = {t.name: (x, t.ranks) for x, t in residuals.items()}
        called = {x: n for n, x in found.own.items() if n not in roots and children(x)}
        forward = from_roots(roots | more, called)
    stages = cut.stages()
    return Training(
        forward,
        tuple(t.name for t in residuals.values()),
        stages,
        {n: t.name for n, t in found.seeds.items()},
        {n: name for n, name in found.called.items() if not _is_zero(found.roots[n][0])},
    )


def _is_condition(x: Expr) -> bool:
    return isinstance(x, Map) and POINTWISE[x.op].boolean


def _compares(x: Expr) -> bool:
    """Whether it asks where a maximum is attained, or which of two is one."""
    return isinstance(x, Map) and x.op in ("eq", "gt", "lt")


def _is_zero(x: Expr) -> bool:
    return isinstance(x, Const) and not x.value


class _Cut:
    """A gradient in parts."""

    def __init__(self, cascade: Cascade, found: Reverse) -> None:
        self.cascade, self.found = cascade, found
        self.roots: dict[str, Root] = {found.called[n]: r for n, r in found.roots.items() if not _is_zero(r[0])}
        nodes = topological(x for x, _ in self.roots.values())
        self.order = [*dict.fromkeys([*cascade.ranks(), *(r for x in nodes for r in sorted(free(x)))])]
        self.axes = {frozenset(x.index) for x in nodes if isinstance(x, Access)}
        cotangents = {t.name for t in found.seeds.values()}
        self.moving = _above(nodes, lambda x: isinstance(x, Access) and x.tensor.name in cotangents)
        self.reduced = _above(nodes, lambda x: isinstance(x, Reduce))
        # Where a maximum is attained is found by comparing with it: with what was computed beside it, as a number that
        # was written may be rounded in another way.
        compared = {a for x in nodes if _compares(x) for a in children(x) if isinstance(a, Reduce)}
        places = _above(nodes, lambda x: _compares(x) and not compared.isdisjoint(children(x)))
        self.beside = compared | places
        self.written: dict[Expr, Access] = {}
        """What is read from memory where it stands."""
        self.partial: set[Expr] = set()

    # ---- what the forward hands over

    def residuals(self) -> dict[Expr, Tensor]:
        """The definition's values that are handed over; its results are there anyway."""
        for n, t in self.cascade.outputs.items():
            x = self.found.definition[n]
            if free(x) == set(t.ranks) and x not in self.beside:
                self.written[x] = Access(t, t.ranks)
        made = {x: self._named(x) for x in self._fewest()}
        self.written |= made
        return {x: a.tensor for x, a in made.items()}

    def _fewest(self) -> list[Expr]:
        """Few reduced values of the definition from which all follow that the gradient reads, without a reduction."""
        nodes = _reached([x for x, _ in self.roots.values()], self.written)
        rows = {x for x in nodes if x in self.reduced and x not in self.moving | self.beside and self._is_small(x)}
        found: list[Expr] = []
        tops = _reached([x for x, _ in self.roots.values()], self.written, rows)
        read = [x for x in tops if x in rows and not self._follows(x, (), rows)]
        while read:
            # one that others follow from; of several the last, which more is done for
            able = [z for z in nodes if z in rows and not self._is_known(z, rows) and not _is_condition(z)]
            covers = {z: [x for x in read if self._follows(x, {z, *found}, rows)] for z in able}
            if not any(covers.values()):  # what nothing can be handed over for
                covers = {read[-1]: read[-1:]}
            best = max(covers, key=lambda z: len(covers[z]))
            best = max((z for z in covers if covers[z] == covers[best]), key=nodes.index)
            found.append(best)
            read = [x for x in read if x not in covers[best]]
        return sorted(found, key=nodes.index)

    def _follows(self, x: Expr, known: Collection[Expr], rows: Collection[Expr]) -> bool:
        """Whether x is pointwise of known values and of small tensors."""
        if x in known or x in self.written:
            return True
        if x not in rows:
            return x not in self.reduced and self._is_small(x)
        return not isinstance(x, Reduce) and all(self._follows(a, known, rows) for a in children(x))

    def _is_known(self, x: Expr, rows: Collection[Expr]) -> bool:
        """Whether it only says what is known of a value that can be handed over itself."""
        return isinstance(x, Map) and x.op == "reference" and x.args[0] in rows

    def _is_small(self, x: Expr) -> bool:
        return any(free(x) < axes for axes in self.axes)

    def _named(self, x: Expr) -> Access:
        ranks = tuple(r for r in self.order if r in free(x))
        name = self.found.names.get(x) or self.found.taken.new("R")
        return Access(Tensor(name, ranks), ranks)

    # ---- the backward

    def stages(self) -> tuple[Cascade, ...]:
        groups = self._groups()
        for names in groups:
            self._statistics(names)
        statistics = [x for x in self._in_order() if x not in self.partial]
        made = [{self.written[x].tensor.name: (x, self.written[x].index)} for x in statistics]
        return tuple(map(self._stage, (*made, *({n: self.roots[n] for n in names} for names in groups))))

    def _in_order(self) -> list[Expr]:
        """What the backward writes, each after what it is made of."""
        moving = [x for x in self.written if x in self.moving]
        order = {x: n for n, x in enumerate(topological(moving))}
        return sorted(moving, key=order.__getitem__)

    def _groups(self) -> list[list[str]]:
        """Gradients that are summed over the same ranks, those that are finished from partial sums last."""
        roots = [x for x, _ in self.roots.values()]
        readers = Counter(a for x in topological(roots) for a in children(x))
        kept = {x for x, count in readers.items() if count > 1} | self.written.keys()
        totals = {n: _total(x, kept) for n, (x, _) in self.roots.items()}
        groups: dict[frozenset[Rank], list[str]] = {}
        for n, total in totals.items():
            groups.setdefault(total.ranks, []).append(n)
            self.roots[n] = total.expr(), self.roots[n][1]
        last: list[list[str]] = []
        for ranks, names in list(groups.items()):
            for n in [n for n in names if n in totals]:
                parts = [(self._shared(totals[n], groups[r]), r) for r in groups if r and r < ranks]
                for shared, first in sorted(parts, key=lambda part: part[0], reverse=True):
                    if shared and self._divided(n, totals[n], first, groups[first]):
                        names.remove(n)
                        last.append([n])
                        break
        for ranks, names in [*groups.items()]:
            if first := self._streamed(ranks, [totals[n] for n in names if n in totals]):
                for n in [n for n in names if n in totals]:
                    names.remove(n)
                    self._divide(n, totals[n], first, names)
                    last.append([n])
        return [names for names in (*groups.values(), *last) if names]

    def _streamed(self, ranks: frozenset[Rank], totals: Sequence[_Total]) -> frozenset[Rank]:
        """Of several ranks that products are summed over, the one that a program goes over: the innermost, where
        elements lie side by side. The others, the query heads of a key head say, are summed over last: there is one
        loop around products, and no tile of two ranks of theirs."""
        nodes = _reached([t.body for t in totals], self.written)
        if len(ranks) < 2 or not any(isinstance(x, Reduce) and not self._is_small(x) for x in nodes):
            return frozenset()
        reads = [x.index for x in nodes if isinstance(x, Access)]
        most = max(reads, key=lambda index: sum(r in ranks for r in index))
        return frozenset([r for r in most if r in ranks][-1:])

    def _shared(self, total: _Total, group: Sequence[str]) -> int:
        """How many of the products that a sum's body takes are found for a group anyway."""
        every = set(_reached([self.roots[n][0] for n in group], self.written))
        body = (x for x in _reached([total.body], self.written) if isinstance(x, Reduce) and not self._is_small(x))
        return sum(x in every for x in body)

    def _divided(self, name: str, total: _Total, first: frozenset[Rank], group: list[str]) -> bool:
        """Sum over the ranks of a group there, and over the others last, if what is written between is small."""
        if not self._is_small(summed(total.body, [r for r in total.order if r in first])):
            return False
        self._divide(name, total, first, group)
        return True

    def _divide(self, name: str, total: _Total, first: frozenset[Rank], group: list[str]) -> None:
        partial = summed(total.body, [r for r in total.order if r in first])
        made = self._named(partial)
        self.partial.add(partial)
        self.written[partial] = made
        self.roots[made.tensor.name] = partial, made.index
        group.append(made.tensor.name)
        rest = [r for r in total.order if r not in first]
        self.roots[name] = summed(made, rest), self.roots[name][1]

    def _statistics(self, names: Sequence[str]) -> None:
        """Write what a stage would find anew for each program: reduced values that vary with what its results are
        summed over."""
        roots = [self.roots[n][0] for n in names]
        common = frozenset[Rank].intersection(*(frozenset(self.roots[n][1]) for n in names))
        for y in list(_reached(roots, self.written)):
            for x in children(y):
                anew = x in self.moving and x in self.reduced and free(x) < free(y) and not free(x) <= common
                if anew and x not in self.written and self._is_small(x):
                    self.written[x] = self._named(x)

    def _stage(self, roots: Mapping[str, Root]) -> Cascade:
        others = {x: a for x, a in self.written.items() if all(x is not root for root, _ in roots.values())}
        built = _over([x for x, _ in roots.values()], others)
        named = _over(list(self.found.names), others)
        names = {x: n for x, n in zip(named, self.found.names.values(), strict=True) if n not in roots}
        return from_roots(
            {n: (x, ranks) for (n, (_, ranks)), x in zip(roots.items(), built, strict=True)},
            {x: n for x, n in names.items() if children(x)},
        )


@dataclass(frozen=True)
class _Total:
    """A sum over several ranks of a body without outer sums."""

    ranks: frozenset[Rank]
    order: tuple[Rank, ...]
    body: Expr

    def expr(self) -> Expr:
        return summed(self.body, self.order)


def _total(x: Expr, kept: Collection[Expr]) -> _Total:
    """An expression as one sum: factors that stand outside go into it. kept: what others read as it is."""
    match x:
        case Reduce("add"):
            inner = _below(x.arg, kept)
            return _Total(inner.ranks | {x.rank}, (*inner.order, x.rank), inner.body)
        case Map("neg", (a,)):
            inner = _below(a, kept)
            return _Total(inner.ranks, inner.order, op("neg", inner.body))
        case Map("mul", (a, b)):
            for first, (one, other) in ((True, (a, b)), (False, (b, a))):
                inner = _below(one, kept)
                if inner.ranks and not inner.ranks & free(other) and free(other) <= free(inner.body):
                    body = op("mul", inner.body, other) if first else op("mul", other, inner.body)
                    return _Total(inner.ranks, inner.order, body)
        case _:
            pass
    return _Total(frozenset(), (), x)


def _below(x: Expr, kept: Collection[Expr]) -> _Total:
    return _Total(frozenset(), (), x) if x in kept else _total(x, kept)


def _above(nodes: Iterable[Expr], start: Callable[[Expr], bool]) -> set[Expr]:
    """Those that `start` holds for, and all that depend on one."""
    found: set[Expr] = set()
    for x in nodes:
        if start(x) or any(a in found for a in children(x)):
            found.add(x)
    return found


def _reached(roots: Iterable[Expr], written: Collection[Expr], ends: Collection[Expr] = ()) -> list[Expr]:
    """The nodes below roots, without written ones (unless they are roots) and what is below those or `ends`."""

    def below(x: Expr) -> tuple[Expr, ...]:
        return () if x in ends else tuple(a for a in children(x) if a not in written)

    return topological(roots, operands=below)


def _as_known(x: Expr, read: Expr) -> Expr:
    """What is read in place of a value, with what is known of that."""
    return Map("reference", (read,)) if isinstance(x, Map) and x.op == "reference" else read


def _over(roots: Sequence[Expr], written: Mapping[Expr, Access]) -> list[Expr]:
    """The expressions with what is written read from memory."""
    new: dict[Expr, Expr] = {x: _as_known(x, a) for x, a in written.items()}
    for x in topological(roots, stop=written):
        below = tuple(new[a] for a in children(x))
        # of what stands there as it is computed nothing need be known
        known = isinstance(x, Map) and x.op == "reference" and not isinstance(below[0], Access)
        new[x] = below[0] if known else with_children(x, below) if below else x
    return [new[x] for x in roots]
