"""The right side of an einsum, read by precedence climbing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from eintune.space.ir.expr import (
    Access,
    Computed,
    Const,
    Expr,
    Fold,
    Gather,
    Index,
    Iota,
    Map,
    Param,
    Predicate,
    Rank,
    Reduce,
    Size,
    Split,
    Tensor,
    Unsplit,
    Where,
)
from eintune.space.ir.expr import access as access_of
from eintune.space.ir.folds import ACTIONS
from eintune.space.ir.names import RANK
from eintune.space.ir.pointwise import POINTWISE

from .filters import read_predicate
from .grammar import COMPARISON, COMPUTE, CULLED, FOLDS, INFIX, LEVEL_OF, PARAMETER, REDUCERS, THEN, VIEWS
from .indices import read_index
from .lexer import Token
from .merges import Merges
from .tiles import Tiles, common, parts_of


@dataclass
class ReaderScope:
    """What the lines above have said; each map holds the line number, from 1."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    declared: dict[str, int] = field(default_factory=dict)
    ranks: set[Rank] = field(default_factory=set)


def quotient(a: Expr, b: Expr) -> Expr:
    """EDGE's `÷(←)`: where b is 0 there is no element to divide by, and the point is culled: it is 0."""
    return Map("div", (a, Map("nonzero", (b,))))


class Expressions(Merges, Tiles):
    """A cursor that reads expressions. `dot` is what the operator `·` computes."""

    def __init__(self, number: int, tokens: list[Token], scope: ReaderScope) -> None:
        super().__init__(number, tokens, scope.ranks)
        self.scope = scope
        self.dot = "mul"
        self.dots = 0
        self.culls = False  # whether `·` computes where its right operand has an element only
        self.filters: list[Predicate] = []

    def expression(self, level: int = 0) -> Expr:
        """Infix operators of `level` and tighter."""
        left = self.prefix()
        while (found := self.infix()) and found[1] >= level:
            op, own = found
            culls = self.culls_here(op)
            right = self.expression(own + 1)
            left = quotient(left, right) if culls else self.applied(op, left, right)
            if own == COMPARISON and (more := self.infix()) and more[1] == COMPARISON:
                self.fail("comparisons do not chain; put one in brackets", self.peek())
        return left

    def infix(self) -> tuple[str, int] | None:
        """The infix operator that stands here, and its level."""
        text = self.peek().text
        if text == "·":
            return self.dot, LEVEL_OF["mul"]  # whatever it computes
        op = {"×": "mul", "÷": "div"}.get(text) or INFIX.get(text)
        if op:
            return op, LEVEL_OF[op]
        name, length = self.named(COMPUTE)
        return (COMPUTE[name], LEVEL_OF["mul"]) if name and self.merge_starts(length) else None

    def culls_here(self, op: str) -> bool:
        """Take the infix operator, with its merge operator if one stands there (`÷(←)`): whether it culls."""
        token = self.peek()
        if self.take("·"):
            self.dots += 1
            return self.culls
        name = self.operator(COMPUTE, "an infix operator")
        if not self.merge_starts():
            return name == "÷"
        return self.fitting(name, op, COMPUTE, name, token) in CULLED.get(op, ())

    def applied(self, op: str, left: Expr, right: Expr) -> Expr:
        """An operator, or several one after the other (`sub-then-exp`)."""
        first, *rest = op.split(THEN)
        x: Expr = Map(first, (left, right))
        for unary in rest:
            x = Map(unary, (x,))
        return x

    def prefix(self) -> Expr:
        if not self.take("-"):
            return self.atom()
        if self.is_number():
            return Const(-self.number_value())
        if self.peek().text == "-":
            self.fail("two signs in a row: write -(-x)", self.peek())
        return Map("neg", (self.atom(),))

    def atom(self) -> Expr:
        token = self.peek()
        if self.is_number():
            return Const(self.number_value())
        match token.kind:
            case "tensor":
                return self.access()
            case "bracketed":
                return self.over_ranks()
            case "word":
                return self.word()
        if token.text == "(":
            return self.brackets(self.expression, "a bracket")
        if self.take("\\frac"):
            above, below = (self.brackets(self.expression, "\\frac", "{", "}") for _ in range(2))
            return quotient(above, below)
        if token.text == "|":
            return Size(self.size())
        self.fail(f"expected a tensor, a number, a function or '(', but got {token.text!r}", token)

    def is_number(self) -> bool:
        return self.peek().kind == "number" or self.peek().text in ("inf", "nan")

    def number_value(self) -> float:
        token = self.next()
        if token.kind != "number" and token.text not in ("inf", "nan"):
            self.fail(f"expected a number, but got {token.text!r}", token)
        value = float(token.text)
        if token.kind == "number" and value == math.inf:
            self.fail("a number is at most 1.8e308 (write inf for infinity)", token)
        return value

    def signed_value(self) -> float:
        return -self.number_value() if self.take("-") else self.number_value()

    def access(self) -> Expr:
        token = self.peek()
        if token.kind == "bracketed":
            start = self.at
            found = self.indexed()
            if not isinstance(found, Gather):  # ranks only
                self.at = start
                found = self.read(token, *self.tensor("an operand"))
            self.filter()
            return found
        if token.kind != "tensor":
            self.fail(f"an operand is a tensor in capital letters with its ranks, but got {token.text!r}", token)
        self.next()
        x = self.subscripted(token)
        self.fail_attached(token)
        return x

    def filter(self) -> bool:
        """EDGE's filter, Am,p:m<=p, restricts the iteration space of the whole einsum."""
        found = bool(self.take(":"))
        if found:
            predicate = read_predicate(self, inline=True)
            self.filters += [predicate] if predicate not in self.filters else []
        return found

    # ---- a name and its subscript

    def subscripted(self, token: Token) -> Expr:
        """`QKm,p`, `QK_{m,p}`, `A_k`, each with filters, tiles (`K_{e,m1×M0+m0}`) and, in braces, all that brackets
        may hold."""
        end = self.tokens[self.at - 1].end
        if self.subscript():
            if self.peek().text != "{":
                items: tuple[Index, ...] = (self.subscript_item(False),)
                self.filter()
                return self.addressed(token, items, False)
            return self.addressed(token, *self.brackets(self.items_in_braces, "a tensor's subscript", "{", "}"))
        items = ()
        if self.peek().start == end and self.index_starts():
            items = (self.subscript_item(False),)
            self.filter()
            while self.peek().text == "," and (self.index_starts(1) or self.tile_starts(False, 1)):
                self.next()
                items += (self.subscript_item(False),)
                self.filter()
        else:
            self.filter()
        return self.addressed(token, items, False)

    def items_in_braces(self) -> tuple[tuple[Index, ...], bool]:
        items = [self.subscript_item(True)]
        self.filter()
        while self.take(","):
            items.append(self.subscript_item(True))
            self.filter()
        return tuple(items), self.is_padded()

    def subscript_item(self, braces: bool) -> Index:
        if self.tile_starts(braces):
            return self.tile(braces)
        return read_index(self, self.indexed) if braces else self.index_item()

    def addressed(self, token: Token, items: tuple[Index, ...], padded: bool) -> Expr:
        """A tensor at these indices. One in tiles is a view of the axis, whose name is its own or that of its parts
        without digits."""
        self.fail_twice(token, tuple(i for i in items if isinstance(i, str)))
        known = self.scope.tensors.get(token.text)
        tiles = {axis: parts for axis, i in enumerate(items) if (parts := parts_of(i))}
        if len(tiles) < sum(not isinstance(i, str) for i in items):
            return self.gathered(token, items, padded)
        if padded:
            self.fail(
                f"{token.text}: an element of an int tensor or a computed index lies beyond an axis, `else 0`", token
            )
        index = list(items)
        for axis, (outer, inner) in tiles.items():
            own = known.ranks[axis] if known and axis < len(known.ranks) else common(outer, inner)
            if own in (None, outer, inner):
                self.fail_unnamed(token.text, outer, inner, token)
            index[axis] = self.known_rank(str(own), token)
        ranks = tuple(i for i in index if isinstance(i, str))
        self.fail_twice(token, ranks)
        x: Expr = self.read(token, token.text, ranks)
        for axis, (outer, inner) in tiles.items():
            x = Split(x, ranks[axis], outer, inner)
        return x

    def fail_twice(self, token: Token, ranks: tuple[Rank, ...]) -> None:
        if len(set(ranks)) != len(ranks):
            self.fail(f"{token.text}{','.join(ranks)}: a rank indexes one axis only", token)

    def read(self, token: Token, name: str, index: tuple[Rank, ...]) -> Access:
        known = self.scope.tensors.setdefault(name, Tensor(name, self.known_index(index)))
        self.scope.read.setdefault(name, self.number)
        if len(known.ranks) != len(index):
            self.fail(f"{name} has {len(known.ranks)} ranks {list(known.ranks)}, but is read with {list(index)}", token)
        return Access(known, index)

    def known_index(self, index: tuple[Rank, ...]) -> tuple[Rank, ...]:
        """The ranks of a tensor that is read by this index first."""
        return index

    def indexed(self) -> Access | Gather:
        """`KC[BT[b,m//64],m%64,h,e]`, `X[p,T[p] else 0]`: axes addressed by ranks, parts of ranks and elements of
        integer tensors."""
        token = self.next()
        index, padded = self.brackets(self.whole_index, "a tensor's index", "[", "]")
        ranks = tuple(i for i in index if isinstance(i, str))
        if len(set(ranks)) != len(ranks):
            self.fail(f"{token.text}: a rank indexes one axis only", token)
        return self.gathered(token, index, padded)

    def gathered(self, token: Token, index: tuple[Index, ...], padded: bool) -> Access | Gather:
        if padded and not any(isinstance(i, (Access, Gather, Computed)) for i in index):
            self.fail(
                f"{token.text}: an element of an int tensor or a computed index lies beyond an axis, `else 0`",
                token,
            )
        ranks = tuple(i for i in index if isinstance(i, str))
        if len(ranks) == len(index):
            return self.read(token, token.text, ranks)
        known = self.scope.tensors.get(token.text)
        if known is None:
            self.fail(
                f"{token.text} is addressed by more than ranks, so its axes need names: declare "
                f"`input {token.text}[…]` on a line above",
                token,
            )
        if len(known.ranks) != len(index):
            self.fail(f"{token.text} has ranks {list(known.ranks)}, but {len(index)} axes are addressed", token)
        self.scope.read.setdefault(token.text, self.number)
        return access_of(known, index, padded)

    def whole_index(self) -> tuple[tuple[Index, ...], bool]:
        """What stands in a tensor's brackets, and whether it is 0 beyond its axes: `p,T[p] else 0`."""
        index = () if self.peek().text == "]" else self.index_items()
        return index, self.is_padded()

    def is_padded(self) -> bool:
        padded = bool(self.take("else"))
        if padded and self.number_value() != 0.0:
            self.fail("beyond its axes a tensor is 0: `else 0`", self.peek())
        return padded

    def index_items(self) -> tuple[Index, ...]:
        items = [read_index(self, self.indexed)]
        while self.take(","):
            items.append(read_index(self, self.indexed))
        return tuple(items)

    def word(self) -> Expr:
        """A function, a parameter, or a word that is none of those."""
        token = self.next()
        match token.text:
            case "e" if self.take("^"):
                opening = self.peek().text
                inside = {"(": ")", "{": "}"}.get(opening)
                argument = self.brackets(self.expression, "e^", opening, inside) if inside else self.access()
                return Map("exp", (argument,))
            case "where":
                return self.brackets(self.where, "where")
            case "index":
                return Iota(self.brackets(lambda: self.rank("index"), "index"))
            case "param":
                return Param(self.brackets(self.parameter, "param"))
            case name if name in POINTWISE:
                return self.call(token)
            case name if RANK.fullmatch(name):
                self.fail(f"rank {name} is no value: write index({name}) for its index, |{name}| for its size", token)
            case name if self.peek().text == "(":
                known = sorted({*POINTWISE, "where", "index", "param"})
                self.fail(f"there is no function {name!r}; there are {known}", token)
            case name if not PARAMETER.fullmatch(name):
                self.fail(f"a parameter is written in lower-case letters, or as param({name})", token)
            case name:
                return Param(name)

    def parameter(self) -> str:
        """A parameter's name of any case: adjacent letters and digits are one name."""
        first = self.next()
        if first.kind not in ("word", "tensor") and first.text != "_":
            self.fail(f"param needs a name, but got {first.text!r}", first)
        name, end = first.text, first.end
        while (
            self.peek().kind in ("word", "tensor", "number") or self.peek().text == "_"
        ) and self.peek().start == end:
            end = self.peek().end
            name += self.next().text
        return name

    def call(self, token: Token) -> Expr:
        """A pointwise operator as a function, `max(a, b)`."""

        def arguments() -> tuple[Expr, ...]:
            found = [self.expression()]
            while self.take(","):
                found.append(self.expression())
            return tuple(found)

        braces = ("{", "}") if self.peek().text == "{" else ("(", ")")
        args = self.brackets(arguments, token.text, *braces)
        arity = POINTWISE[token.text].arity
        if len(args) != arity:
            self.fail(f"{token.text} takes {arity} operand{'s'[: arity > 1]}, but got {len(args)}", token)
        return Map(token.text, args)

    def over_ranks(self) -> Expr:
        """`sum[m](x)`, `fold_scale[m](ref, x)`, `split[m -> m1,m0](x)`, `unsplit[m1,m0 -> m](x)`, `Bias[m]`."""
        name = self.peek().text
        if name in REDUCERS:
            self.next()
            return Reduce(REDUCERS[name], self.in_brackets(name), self.brackets(self.expression, name))
        if name in FOLDS:
            self.next()
            rank = self.in_brackets(name)
            action = ACTIONS[FOLDS[name]]
            *scores, arg = self.brackets(lambda: self.several(action.references + 1), name)
            return Fold(action.name, rank, scores[0], arg, tuple(scores[1:]))
        if name in VIEWS:
            self.next()
            a, b, c = self.brackets(lambda: self.view(name), name, "[", "]")
            arg = self.brackets(self.expression, name)
            return Split(arg, a, b, c) if name == "split" else Unsplit(arg, a, b, c)
        return self.access()

    def several(self, count: int) -> list[Expr]:
        """The operands of a fold."""
        found = [self.expression()]
        while len(found) < count:
            self.expect(",", "a fold")
            found.append(self.expression())
        return found

    def view(self, name: str) -> tuple[Rank, Rank, Rank]:
        """`m -> m1,m0` of a split, `m1,m0 -> m` of an unsplit."""
        token = self.peek()
        ranks = [self.rank(name)]
        for separator in ("->", ",") if name == "split" else (",", "->"):
            self.expect(separator, "a view (split[m -> m1,m0] or unsplit[m1,m0 -> m])")
            ranks.append(self.rank(name))
        if len(set(ranks)) != 3:
            self.fail(f"a view names three different ranks, but got {ranks}", token)
        return ranks[0], ranks[1], ranks[2]

    def where(self) -> Expr:
        """`where(m <= p & p <= m + 3, x, -inf)`: filters, what they keep, and the number that stands elsewhere."""
        filters = [read_predicate(self)]
        while self.take("&"):
            filters.append(read_predicate(self))
        self.expect(",", "where(filter, kept, fill)")
        kept = self.expression()
        self.expect(",", "where(filter, kept, fill)")
        fill = self.signed_value()
        for predicate in reversed(filters):
            kept = Where(predicate, kept, fill)
        return kept
