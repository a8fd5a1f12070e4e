"""Cascades: sequences of einsums, as a user defines a computation and as a derivation is written down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from eintune.host.forks import cached_property
from eintune.space.ir.einsum import CascadeError, Einsum, TooLarge
from eintune.space.ir.expr import (
    Access,
    Computed,
    Expr,
    Fold,
    Gather,
    Integer,
    Iota,
    Leaf,
    Part,
    Predicate,
    Rank,
    Reduce,
    Size,
    Split,
    Tensor,
    Term,
    Unsplit,
    Where,
    access,
    children,
    free,
    indexing_ranks,
    indexing_sizes,
    is_padded,
    leaves,
    looked_up,
    reads,
    rewrite,
    tensors,
    topological,
    with_children,
    with_leaves,
)
from eintune.space.ir.extents import Extents
from eintune.space.ir.index_arithmetic import fault, is_of_elements
from eintune.space.ir.names import wrong_names
from eintune.space.notation.printer import write_cascade
from eintune.space.notation.reader import read_cascade


@dataclass(frozen=True)
class Cascade:
    """Dependent einsums in order. A tensor that no einsum defines is an input.

    `results` names the outputs; empty means every tensor that no other einsum reads.
    """

    einsums: tuple[Einsum, ...]
    results: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        made = {e.output.name for e in self.einsums}
        for e in self.einsums:
            if e.output.name in seen:
                raise CascadeError(f"einsum {e.output.name}: a tensor is defined once, but this is its second")
            if wrong := wrong_names(e.output, e.expr):
                raise CascadeError(f"einsum {e.output.name[:20]}: {wrong}")
            for name in tensors([e.expr]):
                if name in made and name not in seen:
                    raise CascadeError(f"einsum {e.output.name}: reads {name}, which is defined later or is itself")
            _check_gathers(e, seen)
            seen.add(e.output.name)
        _ = self._in_place
        for name in self.results:
            if name not in seen:
                raise CascadeError(f"result {name}: no einsum defines it (defined: {sorted(seen)})")

    @classmethod
    def parse(cls, text: str) -> Cascade:
        """Read EDGE notation (`space/notation/reader.py`). The text may be untrusted: nothing is evaluated, its size is
        bounded. A text that was read lately is the same object, with all that was found out about it.

        Raises CascadeError with the line, the construct and what is allowed there.
        """
        if not isinstance(text, str):
            raise CascadeError(f"a cascade is read from a text, but got {type(text).__name__}")
        return _read(text)

    def __getstate__(self) -> dict[str, object]:
        return {"einsums": self.einsums, "results": self.results}  # what follows from them may nest deep

    def __str__(self) -> str:
        return self.text()

    def text(self, *, unicode: bool = False) -> str:
        """In EDGE notation: in ASCII, or with EDGE's own symbols if `unicode`. Parameters keep their names.

        Raises CascadeError for a cascade that the notation cannot say (names that are no names).
        """
        return write_cascade(self.einsums, self.results, unicode=unicode)

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        """The result tensors by name."""
        made = {e.output.name: e.output for e in self.einsums}
        if self.results:
            return {name: made[name] for name in self.results}
        read = {name for e in self.einsums for name in tensors([e.expr])}
        return {name: t for name, t in made.items() if name not in read}

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """The tensors that no einsum defines, by name, in first-use order."""
        made = {e.output.name for e in self.einsums}
        return {n: t for n, t in tensors(e.expr for e in self.einsums).items() if n not in made}

    def roots(self) -> dict[str, Expr]:
        """Each output as one expression over the inputs, intermediates written in place."""
        made, fault = self._in_place
        if fault is not None:
            raise fault
        return {name: made[name].expr for name in self.outputs}

    @cached_property
    def _in_place(self) -> tuple[dict[str, Einsum], CascadeError | None]:
        """Each einsum over the inputs, and why there are no more of them (ranks that would be captured).

        Raises CascadeError for a computation beyond the limits of `extents`.
        """
        made: dict[str, Einsum] = {}
        extents = Extents()
        for e in self.einsums:
            try:
                expr = rewrite([e.expr], lambda x: _inline(x, made, extents))[0]
            except TooLarge:
                raise
            except CascadeError as error:
                return made, error
            if fault := extents.fault(expr):
                raise TooLarge(fault)
            made[e.output.name] = Einsum(e.output, expr)
        return made, None

    def ranks(self) -> list[Rank]:
        """All ranks that appear, in order of appearance (inputs' index names first, then reduced ones).

        Sizes in filters are among them, whether anything iterates them or not: all of these need a size.
        """
        order: dict[Rank, None] = {}
        for e in self.einsums:
            order.update(dict.fromkeys(e.output.ranks))
            for x in topological([e.expr]):
                order.update(dict.fromkeys(named_ranks(x)))
        return list(order)

    def same_sizes(self) -> dict[Rank, Rank]:
        """For each rank, the first of those that must have its size: they index one axis of one tensor."""
        first: dict[Rank, Rank] = {r: r for r in self.ranks()}

        def find(r: Rank) -> Rank:
            while first[r] != r:
                r = first[r]
            return r

        known = self.inputs | {e.output.name: e.output for e in self.einsums}
        for x in reads(e.expr for e in self.einsums):
            axes = zip(known[x.tensor.name].ranks, x.index, strict=True)
            for a, b in ((own, i) for own, i in axes if isinstance(i, str)):
                low, high = sorted((find(first.setdefault(a, a)), find(b)), key=list(first).index)
                first[high] = low
        return {r: find(r) for r in first}

    def equalised(self, sizes: Mapping[Rank, int]) -> dict[Rank, int]:
        """The sizes, with one number (the first rank's) for ranks that must have the same size."""
        return dict(sizes) | {r: sizes[first] for r, first in self.same_sizes().items() if r in sizes}


def named_ranks(x: Expr) -> tuple[Rank, ...]:
    """The ranks that a node says itself: all that its operands do not."""
    match x:
        case Access() | Gather():
            return (*indexing_ranks(x), *indexing_sizes(x))
        case Iota() | Size() | Reduce() | Fold():
            return (x.rank,)
        case Where():
            p = x.predicate
            strides = (t.stride for t in p.terms if t.stride)
            return (*(r for r, _ in p.sizes), *(t.rank for t in p.terms), *strides)
        case Split() | Unsplit():
            return (x.rank, x.outer, x.inner)
        case _:
            return ()


def _check_gathers(e: Einsum, made: set[str]) -> None:
    """Raises CascadeError for an indexed access that nothing could evaluate."""
    for x in reads([e.expr]):
        if not isinstance(x, Gather):
            continue
        where = f"einsum {e.output.name}: {x.tensor.name}[…]"
        tables = looked_up(x)
        for read in (x, *tables):
            if read.tensor.name in made:
                raise CascadeError(
                    f"{where}: an indexed access reads inputs only, but an einsum defines {read.tensor.name}"
                )
            if len(read.index) != len(read.tensor.ranks):
                raise CascadeError(
                    f"{where}: {read.tensor.name} has {len(read.tensor.ranks)} axes {list(read.tensor.ranks)}, but "
                    f"{len(read.index)} are addressed"
                )
        for table in tables:
            if table.tensor.kind != "int":
                raise CascadeError(
                    f"{where}: an axis is addressed by elements of an int tensor, but {table.tensor.name} is "
                    f"{table.tensor.kind}"
                )
        if any(is_padded(table) for table in tables):
            raise CascadeError(f"{where}: an element that addresses an axis is one of its tensor's, without `else 0`")
        computed = [i for i in x.index if isinstance(i, Computed)]
        if wrong := next(filter(None, map(fault, computed)), None):
            raise CascadeError(f"{where}: {wrong}")
        if not is_padded(x) and any(map(is_of_elements, computed)):
            raise CascadeError(
                f"{where}: an index that is computed of elements may lie beyond its axis, so it says `else 0`"
            )
        for i in (leaf for item in x.index for leaf in leaves(item)):
            if isinstance(i, Part) and (i.op not in ("//", "%") or i.by < 1):
                raise CascadeError(
                    f"{where}: a part of a rank is its quotient // or remainder % by a positive number, but got "
                    f"{i.rank} {i.op} {i.by}"
                )


def _inline(x: Expr, made: Mapping[str, Einsum], extents: Extents) -> Expr | None:
    if not isinstance(x, Access) or x.tensor.name not in made:
        return None
    source = made[x.tensor.name]
    renaming = {a: b for a, b in zip(source.output.ranks, x.index, strict=True) if a != b}
    if renaming and (fault := extents.renaming(source.expr)):
        raise TooLarge(fault)
    return rename(source.expr, renaming) if renaming else source.expr


def rename(x: Expr, names: Mapping[Rank, Rank]) -> Expr:
    """Rename free ranks of `x` (simultaneously). Raises CascadeError where a reduced rank would capture one."""
    memo: dict[tuple[Expr, frozenset[tuple[Rank, Rank]]], Expr] = {}

    def go(node: Expr, active: dict[Rank, Rank]) -> Expr:
        active = {a: b for a, b in active.items() if a in free(node)}
        if not active:
            return node
        key = node, frozenset(active.items())
        if key in memo:
            return memo[key]
        to = active.get
        match node:
            case Access():
                new: Expr = Access(node.tensor, tuple(to(r, r) for r in node.index))
            case Gather():
                new = _renamed_gather(node, active)
            case Iota():
                new = Iota(to(node.rank, node.rank))
            case Where():
                p = node.predicate
                terms = tuple(
                    Term(to(t.rank, t.rank), t.coef, to(t.stride, t.stride) if t.stride else None) for t in p.terms
                )
                sizes = tuple((to(r, r), c) for r, c in p.sizes)
                new = Where(Predicate(terms, sizes, p.const), go(node.arg, active), node.fill)
            case Reduce() | Fold():
                if node.rank in active.values():
                    raise CascadeError(f"renaming {active} would be captured by the reduction over {node.rank}")
                new = with_children(node, tuple(go(a, active) for a in children(node)))
            case Split() | Unsplit():
                inner = {a: b for a, b in active.items() if a not in (node.outer, node.inner, node.rank)}
                if inner != active:
                    raise CascadeError(f"renaming {active} of a rank that a view of {node.rank} splits")
                new = with_children(node, (go(node.arg, active),))
            case _:
                new = with_children(node, tuple(go(a, active) for a in children(node)))
        memo[key] = new
        return new

    return go(x, dict(names))


def _renamed_gather(x: Access | Gather, names: Mapping[Rank, Rank]) -> Access | Gather:
    def renamed(i: Leaf) -> Integer:
        match i:
            case str():
                return names.get(i, i)
            case Part():
                return Part(i.op, names.get(i.rank, i.rank), i.by)
            case Access() | Gather():
                return _renamed_gather(i, names)
            case Size():
                return Size(names.get(i.rank, i.rank))
            case int():
                return i

    return access(x.tensor, tuple(with_leaves(i, renamed) for i in x.index), is_padded(x))


def from_roots(roots: Mapping[str, tuple[Expr, tuple[Rank, ...]]], names: Mapping[Expr, str] | None = None) -> Cascade:
    """Write expressions down as a cascade: one einsum a reduction, fold, split or shared node.

    `names` gives preferred tensor names for nodes (as the definition called them); others are T1, T2, …
    """
    preferred = dict(names or {})
    order = topological(x for x, _ in roots.values())
    users: dict[Expr, int] = {}
    for x in order:
        for a in children(x):
            users[a] = users.get(a, 0) + 1
    taken = set(tensors(order)) | set(roots)
    alias: dict[Expr, Expr] = {}
    einsums: list[Einsum] = []

    def fresh(x: Expr) -> str:
        base = preferred.get(x)
        if base and base not in taken:
            taken.add(base)
            return base
        n = 1
        while f"T{_letters(n)}" in taken:
            n += 1
        taken.add(f"T{_letters(n)}")
        return f"T{_letters(n)}"

    rank_order = _rank_order(order, [ranks for _, ranks in roots.values()])
    for x in order:
        body = with_children(x, tuple(alias[a] for a in children(x)))
        wants_name = isinstance(x, (Reduce, Fold, Split)) or (children(x) and users.get(x, 0) > 1) or x in preferred
        if not wants_name or not children(x) or any(x is r for r, _ in roots.values()):
            alias[x] = body
            continue
        ranks = tuple(r for r in rank_order if r in free(x))
        tensor = Tensor(fresh(x), ranks)
        einsums.append(Einsum(tensor, body))
        alias[x] = Access(tensor, ranks)
    for name, (x, ranks) in roots.items():
        einsums.append(Einsum(Tensor(name, ranks), alias[x]))
    return Cascade(tuple(einsums), tuple(roots))


def _letters(n: int) -> str:
    """1 -> A, 26 -> Z, 27 -> AA: tensor names are capital letters only."""
    text = ""
    while n:
        n, d = divmod(n - 1, 26)
        text = chr(65 + d) + text
    return text


def _rank_order(nodes: Iterable[Expr], outputs: Iterable[tuple[Rank, ...]]) -> list[Rank]:
    """The outputs' ranks in their order, the innermost of each after all others; between them the reduced ones."""
    order: dict[Rank, None] = {}
    innermost: dict[Rank, None] = {}
    for ranks in outputs:
        order.update(dict.fromkeys(ranks[:-1]))
        innermost.update(dict.fromkeys(ranks[-1:]))
    for x in nodes:
        if isinstance(x, (Access, Gather)):
            order.update(dict.fromkeys(indexing_ranks(x)))
        elif isinstance(x, (Split,)):
            order.update(dict.fromkeys((x.outer, x.inner)))
        else:
            order.update(dict.fromkeys(sorted(free(x))))
    return [*(r for r in order if r not in innermost), *innermost]


@lru_cache(maxsize=128)
def _read(text: str) -> Cascade:
    return Cascade(*read_cascade(text))
