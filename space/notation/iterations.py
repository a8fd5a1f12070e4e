"""Iterative cascades as text, both ways: EDGE notation with `m1+1`, `0` and `|m1|` as indices, and `until`."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from eintune.space.ir.einsum import CascadeError, Einsum, Update
from eintune.space.ir.expr import Access, Expr, Index, Predicate, Rank, Tensor, topological

from .expressions import ReaderScope
from .filters import read_predicate, write_predicate
from .lexer import Token, statements
from .printer import write_declarations, write_statement
from .reader import SourceLine

_UNTIL = ("until", "⋄")


Parts = tuple[Rank, tuple[Einsum, ...], tuple[Update, ...], tuple[Update, ...], tuple[Update, ...], Predicate]
"""The iterated rank; what stands before, the states' first values, a step, what stands after; where it stops."""


def read_iterative(text: str) -> Parts:
    """The parts of an iterative cascade. Raises CascadeError with the line, the construct and what is allowed there."""
    lines = statements(text)
    until = _stopping_condition(lines)
    (rank,) = until.ranks
    words = {t.text for _, tokens in lines for t in tokens if t.kind == "word"}
    scope = ReaderScope()
    before, initial, step, after = list[Einsum](), list[Update](), list[Update](), list[Update]()
    for number, tokens in lines:
        line = IterativeLine(number, tokens, scope, until, words, frozenset(u.output.name for u in initial))
        if line.peek().text in _UNTIL:
            continue
        if line.take("input"):
            line.at = 0
            line.declaration()
            continue
        update = line.update()
        if "0" in update.index:
            initial.append(update)
        elif f"{rank}+1" in update.index or (rank in update.index and initial):
            if after:
                line.fail(
                    f"{update.output.name} is a step, but {after[-1].output.name} above began the results "
                    f"(what has no index over {rank} on its left)"
                )
            step.append(update)
        elif step:
            after.append(update)
        else:
            before.append(Einsum(update.output, update.expr))
    _check_read(rank, initial, step, after)
    return rank, tuple(before), tuple(initial), tuple(step), tuple(after), until


def _check_read(rank: Rank, initial: Sequence[Update], step: Sequence[Update], after: Sequence[Update]) -> None:
    """An iteration that no result reads is a name that is written otherwise, not one to leave out."""
    iterated = {u.output.name for u in (*initial, *step)}
    read = {x.tensor.name for u in after for x in topological([u.expr]) if isinstance(x, Access)}
    if after and not iterated & read:
        raise CascadeError(
            f"a result must read what the iteration over {rank} makes, at its last value |{rank}|, "
            f"but got {sorted(read)}; it makes {sorted(iterated)}"
        )


def _stopping_condition(lines: list[tuple[int, list[Token]]]) -> Predicate:
    found = [(n, tokens) for n, tokens in lines if tokens[0].text in _UNTIL]
    if len(found) != 1:
        raise CascadeError(f"an iteration has one stopping condition (until m1 >= |m1|), but got {len(found)}")
    words = {t.text for _, tokens in lines for t in tokens if t.kind == "word"}
    line = StoppingLine(*found[0], ReaderScope())
    line.ranks_elsewhere = words
    line.next()
    line.take(":")
    predicate = read_predicate(line)
    line.end()
    if len(predicate.ranks) != 1:
        line.fail(f"the stopping condition is over the iterated rank alone, but reads {sorted(predicate.ranks)}")
    return predicate


class StoppingLine(SourceLine):
    """The stopping condition. A size in capitals that is no rank's, `i ≥ K`, is that of the iterated rank."""

    ranks_elsewhere: AbstractSet[str] = frozenset()

    def rank_of_size(self, name: str) -> Rank:
        own = super().rank_of_size(name)
        iterated = next((t.text for t in self.tokens if t.kind == "word" and t.text not in _UNTIL), own)
        return own if own in self.ranks_elsewhere else iterated


class IterativeLine(SourceLine):
    """A line whose tensors may be indexed by the iterated rank's next, first and last value."""

    def __init__(
        self,
        number: int,
        tokens: list[Token],
        scope: ReaderScope,
        until: Predicate,
        words: AbstractSet[str] = frozenset(),
        states: AbstractSet[str] = frozenset(),
    ) -> None:
        super().__init__(number, tokens, scope)
        (self.iterated,), self.words, self.states = until.ranks, words, states
        self.subscript_at = -1
        self.stop = until.sizes[0][0] if until.sizes else self.iterated
        self.left = False
        self.in_braces = False

    def rank_of_size(self, name: str) -> Rank:
        own = super().rank_of_size(name)
        return own if own in self.words else self.iterated

    def last_starts(self, ahead: int = 0) -> bool:
        """`|m1|`, `M1`, or within a subscript the size in capitals at which the iteration stops (`RZ_K`)."""
        if self.peek(ahead).text == "|":
            return self.peek(ahead + 1).text == self.iterated
        length = self.capital(ahead)
        name = "".join(t.text for t in self.tokens[self.at + ahead : self.at + ahead + length])
        before = self.tokens[max(self.at + ahead - 1, 0)].text
        within = self.in_braces or before in ("_", "{") or self.at + ahead == self.subscript_at
        return name.lower() == self.iterated or (
            bool(length) and within and self.rank_of_size(name) in (self.iterated, self.stop)
        )

    def update(self) -> Update:
        token = self.peek()
        self.left = True
        name, index = self.tensor("the left side of an einsum")
        self.left = False
        output = Tensor(name, self.plain(index), self.kind())
        self.expect("=", "an einsum")
        r = self.iterated
        expr = self.right_side(frozenset({*index, r, f"{r}+1", f"|{r}|"}))
        self.define(output, token)
        return Update(output, index, expr)

    def define(self, output: Tensor, token: Token) -> None:
        """A state is defined twice, at 0 and in the step, and read in between."""
        known = self.scope.tensors.get(output.name)
        if output.name in self.scope.made:
            if known and known != output:
                above, here = (f"{','.join(t.ranks)} ({t.kind})" for t in (known, output))
                self.fail(f"{output.name} has ranks {above} above, but {here} here", token)
            return
        super().define(output, token)

    def plain(self, index: tuple[str, ...]) -> tuple[Rank, ...]:
        """The iterated rank in place of its values."""
        special = (f"{self.iterated}+1", f"|{self.iterated}|", "0")
        return tuple(self.iterated if i in special else i for i in index)

    def index_starts(self, ahead: int = 0) -> bool:
        if super().index_starts(ahead):
            return True
        token, previous = self.peek(ahead), self.tokens[max(self.at + ahead - 1, 0)]
        first = self.left and token.text == "0"
        last = not self.left and self.last_starts(ahead)
        return (first or last) and token.start == previous.end

    def access(self) -> Expr:
        self.split_last()
        return super().access()

    def split_last(self) -> None:
        """`RYK` is RY at K, where RY is a state and nothing above is called RYK: plain text has no subscripts."""
        token, tensors = self.peek(), self.scope.tensors
        name, size = token.text[:-1], token.text[-1:]
        if token.kind != "tensor" or token.text in tensors or name not in self.states:
            return
        end = token.end - 1
        parts = [Token("tensor", name, token.start, end), Token("tensor", size, end, token.end)]
        whole, self.tokens = self.tokens, [*self.tokens[: self.at], *parts, *self.tokens[self.at + 1 :]]
        self.subscript_at = self.at + 1
        if not self.last_starts(1):
            self.tokens, self.subscript_at = whole, -1

    def subscript_item(self, braces: bool) -> Index:
        self.in_braces = braces
        if self.tile_starts(braces):
            return self.tile(braces)
        return self.index_item()

    def index_item(self) -> str:
        token = self.peek()
        if self.left and token.text == "0":
            return self.next().text
        if not self.left and self.last_starts():
            _ = self.size() if token.text == "|" else self.capital_size()
            return f"|{self.iterated}|"
        rank = self.rank("a tensor's index")
        plus, one = self.peek(), self.peek(1)
        if rank == self.iterated and (plus.text, one.text) == ("+", "1") and plus.start == token.end == one.start - 1:
            self.at += 2
            return f"{rank}+1"
        return self.only(rank) if self.left else rank

    def only(self, rank: Rank) -> str:
        """`i:i=0` on the left: the one index at which a state has its initial value."""
        if self.peek().text != ":" or (self.peek(1).text, self.peek(2).text) != (rank, "="):
            return rank
        self.at += 3
        value = self.next()
        if rank != self.iterated or value.text != "0":
            self.fail(f"an initial value stands at {self.iterated}=0, but got {rank}={value.text}", value)
        return value.text

    def known_index(self, index: tuple[Rank, ...]) -> tuple[Rank, ...]:
        return self.plain(index)


def write_iterative(
    rank: Rank,
    before: Sequence[Einsum],
    initial: Sequence[Update],
    step: Sequence[Update],
    after: Sequence[Update],
    until: Predicate,
) -> str:
    """Declarations, what comes before, initial values, the step, the results, the stopping condition."""
    r = rank
    statements: list[Einsum | Update] = [*before, *initial, *step, *after]
    lines = write_declarations((s.output, s.expr) for s in statements)
    sections: list[tuple[str, Sequence[Einsum | Update]]] = [
        ("before", before),
        ("initialisation", initial),
        ("step", step),
        ("result", after),
    ]
    for title, found in sections:
        lines += [f"# {title}"] if found else []
        for s in found:
            index = s.index if isinstance(s, Update) else s.output.ranks
            kept = frozenset({*index, r, f"{r}+1", f"|{r}|"})
            lines.append(write_statement(Tensor(s.output.name, index, s.output.kind), s.expr, kept))
    return "\n".join([*lines, f"until {write_predicate(until)}"])
