"""EDGE notation, read; `printer` writes it, and what one writes the other reads.

    QKm,p = Qp,e * Ke,m * scale          # a name in capitals, then its ranks; sums over ranks absent on the left
    GMp = QKm,p :: \\/m max               # a reduce action; EDGE's own ∨m max(∪) is read as well
    SNm,p = e^(QKm,p - GMp)
    Zm,n = Ak,m · Bk,n :: ∧k ×(∩) ∨k +(∪)  /* · computes what the map action ∧ says */
    S_{i+1} = A_{k:k≤i}                   /* subscripts and commands of LaTeX are read; ASCII is printed */

A line is one of

    einsum       NAMEranks [: int|bool] = expression [:: action …]
    declaration  input NAMEranks [: int|bool]   (only where the first use does not say it)
    results      results: NAME, …               (absent: every tensor that no einsum reads)

An expression has `|`, `&`, comparisons, `+ -`, `* / ×` and `·`, a sign, and of what binds tightest

    Am,p   Bias[m,p]   2.5   -inf   scale   param(S)   |m|   index(m)   e^(x)   max(x, y) and all of `POINTWISE`
    sum[m](x)  max[m](x)  min[m](x)  prod[m](x)  fold_scale[m](ref, x)  fold_translate[m](ref, x)
    fold_comoment[m](x, y, w)  fold_softcomoment[m](s, x, y, w)
    where(m <= p + |m| - |p| & …, x, -inf)  split[m -> m1,m0](x)  unsplit[m1,m0 -> m](x)

Implicit sums stand inside of the reduce actions, and the actions apply from left to right. A filter on a tensor,
`Zp = Am,p:m<=p`, restricts the iteration space of the whole einsum: a filtered point takes no part in its reduction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from eintune.space.ir.einsum import CascadeError, Einsum
from eintune.space.ir.expr import (
    Access,
    Expr,
    Gather,
    Iota,
    Map,
    Predicate,
    Rank,
    Reduce,
    Tensor,
    Unsplit,
    Where,
    free,
    indexing_ranks,
    rewrite,
)
from eintune.space.ir.pointwise import REDUCTIONS

from .expressions import Expressions, ReaderScope, quotient
from .grammar import COMPUTE, CULLED, KINDS, REDUCE, RESERVED, implicit_sum
from .lexer import Token, statements
from .tiles import common, parts_of


def read_cascade(text: str) -> tuple[tuple[Einsum, ...], tuple[str, ...]]:
    """The einsums that `text` writes and the names of its results.

    Raises CascadeError with the line, the construct and what is allowed.
    """
    scope, einsums, results = ReaderScope(), list[Einsum](), tuple[str, ...]()
    for number, tokens in statements(text):
        line = SourceLine(number, tokens, scope)
        match line.peek():
            case Token("word", "input"):
                line.declaration()
            case Token(_, "until" | "⋄"):
                line.fail("a stopping condition makes this an iteration, which IterativeCascade.parse reads")
            case Token("word", "results"):
                if results:
                    line.fail("`results` stands once, but this is its second line")
                results = line.results()
            case _:
                einsums.append(line.einsum())
    for name, number in scope.declared.items():
        if name not in scope.read:
            raise CascadeError(f"line {number}: input {name} is declared, but no einsum reads it")
    return tuple(einsums), results


def _before(p: Predicate, rank: Rank) -> Predicate:
    """The filter at rank - 1."""
    of = [t for t in p.terms if t.rank == rank]
    strided = tuple((t.stride, -t.coef) for t in of if t.stride)
    return replace(p, sizes=p.sizes + strided, const=p.const - sum(t.coef for t in of if not t.stride))


@dataclass(frozen=True)
class MapAction:
    """`∧k ×(∩)`: what `·` computes over which ranks, and whether only where the right operand has an element; or
    `σ()`, which applies to what stands before it."""

    token: Token
    ranks: tuple[Rank, ...]
    op: str
    culls: bool


@dataclass(frozen=True)
class ReduceAction:
    """`∨k +(∪)`: reduces what stands before it."""

    rank: Rank
    op: str


class SourceLine(Expressions):
    """A cursor that reads one statement."""

    shifted: tuple[Rank, ...] | None = None
    """While the left side of an einsum is read: its ranks that stand there as `i+1`."""
    tiled: dict[Rank, tuple[Rank, Rank]]
    """The axes that the left side of an einsum has in tiles."""

    def declaration(self) -> None:
        """`input Kb,m,e : int`: the tensor's own names for its axes, and its kind."""
        self.next()
        token = self.peek()
        name, index = self.tensor("an input")
        kind = self.kind()
        self.end()
        if name in self.scope.tensors:
            self.fail(f"input {name} is declared once and before it is read or defined", token)
        self.scope.tensors[name] = Tensor(name, index, kind)
        self.scope.declared[name] = self.number

    def results(self) -> tuple[str, ...]:
        """`results: AV, L`"""
        self.next()
        self.expect(":", "`results`")
        names: list[str] = []
        while not names or self.take(","):
            token = self.next()
            if token.text not in self.scope.made:
                self.fail(f"`results:` lists outputs of the einsums above, but got {token.text!r}", token)
            if token.text in names:
                self.fail(f"result {token.text} stands twice", token)
            names.append(token.text)
            if token.kind == "bracketed":
                self.brackets(lambda: None, "a result", "[", "]")
        self.end()
        return tuple(names)

    def kind(self) -> str:
        if not self.take(":"):
            return "float"
        token = self.next()
        if token.text not in KINDS:
            self.fail(f"a tensor's kind is one of {list(KINDS)}, but got {token.text!r}", token)
        return token.text

    def einsum(self) -> Einsum:
        """`Zm,n = right side :: actions`"""
        token = self.peek()
        self.shifted = tuple[Rank, ...]()
        self.tiled = {}
        name, index = self.tensor("the left side of an einsum")
        output = Tensor(name, index, self.kind())
        self.expect("=", "an einsum")
        shifted, self.shifted = self.shifted, None
        expr = self.right_side(frozenset(index).difference(self.tiled).union(*self.tiled.values()))
        expr = self.in_one(expr, token)
        for rank in shifted:
            expr = self.at_the_index_before(expr, rank, token)
        if name in self.scope.made:
            self.fail(f"{name} is defined once, but line {self.scope.made[name]} defines it already", token)
        self.define(output, token)
        return Einsum(output, expr)

    def index_item(self) -> Rank:
        if self.shifted is not None and self.tile_starts(False):
            return self.tile_on_the_left()
        rank = super().index_item()
        if self.shifted is not None and self.peek().text == "+" and self.peek(1).text == "1":
            self.at += 2
            self.shifted += (rank,)
        return rank

    def tile_on_the_left(self) -> Rank:
        """`AVf,m1×M0+m0 = …`: the output has the axis that its parts m1 and m0 are of, m."""
        token, found = self.peek(), parts_of(self.tile(False))
        assert found is not None
        outer, inner = found
        if (rank := common(outer, inner)) is None:
            self.fail(f"an axis in tiles is called as its parts are without digits, but got {outer} and {inner}", token)
        self.tiled[self.known_rank(rank, token)] = found
        return rank

    def in_one(self, x: Expr, token: Token) -> Expr:
        """The right side with the parts of the left side's axes joined."""
        for rank, (outer, inner) in self.tiled.items():
            if {outer, inner} - free(x) or rank in free(x):
                self.fail(
                    f"where {outer}*|{inner}|+{inner} stands on the left, the right side is over {outer} and {inner}, "
                    f"but got {sorted(free(x))}",
                    token,
                )
            x = Unsplit(x, outer, inner, rank)
        return x

    def at_the_index_before(self, x: Expr, rank: Rank, token: Token) -> Expr:
        """What `S_{i+1} = x` says of S_i: x with i - 1 for i, which its filters alone may read."""

        def before(node: Expr) -> Expr | None:
            if isinstance(node, Where):
                return Where(_before(node.predicate, rank), node.arg, node.fill)
            if (isinstance(node, (Access, Gather)) and rank in indexing_ranks(node)) or node == Iota(rank):
                self.fail(
                    f"where {rank}+1 stands on the left, filters alone read {rank} on the right; else it is a step of "
                    f"an iteration, which has a value at {rank}=0 and a stopping condition (until {rank} >= |{rank}|)",
                    token,
                )
            return None

        return rewrite([x], before)[0]

    def define(self, output: Tensor, token: Token) -> None:
        name, scope = output.name, self.scope
        if name in RESERVED:
            self.fail(f"{name} is a word of the notation, so it names no tensor", token)
        if name in scope.read:
            self.fail(f"{name} is read on line {scope.read[name]}, before it is defined here", token)
        if name in scope.declared:
            self.fail(f"{name} is declared an input on line {scope.declared[name]}, so no einsum defines it", token)
        scope.made[name] = self.number
        scope.tensors[name] = output

    def right_side(self, kept: frozenset[Rank]) -> Expr:
        """The expression, summed over its ranks that are not `kept`; then its actions in order."""
        maps, steps = self.actions()
        reductions = [(s.rank, s.op) for s in steps if isinstance(s, ReduceAction)]
        body = self.expression()
        if self.peek().text != "::":
            self.end()
        body = self.check(maps, body)
        explicit = {rank for rank, _ in reductions}
        self.check_filters(steps, body, kept | explicit)
        for predicate in reversed(self.filters):
            body = Where(predicate, body, self.fill(body, kept | explicit, reductions))
        body = implicit_sum(body, kept | explicit)
        for step in steps:
            if isinstance(step, ReduceAction):
                body = Reduce(step.op, step.rank, body)
            else:
                self.check_ranks(step, body)
                body = Map(step.op, (body,))
        return body

    def check_filters(self, steps: list[ReduceAction | MapAction], body: Expr, kept: frozenset[Rank]) -> None:
        """A filtered point takes no part in a reduction, but an operator of one operand may make something of it."""
        summed = free(body).union(*(p.ranks for p in self.filters)) - kept
        for i, step in enumerate(steps if self.filters else ()):
            if not isinstance(step, MapAction):
                continue
            if not (summed or i) or any(isinstance(s, ReduceAction) for s in steps[i:]):
                self.fail(
                    f"with a filter on a tensor, {step.op} applies behind all reductions; write where(…)", step.token
                )

    def check_ranks(self, action: MapAction, body: Expr) -> None:
        if extra := set(action.ranks) - free(body):
            self.fail(f"a map action is over ranks of the right side, but {sorted(extra)} are not", action.token)

    def fill(self, body: Expr, kept: frozenset[Rank], reductions: list[tuple[Rank, str]]) -> float:
        """What stands at filtered points: the identity of the reduction, or 0 (absent) where there is none."""
        ranks = free(body).union(*(p.ranks for p in self.filters))
        if inner := ranks - free(body) - kept:
            self.fail(
                f"a filter on a tensor is over ranks of the whole right side, but {sorted(inner)} are reduced in it"
            )
        ops = {op for _, op in reductions} | ({"add"} if ranks - kept else set())
        if len(ops) > 1:
            self.fail(f"a filter on a tensor needs reductions of one kind, but got {sorted(ops)}; write where(…)")
        return REDUCTIONS[ops.pop()].identity if ops else 0.0

    # ---- actions

    def actions(self) -> tuple[list[MapAction], list[ReduceAction | MapAction]]:
        """The actions behind `::`, read ahead: the maps that say what `·` computes; those that apply to the whole right
        side, in order."""
        maps: list[MapAction] = []
        steps: list[ReduceAction | MapAction] = []
        start = self.at
        while self.peek().kind != "end" and self.next().text != "::":
            pass
        if self.tokens[self.at - 1].text == "::" and self.peek().kind == "end":
            self.fail("after `::` stands a map action (∧k ×(∩)) or a reduce action (∨k +(∪))", self.peek())
        while self.peek().kind != "end":
            token = self.peek()
            if self.take("\\/"):
                rank = self.rank_in_subscript("a reduce action")
                steps.append(ReduceAction(rank, self.compute(REDUCE, "a reduce action")[0]))
                continue
            ranks = self.ranks_of_action() if (marked := self.take("/\\")) else ()
            if op := self.unary():
                steps.append(MapAction(token, ranks, op, False))
            elif marked or self.named(COMPUTE)[0]:
                op, merge = self.compute(COMPUTE, "a map action")
                maps.append(MapAction(token, ranks, op, merge in CULLED.get(op, ())))
            else:
                self.fail(
                    f"an action starts with ∧ (/\\) or ∨ (\\/), or is an operator, ÷(←) or σ(), but got {token.text!r}",
                    token,
                )
        self.at = start
        if maps:
            self.dot, self.culls = maps[0].op, maps[0].culls
        return maps, steps

    def ranks_of_action(self) -> tuple[Rank, ...]:
        """`k`, `m,p`, `_k` or `_{m,p}` behind `∧`; none is all."""
        if self.take("_") and self.peek().text == "{":
            return self.brackets(self.index_list, "a map action", "{", "}")
        return self.index_list() if self.index_starts() and self.peek().text not in COMPUTE else ()

    def check(self, maps: list[MapAction], body: Expr) -> Expr:
        """The right side under its map actions, which agree with each other and with it."""
        for action in maps:
            if (action.op, action.culls) != (self.dot, self.culls):
                self.fail(f"map actions share one operator, but got {self.dot} and {action.op}", action.token)
            if not self.dots and not (isinstance(body, Map) and body.op == action.op):
                self.fail(f"a map action by {action.op} needs `·` or that operator on the right side", action.token)
            self.check_ranks(action, body)
        return quotient(*body.args) if self.culls and not self.dots and isinstance(body, Map) else body
