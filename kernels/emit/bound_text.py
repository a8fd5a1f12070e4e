"""Integer bounds as source text, with everything that is known when the code is printed folded away.

Where sizes are numbers most bounds are: a `Least` of a loop variable and something it never reaches is that loop
variable, a floor of a multiple is itself. What is left is what a person would have written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from eintune.space.ir.expr import Rank
from eintune.space.plan.bounds import (
    Bound,
    CeilTo,
    First,
    FloorTo,
    Greatest,
    Last,
    Least,
    Lit,
    Number,
    PartStart,
    Size,
    Sum,
)
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.values import Value

Join = Callable[[str, str], str]


def _min(a: str, b: str) -> str:
    return f"min({a}, {b})"


def _name(v: Value) -> str:
    return v.name


def _max(a: str, b: str) -> str:
    return f"max({a}, {b})"


@dataclass(frozen=True)
class BoundText:
    """Prints the bounds of one plan.

    scalar, start: the variable that holds a rank's index, or the first index of its tile.
    least, greatest: how the target spells the minimum and the maximum of two integers. number: the variable that
    holds an integer that was loaded. size: the text of a rank's size.
    """

    plan: LoopPlan
    scalar: dict[Rank, str]
    start: dict[Rank, str]
    size: Callable[[Rank], str]
    least: Join = _min
    greatest: Join = _max
    number: Callable[[Value], str] = _name

    def span(self, b: Bound) -> tuple[int, int]:
        """The least and the greatest number that a bound can be, over all programs and iterations."""
        match b:
            case Lit():
                return b.value, b.value
            case First():
                return 0, self._greatest_first(b.rank)
            case Last():
                return self._least_last(b.rank), self.plan.sizes.most(b.rank) - 1
            case Size():
                return self.plan.sizes.least(b.rank), self.plan.sizes.most(b.rank)
            case PartStart():
                return 0, self._greatest_first(b.rank) * self.plan.sizes.most(b.length)
            case Sum():
                ends = [sorted(c * x for x in self.span(t)) for c, t in b.terms]
                return sum(low for low, _ in ends), sum(high for _, high in ends)
            case Least():
                spans = [self.span(a) for a in b.args]
                return min(low for low, _ in spans), min(high for _, high in spans)
            case Greatest():
                spans = [self.span(a) for a in b.args]
                return max(low for low, _ in spans), max(high for _, high in spans)
            case FloorTo() | CeilTo():
                low, high = self.span(b.arg)
                return _rounded(b, low), _rounded(b, high)
            case Number():
                return b.least, b.most
            case _:
                assert_never(b)

    def _greatest_first(self, rank: Rank) -> int:
        size = self.plan.sizes.most(rank)
        role = self.plan.roles[rank]
        if role.tile is None:
            return max(size - 1, 0)
        return (size - 1) // role.tile * role.tile if role.outer else 0

    def _least_last(self, rank: Rank) -> int:
        role, end = self.plan.roles[rank], self.plan.sizes.least(rank) - 1
        return min((role.tile or 1) - 1, end) if role.outer else end

    def text(self, b: Bound) -> str:
        """A bound as an expression; a number where it can only be that number."""
        return self._text(self.simple(b))

    def _text(self, b: Bound) -> str:
        match b:
            case Lit():
                return str(b.value)
            case First():
                return self.first(b.rank)
            case Last():
                return self.last(b.rank)
            case Size():
                return self.size(b.rank)
            case PartStart():
                return f"{self.first(b.rank)} * {self.size(b.length)}"
            case Sum():
                return self._sum(b)
            case Least():
                return self._join(b.args, self.least)
            case Greatest():
                return self._join(b.args, self.greatest)
            case FloorTo():
                return f"{parenthesised(self._text(b.arg))} // {b.step} * {b.step}"
            case Number():
                text = self.number(b.value)
                return self.least(self.greatest(text, str(b.least)), str(b.most)) if b.limited else text
            case CeilTo():
                return f"({shifted(self._text(b.arg), b.step - 1)}) // {b.step} * {b.step}"
            case _:
                assert_never(b)

    def below(self, a: Bound, b: Bound) -> bool:
        """Whether one bound is less than another in every program and iteration, as far as their forms show."""
        match a, b:
            case Greatest(), _:
                return all(self.below(x, b) for x in a.args)
            case _, Least():
                return all(self.below(a, x) for x in b.args)
            case FloorTo(), _:  # of what is at least 0
                return self.below(Lit(0), b) and self.below(a.arg, b)
            case _:
                return self.span(self.simple(Sum(((1, b), (-1, a)))))[0] > 0

    def most_over(self, a: Bound, b: Bound) -> int:
        """A number that `a - b` is at most in every program and iteration, as far as their forms show."""
        a, b = self.simple(a), self.simple(b)
        shown = self.span(self.simple(Sum(((1, a), (-1, b)))))[1]
        match a, b:
            case _, Least():
                by_form = max(self.most_over(a, x) for x in b.args)
            case Least(), _:
                by_form = min(self.most_over(x, b) for x in a.args)
            case Greatest(), _:
                by_form = max(self.most_over(x, b) for x in a.args)
            case _, Greatest():
                by_form = min(self.most_over(a, x) for x in b.args)
            case FloorTo(), _:  # of what is at least 0
                by_form = max(self.most_over(a.arg, b), self.most_over(Lit(0), b))
            case _, FloorTo():
                by_form = self.most_over(a, b.arg) + b.step - 1
            case _, CeilTo():
                by_form = self.most_over(a, b.arg)
            case _:
                by_form = self._most(self.simple(Sum(((1, a), (-1, b)))))
        return min(shown, by_form)

    def _most(self, b: Bound) -> int:
        """The greatest number that a sum can be, where it has the last index of a tile less the first one, or less the
        size of a rank that is no shorter."""
        terms: dict[Bound, int] = {t: c for c, t in b.terms} if isinstance(b, Sum) else {b: 1}
        within = 0
        for t in [t for t in terms if isinstance(t, Last)]:
            less: list[tuple[Bound, int]] = [(x, -1) for x in terms if isinstance(x, Size) and self._within(t, x.rank)]
            less += [(First(t.rank), tile - 1) for tile in (self.plan.roles[t.rank].tile,) if tile]
            for x, most in less:
                both = min(terms[t], -terms.get(x, 0))
                if both > 0:
                    within += both * most
                    terms[t] -= both
                    terms[x] += both
        return within + self.span(Sum(tuple((c, t) for t, c in terms.items())))[1]

    def simple(self, b: Bound) -> Bound:
        """An equal bound without what is known when the code is printed; the argument of a rounding is >= 0."""
        # Interval arithmetic over all programs: a bound that can be one number only is that number.
        low, high = self.span(b)
        if low == high:
            return Lit(low)
        match b:
            case Lit() | First() | Last() | Size() | PartStart():
                return self._exact(b)
            case Sum():
                return self._flat(b)
            case Least():
                # An argument whose largest value is below another's smallest decides every time.
                args = [self.simple(a) for a in b.args]
                args = [a for a in args if not (isinstance(a, Size) and any(self._within(x, a.rank) for x in args))]
                kept = self._undominated(args, lambda x, y: x[1] <= y[0])
                return kept[0] if len(kept) == 1 else Least(kept)
            case Greatest():
                kept = self._undominated([self.simple(a) for a in b.args], lambda x, y: x[0] >= y[1])
                return kept[0] if len(kept) == 1 else Greatest(kept)
            case FloorTo() | CeilTo():
                return self._rounding(b)
            case Number():
                return b
            case _:
                assert_never(b)

    def _exact(self, b: Lit | First | Last | Size | PartStart) -> Bound:
        """The last index as first + tile - 1 where the rank's tiles fit exactly."""
        if isinstance(b, Last):
            role = self.plan.roles[b.rank]
            if role.tile and role.outer and self.plan.sizes.is_multiple(b.rank, role.tile):
                return Sum(((1, First(b.rank)), (1, Lit(role.tile - 1))))
        return b

    def _flat(self, b: Sum) -> Bound:
        """A sum of sums as one, its constants together at the end."""
        const, terms = 0, dict[Bound, int]()
        for c, t in b.terms:
            t = self.simple(t)
            for k, x in t.terms if isinstance(t, Sum) else ((1, t),):
                if isinstance(x, Lit):
                    const += c * k * x.value
                else:
                    terms[x] = terms.get(x, 0) + c * k
        rest = [(c, t) for t, c in terms.items() if c]
        if not rest:
            return Lit(const)
        if not const and len(rest) == 1 and rest[0][0] == 1:
            return rest[0][1]
        return Sum((*rest, *([(1, Lit(const))] if const else [])))

    def _within(self, b: Bound, rank: Rank) -> bool:
        """Whether a bound is at most a size by its form: the last index of a rank that is no longer, and one more."""
        terms = b.terms if isinstance(b, Sum) else ((1, b),)
        last = [t.rank for c, t in terms if isinstance(t, Last) and c == 1]
        const = sum(c * t.value for c, t in terms if isinstance(t, Lit))
        if len(last) != 1 or const > 1 or any(not isinstance(t, Last | Lit) for _, t in terms):
            return False
        return last[0] == rank or (last[0], rank) in self.plan.sizes.ordered

    def _undominated(
        self, args: Sequence[Bound], decides: Callable[[tuple[int, int], tuple[int, int]], bool]
    ) -> tuple[Bound, ...]:
        """Without the arguments that another one always beats."""
        kept: list[Bound] = []
        for a in dict.fromkeys(args):
            if not any(decides(self.span(k), self.span(a)) for k in kept):
                kept = [k for k in kept if not decides(self.span(a), self.span(k))] + [a]
        return tuple(kept)

    def _rounding(self, b: FloorTo | CeilTo) -> Bound:
        """A rounding, gone where its argument is a multiple already; a constant beside a multiple rounds alone."""
        arg = self.simple(b.arg)
        terms = arg.terms if isinstance(arg, Sum) else ((1, arg),)
        rest = tuple((c, t) for c, t in terms if not isinstance(t, Lit))
        if self._aligned(Sum(rest), b.step):
            const = sum(c * t.value for c, t in terms if isinstance(t, Lit))
            up = b.step - 1 if isinstance(b, CeilTo) else 0
            arg = self._flat(Sum((*rest, (1, Lit((const + up) // b.step * b.step)))))
        # Roundings are of what is at least 0: integer division rounds towards zero in generated code and downwards in
        # Python.
        natural = arg if self.span(arg)[0] >= 0 else Greatest((arg, Lit(0)))
        return natural if self._aligned(natural, b.step) else type(b)(natural, b.step)

    def _aligned(self, b: Bound, step: int) -> bool:
        """Whether a bound is a multiple of `step` by its form."""
        match b:
            case Lit():
                return b.value % step == 0
            case First():
                tile = self.plan.roles[b.rank].tile
                return step == 1 or (tile is not None and tile % step == 0)
            case Last():
                return step == 1
            case Size():
                return self.plan.sizes.is_multiple(b.rank, step)
            case PartStart():
                return self.plan.sizes.is_multiple(b.length, step)
            case Sum():
                return all(c % step == 0 or self._aligned(t, step) for c, t in b.terms)
            case Least() | Greatest():
                return all(self._aligned(a, step) for a in b.args)
            case FloorTo() | CeilTo():
                return b.step % step == 0
            case Number():
                return step == 1
            case _:
                assert_never(b)

    def first(self, rank: Rank) -> str:
        """The first index of a rank's tile; its index if it has no tile."""
        role = self.plan.roles[rank]
        if role.tile is None:
            return self.scalar[rank]
        return self.start[rank] if role.outer else "0"

    def last(self, rank: Rank) -> str:
        """The last valid index of a rank's tile; its index if it has no tile."""
        plan = self.plan
        role = plan.roles[rank]
        if role.tile is None:
            return self.scalar[rank]
        if role.outer is None:
            return shifted(self.size(rank), -1)
        # The last tile may be cut off by the rank's end.
        end = f"{self.start[rank]} + {role.tile - 1}"
        return end if plan.sizes.is_multiple(rank, role.tile) else self.least(end, shifted(self.size(rank), -1))

    def _sum(self, b: Sum) -> str:
        text = ""
        for c, t in b.terms:
            if isinstance(t, Lit):
                text = shifted(text, c * t.value)
                continue
            term = self._text(t) if c == 1 else parenthesised(self._text(t))
            term = term if abs(c) == 1 else f"{abs(c)} * {term}"
            text = f"{text} {'+' if c > 0 else '-'} {term}" if text else (term if c > 0 else f"-{term}")
        return text

    def _join(self, args: Sequence[Bound], join: Join) -> str:
        texts = sorted((self._text(a) for a in args), key=_is_number)
        result = texts[0]
        for t in texts[1:]:
            result = join(result, t)
        return result


def _rounded(b: FloorTo | CeilTo, x: int) -> int:
    x = max(x, 0)
    return x // b.step * b.step if isinstance(b, FloorTo) else -(-x // b.step) * b.step


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdigit()


def parenthesised(text: str) -> str:
    return text if text.isidentifier() or text.isdigit() or _is_call(text) else f"({text})"


def _is_call(text: str) -> bool:
    """Whether the text is one call, `a.b(…)`, with nothing after its closing parenthesis."""
    head = re.match(r"[\w.]*\(", text)
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if head and c == ")" and depth == 0:
            return i == len(text) - 1
    return False


def shifted(text: str, const: int) -> str:
    """`text + const`, merged with a number that `text` ends in (`a + 127` and 1 give `a + 128`)."""
    if text.isdigit():
        return str(int(text) + const)
    if tail := re.fullmatch(r"(\w+) ([+-]) (\d+)", text):
        const += int(tail[3]) if tail[2] == "+" else -int(tail[3])
        text = tail[1]
    if not const:
        return text
    return f"{text} {'+' if const > 0 else '-'} {abs(const)}"
