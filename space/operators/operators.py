"""Operator notation: a cascade as separate map, reduce and tiling operators.

    M_mul_emp      multiply, over the iteration space {e, m, p}; no reduction
    R_add_e        sum over e
    T_split_m_m1m0, T_unsplit_m1m0_m     m as m1 tiles of m0 elements each, and back
    F_scale_m      the composite fold "scale" over m (reference, argument); see `folds`

`graph` has graphs of these and their text, `egglog_programs` reads and writes them as egglog programs, `cascades`
translates to and from a cascade; here are the names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Access, Const, Expr, Gather, Iota, Param, Predicate, Rank, Size, free
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS

_RANKS = re.compile(r"[a-z][0-9]{0,6}")
_NAME = re.compile(r"([MRTF])_([a-z0-9]+)((?:_(?:[a-z][0-9]{0,6})+)*)")
PART = re.compile(r"_temp\d*")
"""Ends the names that `from_cascade` gives to parts of an einsum."""
FORMS = "M_<op>_<ranks>, R_<op>_<rank>, T_split_<rank>_<ranks>, T_unsplit_<ranks>_<rank>, F_<action>_<rank>"


def in_order(ranks: frozenset[Rank] | set[Rank]) -> tuple[Rank, ...]:
    """Ranks as the notation orders them: by letter, an outer part before the inner one (m, m1, m0)."""
    return tuple(sorted(ranks, key=lambda r: (r[0], -int(r[1:] or 10**9))))


@dataclass(frozen=True)
class Operator:
    """An operator's name. `ranks`: a map's iteration space, a reduction's or fold's rank, a view's three ranks.

    A split's ranks are (whole, outer, inner), an unsplit's (outer, inner, whole), as they are written.
    """

    kind: str
    op: str
    ranks: tuple[Rank, ...]

    def __str__(self) -> str:
        groups = ["".join(self.ranks)]
        if self.kind == "T":
            cut = 1 if self.op == "split" else 2
            groups = ["".join(self.ranks[:cut]), "".join(self.ranks[cut:])]
        return "_".join([self.kind, self.op, *filter(None, groups)])

    @classmethod
    def parse(cls, name: str) -> Operator:
        """Raises CascadeError for a name that is no operator."""
        match = _NAME.fullmatch(name)
        if not match:
            raise CascadeError(f"{name} is no operator; the forms are {FORMS}")
        kind, op = match[1], match[2]
        groups = [tuple(_RANKS.findall(g)) for g in match[3].split("_")[1:]]
        ranks = tuple(r for g in groups for r in g)
        table, shape = _SHAPES[kind]
        if op not in table:
            raise CascadeError(f"{name}: there is no operation {op!r}; {kind}_ has {sorted(table)}")
        if [len(g) for g in groups] not in shape.get(op, shape["*"]) if shape else len(groups) > 1:
            raise CascadeError(f"{name}: the ranks do not fit; the forms are {FORMS}")
        if len(set(ranks)) != len(ranks):
            raise CascadeError(f"{name}: a rank stands twice")
        return cls(kind, op, ranks)


_SHAPES: dict[str, tuple[frozenset[str], dict[str, list[list[int]]]]] = {
    "M": (frozenset(POINTWISE) | {"where"}, {}),
    "R": (frozenset(REDUCTIONS), {"*": [[1]]}),
    "F": (frozenset(ACTIONS), {"*": [[1]]}),
    "T": (frozenset({"split", "unsplit"}), {"split": [[1, 2]], "unsplit": [[2, 1]], "*": []}),
}

Operand: TypeAlias = str | Access | Gather | Const | Param | Size | Iota | Predicate
"""A name (an operation's output, or an input whose ranks are not written), a leaf, or a filter."""


@dataclass(frozen=True)
class Operation:
    """`output = operator(operands)`. `ranks` is the order of the output's axes where it is written."""

    output: str
    operator: Operator
    operands: tuple[Operand, ...]
    ranks: tuple[Rank, ...] | None = None


def check_arity(o: Operation) -> None:
    """Raises CascadeError for another number of operands or filters than the operator takes."""
    filters = sum(isinstance(x, Predicate) for x in o.operands)
    got, want = (len(o.operands) - filters, filters), _arity(o.operator)
    if got != want:
        raise CascadeError(
            f"{o.output} = {o.operator} takes {want[0]} operands and {want[1]} filters, but got {got[0]} and {got[1]}"
        )


def check_spaces(operations: tuple[Operation, ...]) -> None:
    """Raises CascadeError for a map over another iteration space than its operands', as far as those are written."""
    for at, (o, ranks, is_whole) in enumerate(with_spaces(operations)):
        if not fits(o.operator, ranks, is_whole) and o.operator.kind == "M":
            check_reduced(operations[:at])  # what is reduced above and is not there is why: said first
            raise CascadeError(
                f"{o.output} = {o.operator} iterates {list(o.operator.ranks)}, but its operands have "
                f"{list(in_order(ranks))}"
            )


def check_reduced(operations: tuple[Operation, ...]) -> None:
    """Raises CascadeError for a reduction, a fold or a view of a rank that its operands lack, as far as theirs are
    known: a definition in another notation may sum over nothing, an operator's name says what is there."""
    for o, ranks, is_whole in with_spaces(operations):
        if o.operator.kind != "M" and not fits(o.operator, ranks, is_whole):
            does = {"R": "reduces", "F": "folds"}.get(o.operator.kind, f"{o.operator.op}s")
            raise CascadeError(
                f"{o.output} = {o.operator} {does} {' and '.join(_taken(o.operator))}, but its operand has "
                f"{list(in_order(ranks))}{_divided(o.operator, ranks, operations)}"
            )


def _divided(operator: Operator, ranks: frozenset[Rank], operations: tuple[Operation, ...]) -> str:
    """Where a rank is in parts and its operator takes it whole, or the other way round, that it is."""
    views = (v.operator.ranks[:: 1 if v.operator.op == "split" else -1] for v in operations if v.operator.kind == "T")
    for whole, *parts in views:
        if operator.ranks[0] in parts and whole in ranks:
            return f" ({whole} is whole there)"
        if operator.ranks[0] == whole and ranks & set(parts):
            return f" ({whole} is in parts there)"
    return ""


def with_spaces(operations: tuple[Operation, ...]) -> Iterator[tuple[Operation, frozenset[Rank], bool]]:
    """Each operation, the ranks of its operands as far as they are known, and whether that is all of them."""
    known: dict[str, frozenset[Rank] | None] = {}
    for o in operations:
        below = [known.get(x) if isinstance(x, str) else _ranks_of(x) for x in o.operands]
        ranks, is_whole = frozenset[Rank]().union(*(r for r in below if r is not None)), None not in below
        yield o, ranks, is_whole
        known[o.output] = space_after(o.operator, ranks if is_whole else None)


def fits(operator: Operator, ranks: frozenset[Rank], is_whole: bool) -> bool:
    """Whether an operator can take operands that have these ranks together, as far as they are known."""
    if operator.kind == "M":
        space = set(operator.ranks)
        return ranks == space if is_whole else ranks <= space
    return not is_whole or bool(ranks & set(_taken(operator)))


def _taken(operator: Operator) -> tuple[Rank, ...]:
    """The rank that a reduction, a fold or a split takes away, or the two that an unsplit does."""
    return operator.ranks[:2] if (operator.kind, operator.op) == ("T", "unsplit") else operator.ranks[:1]


def _ranks_of(x: Expr | Predicate) -> frozenset[Rank]:
    return x.ranks if isinstance(x, Predicate) else free(x)


def space_after(operator: Operator, ranks: frozenset[Rank] | None) -> frozenset[Rank] | None:
    """The ranks of what an operator gives, of operands with these together; None where they are not known."""
    if operator.kind == "M":
        return frozenset(operator.ranks)
    if ranks is None:
        return None
    match operator.kind, operator.ranks:
        case "T", (whole, outer, inner) if operator.op == "split":
            return ranks - {whole} | {outer, inner} if whole in ranks else ranks
        case "T", (outer, inner, whole):
            return ranks - {outer, inner} | {whole} if ranks & {outer, inner} else ranks
        case _:
            return ranks - set(operator.ranks)


def _arity(operator: Operator) -> tuple[int, int]:
    """Operands and filters that an operator takes."""
    if operator.op == "where":
        return 2, 1
    if operator.kind == "M":
        return POINTWISE[operator.op].arity, 0
    return (ACTIONS[operator.op].references + 1 if operator.kind == "F" else 1), 0
