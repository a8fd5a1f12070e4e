"""Expressions and laws as an egglog program.

    (M_mul a b)  (M_exp2_ a)  (R_add r x)  (F_scale r c y)  (filter i k x)  (V0_ x)  (leaf i)  (num v)  (size r)

A rank is one bit of an i64 and a set of ranks a mask, so that `free`, the ranks that a value varies with, is
an analysis by bit operations; where two forms of one value disagree the intersection is right, since what
equals something that does not vary with a rank does not vary with it either.

No name of a function or of a node ends in a digit: the engine appends counters to names where it needs new ones, and
the 32nd use of `$n3` would be the second one of `$n33`, in silence.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar, assert_never

from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Fold,
    Gather,
    Iota,
    Map,
    Param,
    Predicate,
    Rank,
    Reduce,
    Size,
    Split,
    Unsplit,
    Where,
    children,
    free,
    topological,
)
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS
from eintune.space.laws.law import (
    BACK,
    Absent,
    Condition,
    Differ,
    Exists,
    Finite,
    Law,
    Negative,
    Plain,
    Positive,
    Present,
    Unreduced,
    Vanishes,
    Wider,
    is_variable,
)

from . import vanishing

MAX_RANKS = 60
_FOLDED = {a.name: "abcdefgh"[: a.references + 1] for a in ACTIONS.values()}
"""A name for each operand of a fold."""
_T = TypeVar("_T", bound=Hashable)


@dataclass
class Symbols:
    """What the program's numbers stand for: ranks by bit; leaves, filters and views by index."""

    ranks: list[Rank] = field(default_factory=list)
    leaves: list[Expr] = field(default_factory=list)
    filters: list[tuple[Predicate, float]] = field(default_factory=list)
    views: list[tuple[Rank, Rank, Rank, bool]] = field(default_factory=list)
    """(rank, outer, inner, whether the view joins the two instead of splitting the one)."""

    def bit(self, rank: Rank) -> int:
        index = _index(self.ranks, rank)
        if index >= MAX_RANKS:
            raise CascadeError(f"a cascade may have at most {MAX_RANKS} ranks, but {rank} is one more")
        return 1 << index

    def mask(self, ranks: Iterable[Rank]) -> int:
        return sum(self.bit(r) for r in sorted(set(ranks)))

    def names(self, mask: int) -> frozenset[Rank]:
        return frozenset(r for i, r in enumerate(self.ranks) if mask >> i & 1)

    def leaf(self, x: Expr) -> int:
        return _index(self.leaves, x)

    def filter(self, predicate: Predicate, fill: float) -> int:
        return _index(self.filters, (predicate, fill))

    def view(self, x: Split | Unsplit) -> int:
        return _index(self.views, (x.rank, x.outer, x.inner, isinstance(x, Unsplit)))


def _index(table: list[_T], item: _T) -> int:
    if item not in table:
        table.append(item)
    return table.index(item)


class Encoder:
    """Writes one program. Patterns and ground expressions go through the same `term`."""

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols

    def term(self, x: Expr, known: dict[Expr, str] | None = None) -> str:
        """The s-expression of `x`; subexpressions in `known` are written by their name."""
        if known is not None and x in known:
            return known[x]
        below = [self.term(a, known) for a in children(x)]
        match x:
            case Access() if is_variable(x):
                return x.tensor.name[1:]
            case Access() | Gather() | Param() | Iota():
                return f"(leaf {self.symbols.leaf(x)})"
            case Const():
                return f"(num {_float(x.value)})"
            case Size():
                return f"(size {self._rank(x.rank)})"
            case Map():
                return f"({_pointwise(x.op)} {' '.join(below)})"
            case Reduce():
                return f"(R_{x.op} {self._rank(x.rank)} {below[0]})"
            case Fold():
                return f"(F_{x.action} {self._rank(x.rank)} {' '.join(below)})"
            case Where():
                mask = self.symbols.mask(x.predicate.ranks)
                return f"(filter {self.symbols.filter(x.predicate, x.fill)} {mask} {below[0]})"
            case Split() | Unsplit():
                return f"(V{self.symbols.view(x)}_ {below[0]})"
        assert_never(x)

    def _rank(self, rank: Rank) -> str:
        return rank[1:] if rank.startswith("?") else str(self.symbols.bit(rank))

    def definition(self, roots: Sequence[Expr]) -> tuple[list[str], list[Expr]]:
        """Commands that put the expressions into the graph, node i tagged `(tag i)`; and the nodes in order."""
        known: dict[Expr, str] = {}
        lines: list[str] = []
        nodes = topological(roots)
        for i, x in enumerate(nodes):
            name = _node(i)
            lines.append(f"(let {name} {self.term(x, known)})")
            lines.append(f"(union (tag {i}) {name})")
            lines += self._leaf(x, name)
            known[x] = name
        return lines, nodes

    def _leaf(self, x: Expr, name: str) -> Iterator[str]:
        """What a leaf varies with, which no rule can say."""
        if isinstance(x, (Access, Gather, Param, Iota)):
            yield f"(set (free {name}) {self.symbols.mask(free(x))})"
        if isinstance(x, (Param, Iota)) or (isinstance(x, (Access, Gather)) and x.tensor.kind != "float"):
            yield f"(finite {name})"

    def law(self, law: Law, index: int, ruleset: str) -> Iterator[str]:
        """One rule a direction, named `name#index`."""
        for arrow, left, right in ((">", law.left, law.right), ("<", law.right, law.left)):
            if arrow == "<" and not law.both_ways:
                continue
            facts = [f"(= _t {self.term(left)})", *_in_order(self._facts(law.conditions))]
            actions = f"((union _t {self.term(right)}))"
            yield f'(rule ({" ".join(facts)}) {actions} :ruleset {ruleset} :name "{law.name}#{index}{arrow}")'

    def ground_law(self, law: Law, index: int, ruleset: str, nodes: Sequence[Expr]) -> str:
        """The rule of a law about nodes of the definition, which `nodes` lists in tag order; what is new on its right
        side gets names."""
        known = {x: _node(i) for i, x in enumerate(nodes)}
        fact = f"(= _t {self.term(law.left, known)})"
        actions: list[str] = []
        for i, x in enumerate(topological([law.right], stop=dict(known))):
            name = f"_n{i}_"
            actions += [f"(let {name} {self.term(x, known)})", *self._leaf(x, name)]
            known[x] = name
        actions.append(f"(union _t {known[law.right]})")
        return f'(rule ({fact}) ({" ".join(actions)}) :ruleset {ruleset} :name "{law.name}#{index}>")'

    def _facts(self, conditions: Iterable[Condition]) -> Iterator[str]:
        for n, c in enumerate(conditions):
            match c:
                case Absent():
                    mask = " ".join(self._rank(r) for r in c.ranks)
                    mask = mask if len(c.ranks) == 1 else _union(mask.split())
                    for x in c.terms:
                        name = f"_f_{self.term(x)}"
                        yield f"(= {name} (free {self.term(x)}))"
                        yield f"(= 0 (& {name} {mask}))"
                case Present():
                    name = f"_f_{self.term(c.term)}"
                    yield f"(= {name} (free {self.term(c.term)}))"
                    yield f"(!= 0 (& {name} {self._rank(c.rank)}))"
                case Unreduced():
                    name = f"_r_{self.term(c.term)}"
                    yield f"(= {name} (reduced {self.term(c.term)}))"
                    yield f"(= 0 (& {name} {self._rank(c.rank)}))"
                case Wider():
                    names = [f"_f_{self.term(x)}" for x in (c.term, *c.others)]
                    yield from (
                        f"(= {n} (free {self.term(x)}))" for n, x in zip(names, (c.term, *c.others), strict=True)
                    )
                    yield f"(!= 0 (& {names[0]} (^ {_union(names[1:])} -1)))"
                case Differ():
                    yield f"(!= {self._either(c.a)} {self._either(c.b)})"
                case Positive():
                    yield f"(positive {self.term(c.term)})"
                case Negative():
                    yield f"(negative {self.term(c.term)})"
                case Finite():
                    yield f"(finite {self.term(c.term)})"
                case Vanishes():
                    yield f"(vanishes {self.term(c.term)} {self.term(c.exponent)})"
                case Plain():
                    yield f"(= 0 (sums {self.term(c.term)}))"
                case Exists():
                    yield f"(= _e{n} {self.term(c.pattern)})"
                case _:
                    assert_never(c)

    def _either(self, x: Rank | Expr) -> str:
        return self._rank(x) if isinstance(x, str) else self.term(x)

    def declarations(self) -> Iterator[str]:
        """Sorts, constructors and the `free` and `positive` analyses; every table decides its own part."""
        heads = ["(leaf i64)", "(num f64)", "(size i64)", "(filter i64 i64 T)", "(tag i64)"]
        heads += [f"({_pointwise(p.name)}{' T' * p.arity})" for p in POINTWISE.values()]
        heads += [f"(R_{name} i64 T)" for name in REDUCTIONS]
        heads += [f"(F_{name} i64{' T' * len(names)})" for name, names in _FOLDED.items()]
        heads += [f"(V{i}_ T)" for i in range(len(self.symbols.views))]
        yield f"(datatype T {' '.join(heads)})"
        yield "(function free (T) i64 :merge (& old new))"
        yield "(function reduced (T) i64 :merge (& old new))"
        yield "(function sums (T) i64 :merge (max old new))"
        yield "(relation positive (T))"
        yield "(relation negative (T))"
        yield "(relation finite (T))"
        yield from vanishing.declarations()
        yield "(ruleset analysis) (ruleset laws) (ruleset arranging)"
        yield " ".join(f"(ruleset opening{n})" for n in range(1, BACK + 1))
        for facts, mask in self._free_rules():
            yield f"(rule ({facts}) ((set (free t) {mask})) :ruleset analysis)"
        for facts, mask in self._reduced_rules():
            yield f"(rule ({facts}) ((set (reduced t) {mask})) :ruleset analysis)"
        for facts, count in self._sums_rules():
            yield f"(rule ({facts}) ((set (sums t) (min 2 {count}))) :ruleset analysis)"
        for facts in _POSITIVE:
            yield f"(rule ({facts}) ((positive t)) :ruleset analysis)"
        for facts in _NEGATIVE:
            yield f"(rule ({facts}) ((negative t)) :ruleset analysis)"
        for facts in (*_FINITE, *(f"(= t (V{i}_ a)) (finite a)" for i in range(len(self.symbols.views)))):
            yield f"(rule ({facts}) ((finite t)) :ruleset analysis)"
        views = [self.symbols.mask((rank, outer, inner)) for rank, outer, inner, _ in self.symbols.views]
        for facts, follows in vanishing.rules(self.symbols.filters, views):
            yield f"(rule ({facts}) ((set {follows} ())) :ruleset analysis)"

    def _reduced_rules(self) -> Iterator[tuple[str, str]]:
        """The ranks that every form of a value reduces on the way to it."""
        yield from ((f"(= t {leaf})", "0") for leaf in ("(leaf i)", "(num v)", "(size r)"))
        for p in POINTWISE.values():
            names = [chr(97 + i) for i in range(p.arity)]
            facts = " ".join(f"(= r{n} (reduced {n}))" for n in names)
            yield f"(= t ({_pointwise(p.name)} {' '.join(names)})) {facts}", _union([f"r{n}" for n in names])
        for condition, own in self._reduces():
            for name in REDUCTIONS:
                yield f"(= t (R_{name} r a)) {condition} (= ra (reduced a))", f"(| ra {own})"
            for name, operands in _FOLDED.items():
                below = " ".join(f"(= r{n} (reduced {n}))" for n in operands)
                facts = f"(= t (F_{name} r {' '.join(operands)})) {condition} {below}"
                yield facts, f"(| {_union([f'r{n}' for n in operands])} {own})"
        for view in ("(filter i k a)", *(f"(V{i}_ a)" for i in range(len(self.symbols.views)))):
            yield f"(= t {view}) (= ra (reduced a))", "ra"

    def _reduces(self) -> Iterator[tuple[str, str]]:
        """(condition on r, what a reduction over r goes over): a rank, or one that is split with its parts."""
        groups = [self.symbols.mask((rank, outer, inner)) for rank, outer, inner, _ in self.symbols.views]
        groups = list(dict.fromkeys(groups))
        yield " ".join(f"(= 0 (& r {g}))" for g in groups), "r"
        for g in groups:
            yield f"(!= 0 (& r {g}))", str(g)

    def _sums_rules(self) -> Iterator[tuple[str, str]]:
        """How many factors of a value are sums or differences, at most 2; where forms disagree, the larger number."""
        for p in POINTWISE.values():
            names = " ".join(chr(97 + i) for i in range(p.arity))
            if p.name in ("mul", "div"):
                yield f"(= t ({_pointwise(p.name)} a b)) (= sa (sums a)) (= sb (sums b))", "(+ sa sb)"
            elif p.name == "neg":
                yield "(= t (M_neg a)) (= sa (sums a))", "sa"
            else:
                yield f"(= t ({_pointwise(p.name)} {names}))", str(int(p.name in ("add", "sub")))
        leaves = ["(leaf i)", "(num v)", "(size r)"]
        leaves += [f"(R_{name} r a)" for name in REDUCTIONS] + [
            f"(F_{name} r {' '.join(names)})" for name, names in _FOLDED.items()
        ]
        yield from ((f"(= t {leaf})", "0") for leaf in leaves)
        views = ["(filter i k a)", *(f"(V{i}_ a)" for i in range(len(self.symbols.views)))]
        yield from ((f"(= t {view}) (= sa (sums a))", "sa") for view in views)

    def _free_rules(self) -> Iterator[tuple[str, str]]:
        yield "(= t (num v))", "0"
        yield "(= t (size v))", "0"
        yield "(= t (filter i k a)) (= fa (free a))", "(| k fa)"
        for p in POINTWISE.values():
            names = [chr(97 + i) for i in range(p.arity)]
            facts = " ".join(f"(= f{n} (free {n}))" for n in names)
            yield f"(= t ({_pointwise(p.name)} {' '.join(names)})) {facts}", _union([f"f{n}" for n in names])
        for name in REDUCTIONS:
            yield f"(= t (R_{name} r a)) (= fa (free a))", "(& fa (^ r -1))"
        for name, operands in _FOLDED.items():
            below = " ".join(f"(= f{n} (free {n}))" for n in operands)
            left = _union([f"f{n}" for n in operands])
            yield f"(= t (F_{name} r {' '.join(operands)})) {below}", f"(& {left} (^ r -1))"
        for i, (rank, outer, inner, joins) in enumerate(self.symbols.views):
            whole, parts = self.symbols.bit(rank), self.symbols.mask((outer, inner))
            gone, come = (parts, whole) if joins else (whole, parts)
            facts = f"(= t (V{i}_ a)) (= fa (free a))"
            yield f"{facts} (!= 0 (& fa {gone}))", f"(| (& fa {~gone}) {come})"
            yield f"{facts} (= 0 (& fa {gone}))", "fa"


_POSITIVE = (
    "(= t (num v)) (> v 0.0)",
    "(= t (size r))",
    "(= t (M_exp a))",
    "(= t (M_sqrt a)) (positive a)",
    "(= t (M_nonzero a)) (positive a)",
    "(= t (R_add r a)) (positive a)",
    *(f"(= t (M_{op} a b)) (positive a) (positive b)" for op in ("add", "mul", "div")),
)
_NEGATIVE = (
    "(= t (num v)) (< v 0.0)",
    "(= t (M_neg a)) (positive a)",
    *(f"(= t (M_{op} a b)) (negative a) (positive b)" for op in ("mul", "div")),
)

_FINITE = (
    "(= t (num v)) (> v -1e300) (< v 1e300)",
    "(= t (size r))",
    "(= t (R_add r (M_mul a b)))",  # the operands of a sum of products are finite
    *(f"(= t (R_{op} r a)) (finite a)" for op in ("add", "max", "min")),
    *(f"(= t (M_{op} a))" for op in ("tanh", "sigmoid", "erf")),
    *(f"(= t (M_{op} a)) (finite a)" for op in ("neg", "abs", "floor")),
    *(f"(= t (M_{op} a b)) (finite a) (finite b)" for op in ("add", "sub", "mul", "max", "min")),
)


def _node(tag: int) -> str:
    """What a node of the definition is called."""
    return f"$n{tag}_"


def _pointwise(op: str) -> str:
    return f"M_{op}_" if op[-1].isdigit() else f"M_{op}"


def _union(masks: Sequence[str]) -> str:
    text = masks[0]
    for m in masks[1:]:
        text = f"(| {text} {m})"
    return text


def _in_order(facts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(facts))


def _float(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        return {"inf": "inf", "-inf": "-inf", "nan": "NaN"}[str(value)]
    text = format(Decimal(repr(value)), "f")  # all digits: the engine reads no exponents
    return text if "." in text else f"{text}.0"


def program(
    symbols: Symbols, roots: Sequence[Expr], table: Sequence[Law], same: Mapping[Expr, Expr] | None = None
) -> tuple[list[str], list[Expr]]:
    """The program, a command or a few each, and the definition's nodes in tag order. Steps are run by `saturate`.

    same: what some of those nodes are known to equal, which is in the graph from the start.
    """
    encoder, same = Encoder(symbols), same or {}
    body, nodes = encoder.definition([*roots, *same.values()])
    tags = {x: i for i, x in enumerate(nodes)}
    body += [f"(union {_node(tags[x])} {_node(tags[y])})" for x, y in same.items()]
    rules: list[str] = []
    ground: list[str] = []
    for i, law in enumerate(table):
        if law.is_ground:
            ground.append(encoder.ground_law(law, i, _ruleset(law), nodes))
        else:
            rules += encoder.law(law, i, _ruleset(law))
    return [*encoder.declarations(), *rules, *body, *ground], nodes


def _ruleset(law: Law) -> str:
    if law.arranges:
        return "arranging"
    return "laws" if law.steps is None else f"opening{law.steps}"
