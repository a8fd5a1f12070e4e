"""The legal points of a space, few of all combinations looked at.

A knob decides as soon as all that it reads is set, and what it decides is remembered by what it read: there are
thousands of points, and of what one knob reads a few dozen combinations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from .choices import Choice, Setting, SpaceFacts
from .knobs import KNOBS, Knob


@dataclass(eq=False)
class _Read:
    """A knob's look at a coordinate, and by the setting there what follows: another look, or what the knob decides."""

    knob: Knob
    name: str
    then: dict[Setting, _Step] = field(default_factory=dict)


_Step: TypeAlias = "_Read | bool"
_Waiting: TypeAlias = Mapping[str, tuple[_Read, ...]]
"""Knobs that have not decided, by the coordinate that they look at next."""


class _Unset(Exception):
    """A coordinate is read that is not set yet."""


class _Partial(Mapping[str, Setting]):
    """A point of which some coordinates are not set yet; notes which are read, in order."""

    def __init__(self, known: Mapping[str, Setting], names: Set[str]) -> None:
        self._known, self._names = known, names
        self.read: dict[str, None] = {}

    def __getitem__(self, name: str) -> Setting:
        if name in self._names:
            self.read[name] = None
            if name not in self._known:
                raise _Unset(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def legal_points(facts: SpaceFacts, choices: Sequence[Choice]) -> Iterator[dict[str, Setting]]:
    """Every combination of the choices' settings that is legal by all knobs, in the choices' order."""
    names = {c.name for c in choices}
    point: dict[str, Setting] = {}

    def asked(knob: Knob) -> tuple[list[str], bool | None]:
        """What a knob reads of what is set, and decides; None where it reads what is not set, last."""
        partial = _Partial(point, names)
        try:
            legal: bool | None = knob.is_legal(facts, partial)
        except _Unset:
            legal = None
        return [*partial.read], legal

    def decided(step: _Step) -> _Step:
        """What follows from what is set: as it is remembered, else by asking."""
        while isinstance(step, _Read) and step.name in point:
            known = step.then.get(point[step.name])
            if known is None:
                _remember(step, point, *asked(step.knob))
            else:
                step = known
        return step

    def completed(at: int, waiting: _Waiting) -> Iterator[dict[str, Setting]]:
        if at == len(choices):
            yield dict(point)
            return
        choice = choices[at]
        for setting in choice.values:
            point[choice.name] = setting
            left = _left(waiting, [decided(read) for read in waiting.get(choice.name, ())])
            if left is not None:
                yield from completed(at + 1, left)
        point.pop(choice.name, None)

    first: list[_Step] = []
    for knob in KNOBS:
        reads, legal = asked(knob)
        first.append(_Read(knob, reads[0]) if legal is None else legal)
    left = _left({}, first)
    if left is not None:
        yield from completed(0, left)


def _remember(step: _Read, point: Mapping[str, Setting], reads: Sequence[str], legal: bool | None) -> None:
    """Note what a knob reads after a step that it was at, and what it decides."""
    after = reads[reads.index(step.name) + 1 :]
    for name in after:
        following = step.then[point[step.name]] = _Read(step.knob, name)
        step = following
    if legal is not None:
        step.then[point[step.name]] = legal


def _left(waiting: _Waiting, steps: Sequence[_Step]) -> _Waiting | None:
    """Who waits after some of them went on. None where one of these says no."""
    if any(step is False for step in steps):
        return None
    moved = [step for step in steps if isinstance(step, _Read)]
    if not moved:
        return waiting
    left = dict(waiting)
    for read in moved:
        left[read.name] = (*left.get(read.name, ()), read)
    return left
