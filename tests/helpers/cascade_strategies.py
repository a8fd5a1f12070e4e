"""Hypothesis draws cascades: every node of the expression graph, any order, several outputs."""

from __future__ import annotations

from hypothesis import strategies as st

from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.einsum import CascadeError, Einsum
from eintune.space.ir.expr import (
    Access,
    Const,
    Expr,
    Fold,
    Index,
    Iota,
    Map,
    Param,
    Part,
    Predicate,
    Reduce,
    Size,
    Split,
    Tensor,
    Term,
    Unsplit,
    Where,
    access,
    free,
)
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.pointwise import POINTWISE, REDUCTIONS

RANKS = ("b", "e", "m", "m0", "m1", "p12", "z")
ranks = st.sampled_from(RANKS)
rank_lists = st.lists(ranks, unique=True, max_size=4).map(tuple)
floats = st.floats() | st.integers(-9, 9).map(float)
small = st.integers(-(10**12), 10**12) | st.integers(-3, 3)
terms = st.builds(Term, ranks, small, st.none() | ranks)
predicates = st.builds(
    Predicate,
    st.lists(terms, max_size=4).map(tuple),
    st.lists(st.tuples(ranks, small), max_size=3).map(tuple),
    small,
)
parameters = st.sampled_from(["scale", "eps_2", "S", "m", "e", "max", "Q1x", "_y", "results"]).map(Param)
three_ranks = st.lists(ranks, min_size=3, max_size=3, unique=True)


@st.composite
def lookups(draw: st.DrawFn, inputs: list[Tensor], depth: int = 2) -> Expr:
    """A tensor addressed by ranks, parts of ranks and elements of integer tensors."""
    tensor = draw(st.sampled_from(inputs))
    tables = [t for t in inputs if t.kind == "int"]
    free_ranks = list(draw(st.permutations(RANKS)))
    index: list[Index] = []
    for _ in tensor.ranks:
        match draw(st.sampled_from(["rank", "part", "table"])):
            case "part":
                index.append(Part(draw(st.sampled_from(["//", "%"])), draw(ranks), draw(st.integers(1, 10**12))))
            case "table" if tables and depth:
                index.append(draw(lookups(tables, depth - 1)))
            case _:
                index.append(free_ranks.pop())
    return access(tensor, tuple(index))


def pointwise(children: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return st.sampled_from(sorted(POINTWISE)).flatmap(
        lambda op: st.tuples(*[children] * POINTWISE[op].arity).map(lambda args: Map(op, args))
    )


def folds(action: str, children: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    others = st.tuples(*[children] * (ACTIONS[action].references - 1))
    return st.builds(Fold, st.just(action), ranks, children, children, others)


def larger(children: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return st.one_of(
        pointwise(children),
        st.builds(Reduce, st.sampled_from(sorted(REDUCTIONS)), ranks, children),
        st.builds(Where, predicates, children, floats),
        st.sampled_from(sorted(ACTIONS)).flatmap(lambda name: folds(name, children)),
        st.builds(lambda x, r: Split(x, *r), children, three_ranks),
        st.builds(lambda x, r: Unsplit(x, *r), children, three_ranks),
    )


@st.composite
def cascades(draw: st.DrawFn) -> Cascade:
    """Any cascade that the language allows, meaningful or not."""
    kinds = st.sampled_from(["float", "float", "int", "bool"])
    names = ("A", "KV", "Bias", "x1")
    known = [Tensor(n, draw(rank_lists), draw(kinds)) for n in names]
    inputs = list(known)
    einsums: list[Einsum] = []
    for name in draw(st.permutations(["Z", "OUT", "Y_2"]))[: draw(st.integers(1, 3))]:
        accesses = st.sampled_from(known).flatmap(
            lambda t: st.permutations(RANKS).map(lambda r: Access(t, tuple(r[: len(t.ranks)])))
        )
        leaves = st.one_of(
            accesses, accesses, lookups(inputs), floats.map(Const), parameters, ranks.map(Size), ranks.map(Iota)
        )
        expr = draw(st.recursive(leaves, larger, max_leaves=8))
        for rank in draw(st.lists(ranks, max_size=2)):
            expr = Reduce(draw(st.sampled_from(sorted(REDUCTIONS))), rank, expr)
        left = draw(st.permutations(sorted(free(expr) | set(draw(rank_lists)))))
        einsums.append(Einsum(Tensor(name, tuple(left), draw(kinds)), expr))
        known.append(einsums[-1].output)
    results = draw(st.lists(st.sampled_from([e.output.name for e in einsums]), unique=True))
    return Cascade(tuple(einsums), tuple(results))


__all__ = ["CascadeError", "cascades", "predicates"]
