"""A cursor over one statement's tokens: what the EDGE reader needs of any line."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from eintune.host.quoting import short
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Rank
from eintune.space.ir.names import RANK

from .lexer import MAX_NESTING, MAX_RANKS, Token

T = TypeVar("T")
MOST_SHOWN = 60
"""Characters of a word or a number that an error shows."""


class Cursor:
    """Reads tokens in order. `fail` raises CascadeError with the line and, where it is known, the column."""

    def __init__(self, number: int, tokens: list[Token], ranks: set[Rank]) -> None:
        self.number, self.tokens, self.ranks = number, tokens, ranks
        self.at = 0
        self.nesting = 0
        self.index_nesting = 0

    def fail(self, message: str, token: Token | None = None) -> NoReturn:
        where = f", column {token.start + 1}" if token else ""
        if token and len(token.text) > MOST_SHOWN:  # a number of 5,000 digits, say
            message = message.replace(token.text, short(token.text, MOST_SHOWN))
        raise CascadeError(f"line {self.number}{where}: {message}")

    def peek(self, ahead: int = 0) -> Token:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def next(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def take(self, *texts: str) -> Token | None:
        """The next token if it is one of these words or symbols."""
        token = self.peek()
        return self.next() if token.text in texts and token.kind in ("symbol", "word") else None

    def expect(self, text: str, construct: str) -> Token:
        token = self.take(text)
        if not token:
            self.fail(f"{construct} needs {text!r} here, but got {self.peek().text!r}", self.peek())
        return token

    def end(self) -> None:
        if self.peek().kind != "end":
            self.fail(f"expected an operator or the end of the line, but got {self.peek().text!r}", self.peek())

    def brackets(self, inside: Callable[[], T], construct: str, opening: str = "(", closing: str = ")") -> T:
        """`inside` between brackets, no deeper than the limit."""
        token = self.expect(opening, construct)
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            self.fail(f"brackets nest at most {MAX_NESTING} deep", token)
        value = inside()
        self.expect(closing, construct)
        self.nesting -= 1
        return value

    # ---- ranks

    def rank(self, construct: str) -> Rank:
        token = self.next()
        if token.kind != "word" or not RANK.fullmatch(token.text):
            self.fail(f"{construct} needs a rank ([a-z][0-9]*) here, but got {token.text!r}", token)
        return self.known_rank(token.text, token)

    def known_rank(self, rank: Rank, token: Token) -> Rank:
        if not RANK.fullmatch(rank):
            self.fail(f"a rank is one lower-case letter and at most 6 digits, but got {rank!r}", token)
        self.ranks.add(rank)
        if len(self.ranks) > MAX_RANKS:
            self.fail(f"a cascade has at most {MAX_RANKS} ranks", token)
        return rank

    def in_brackets(self, construct: str) -> Rank:
        """`[m]`"""
        return self.brackets(lambda: self.rank(construct), construct, "[", "]")

    def size(self) -> Rank:
        """`|m|`"""
        return self.brackets(lambda: self.rank("a size"), "a size", "|", "|")

    def capital(self, ahead: int = 0) -> int:
        """How many tokens write a size in capitals here, as papers do: `M0` is |m0|, `K` is |k|. 0 if none does."""
        token, digits = self.peek(ahead), self.peek(ahead + 1)
        if token.kind != "tensor" or len(token.text) != 1:
            return 0
        length = 2 if digits.kind == "number" and digits.start == token.end and digits.text.isdigit() else 1
        last, after = self.peek(ahead + length - 1), self.peek(ahead + length)
        attached = after.start == last.end and (after.kind in ("word", "tensor", "number") or after.text == "_")
        return 0 if attached else length

    def capital_size(self) -> Rank:
        """The rank of which `M0` is the size."""
        name = "".join(self.next().text for _ in range(self.capital()))
        return self.known_rank(self.rank_of_size(name), self.tokens[self.at - 1])

    def rank_of_size(self, name: str) -> Rank:
        return name.lower()

    def index_starts(self, ahead: int = 0) -> bool:
        """A rank stands here (but `e^` is the exponential, no rank e)."""
        token = self.peek(ahead)
        return token.kind == "word" and bool(RANK.fullmatch(token.text)) and self.peek(ahead + 1).text != "^"

    def index_item(self) -> Rank:
        return self.rank("a tensor's index")

    def index_list(self) -> tuple[Rank, ...]:
        """Ranks with commas between them; a comma before anything else is left alone."""
        ranks = [self.index_item()]
        while self.peek().text == "," and self.index_starts(1):
            self.next()
            ranks.append(self.index_item())
        return tuple(ranks)

    def subscript(self) -> bool:
        """Whether LaTeX's `_` stands here, at the end of a name; then it is taken."""
        attached = self.peek().text == "_" and self.peek().start == self.tokens[max(self.at - 1, 0)].end
        return bool(attached and self.next())

    def rank_in_subscript(self, construct: str) -> Rank:
        """`m`, `_m` or `_{m}` behind the symbol of an action."""
        if self.take("_") and self.peek().text == "{":
            return self.brackets(lambda: self.rank(construct), construct, "{", "}")
        return self.rank(construct)

    def indices(self) -> tuple[Rank, ...]:
        """A tensor's ranks behind its name: `m,p` right after it, `_m`, `_{m,p}`."""
        end = self.tokens[self.at - 1].end
        if self.subscript():
            if self.peek().text != "{":
                return (self.index_item(),)
            return self.brackets(self.index_list, "a tensor's subscript", "{", "}")
        return self.index_list() if self.peek().start == end and self.index_starts() else ()

    def fail_attached(self, token: Token) -> None:
        """Nothing else stands right behind a tensor and its ranks."""
        after = self.peek()
        if after.kind in ("word", "number", "tensor") and after.start == self.tokens[self.at - 1].end:
            self.fail(
                f"after {token.text} stand ranks ([a-z][0-9]*) with commas between them, but got {after.text!r}", after
            )

    def tensor(self, construct: str) -> tuple[str, tuple[Rank, ...]]:
        """A name and its ranks: `QKm,p`, `S`, or `Bias[m,p]` where the name is not all capitals."""
        token = self.next()
        if token.kind == "bracketed":
            index = self.brackets(
                lambda: () if self.peek().text == "]" else self.index_list(), "a tensor's ranks", "[", "]"
            )
        elif token.kind == "tensor":
            index = self.indices()
            self.fail_attached(token)
        else:
            self.fail(f"{construct} is a tensor in capital letters with its ranks, but got {token.text!r}", token)
        if len(set(index)) != len(index):
            self.fail(f"{token.text}{','.join(index)}: a rank indexes one axis only", token)
        return token.text, index
