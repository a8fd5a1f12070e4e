"""Which temporaries may be overwritten: the last use of storage that nothing else sees.

A filter or a selection that is known to hold copies nothing, so its value shares its argument's storage; that depends
on the segment that is being printed, and is asked for through `may_share`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from eintune.space.ir.expr import Rank
from eintune.space.plan.plan import Block, Loop, LoopPlan
from eintune.space.plan.predication import PASSED
from eintune.space.plan.values import (
    Carried,
    Cast,
    Constant,
    Elementwise,
    Index,
    IndexPart,
    Lane,
    Load,
    Mask,
    RowScale,
    Scale,
    SizeOf,
    TileStart,
    Value,
)

SHARED = (Load, Constant, Index, Lane, TileStart, SizeOf, IndexPart, Cast)
"""Nodes whose result may be a view of a tensor, a number, or another value's storage."""

MayShare = Callable[[Value], bool]


class Storage:
    """Where the values of one plan are defined and used."""

    def __init__(self, plan: LoopPlan) -> None:
        self._block: dict[Value, Block] = {}
        self._position: dict[Value, int] = {}
        self._loop: dict[Block, Loop] = {}
        self._carried: dict[Value, tuple[Loop, Block]] = {}
        self._users: dict[Value, list[Value | Loop]] = {}
        self._known: dict[Value | Loop, tuple[Value, ...]] = {}
        """What each item reads."""
        self._visit(plan.root)

    def _visit(self, block: Block) -> None:
        for i, item in enumerate(block.items):
            if isinstance(item, Loop):
                self._loop[item.body] = item
                for c in item.carries:
                    self._carried[c.value] = item, block
                    self._users.setdefault(c.next, []).append(item)
                self._visit(item.body)
            else:
                self._block[item] = block
                self._position[item] = i
                for a in item.args:
                    self._users.setdefault(a, []).append(item)

    def is_around(self, v: Value, axis: Rank) -> bool:
        """Whether a value with this axis stands outside the loop that goes over it."""
        looped = any(axis in block.ranks for block in self._loop)
        return looped and v in self._block and axis not in self._block[v].ranks

    def merged_into(self, v: Value) -> Value | None:
        """The difference `x * k - y` that the product `x * k` is made for, if it is made for nothing else. k: a
        number, or one for each row.

        Both are computed at once, so the difference reads x itself.
        """
        match self._users.get(v, []):
            case [Elementwise(operator="sub") as user] if _is_scaled(v) and v.axes and user.args[0] is v:
                return user if user.axes == v.axes and self._block[user] is self._block[v] else None
            case _:
                return None

    def _reads(self, item: Value | Loop) -> Iterator[Value]:
        """Every value that an item reads, in the loops under it too."""
        if isinstance(item, Value):
            for a in item.args:
                yield from a.args if self.merged_into(a) else (a,)
            return
        for c in item.carries:
            yield c.next
        for inner in item.body.items:
            yield from self._reads(inner)

    def may_overwrite(self, a: Value, v: Value, may_share: MayShare) -> bool:
        """Whether `v` may be computed in the storage of its operand `a`."""
        if a.axes != v.axes or a.dtype != v.dtype or not a.axes or v.args.count(a) > 1:
            return False
        block = self._block[v]
        owner = _owner(a, may_share)
        if not self._is_private(owner, block):
            return False
        read = [u for u in v.args if u is not a]
        if loop := self._loop.get(block):
            read += [c.next for c in loop.carries]
        later = range(self._position[v] + 1, len(block.items))
        every = chain(read, (u for i in later for u in self._read_by(block.items[i])))
        return not any(_owner(u, may_share) is owner for u in every)

    def _read_by(self, item: Value | Loop) -> tuple[Value, ...]:
        if item not in self._known:
            self._known[item] = tuple(self._reads(item))
        return self._known[item]

    def _is_private(self, owner: Value, block: Block) -> bool:
        """Whether an operation of `block` made this storage in the same iteration, for itself."""
        if not isinstance(owner, Carried):
            return not isinstance(owner, SHARED) and self._block[owner] is block
        loop, around = self._carried[owner]
        (next_,) = (c.next for c in loop.carries if c.value is owner)
        alone = sum(c.next is next_ for c in loop.carries) == 1
        passed_on = isinstance(next_, (*SHARED, Mask, Carried)) or next_.op == "select"
        return alone and not passed_on and block in (loop.body, around)


def _is_scaled(v: Value) -> bool:
    """Whether a value is another one times a number, or times the factor of its row."""
    return isinstance(v, Scale) or (v.op == "mul" and len(v.args[1].axes) < len(v.axes) and _is_factor(v.args[1]))


def _is_factor(v: Value) -> bool:
    return isinstance(v, RowScale) or (isinstance(v, Scale) and _is_factor(v.args[0]))


def _owner(v: Value, may_share: MayShare) -> Value:
    while v.op in PASSED and may_share(v):
        v = v.args[PASSED[v.op]]
    return v
