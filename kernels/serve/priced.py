"""What could serve sizes that nothing is stored for, by the time that the cost model predicts there.

Two kinds stand in one order. Winners that were stored at other sizes: what the model says of one here is corrected by
what it was off by where it was measured, so that a model that is wrong by a factor everywhere is right here. And the
model's own picks among all schedules that the machine has hardware for, which nothing has confirmed: of many that are
predicted the first is one that the model flatters, so that they count as slower than predicted. How far sizes are
apart decides nothing: a winner for one query is no kernel for a thousand, however near the keys' lengths are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch

from eintune.costmodel.counts.resources import illegal, unsupported
from eintune.costmodel.counts.work import Work, work
from eintune.costmodel.machines.detect import cuda_machine
from eintune.costmodel.machines.machine import Machine, load_machine, machine_for_device
from eintune.costmodel.pricing.time import estimate_works
from eintune.host.notices import say_once
from eintune.kernels.store.cache import Entry, Key, distance
from eintune.kernels.store.kept_forms import follows, forms_of
from eintune.kernels.store.platform import platform_of
from eintune.space.cascade.canonical import digest
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.lowering.lower import build_program
from eintune.space.schedule.choices import Point
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import Space, space_of

from .adapted import nearest_schedule, plain_schedule

SCHEDULES = 32
"""How many schedules of one cascade the cost model looks at without tuning, spread over all."""
CLIMBS = 48
"""How many more it looks at on its way from the best of those, one setting changed at a time. All in all half a second
of planning."""
CASCADES = 2
"""How many derived cascades of different plans it looks at, those with the fewest passes first."""
KEPT = 16
"""How many of the fastest are kept of an answer: more than are tried."""
STORED = 8
"""How many different stored winners are priced, those of the nearest sizes first."""
UNCONFIRMED = 1.15
"""What a pick's predicted time is multiplied by beside those of stored winners: the error of the model on the H200 in
rank order, of which the best of many is sure to have its share."""


@dataclass(frozen=True)
class Priced:
    """A form under a schedule, and the seconds that it should take. entry: the record that it is from, if any."""

    text: str
    schedule: Schedule
    seconds: float
    entry: Entry | None = None


STEPS = 4
"""To which sizes are rounded before they are priced: so many in each doubling."""
EXACT = 256
"""Sizes up to here are priced as they are: head dims, groups, few queries, pages."""
REMEMBERED = 256
"""How many answers a process keeps."""


def priced_near(
    problem: Problem, key: Key, entries: Sequence[Entry], device: torch.device, emitter: str, directory: Path
) -> list[Priced]:
    """As `priced`, at sizes rounded up to steps of a quarter of a doubling, and remembered: a program whose lengths
    grow waits for planning once a step, and what serves a size does not depend on which came before it."""
    near = replace(problem, sizes={r: _rounded(n) for r, n in problem.sizes.items()})
    key = replace(key, sizes=tuple(sorted(near.sizes.items())))
    # In the order of the rounded sizes, so that all sizes of a step have one question.
    nearest = sorted(entries, key=lambda e: (distance(key, e.key), e.path.name))
    asked = (key, tuple((e.path, e.record.digest) for e in nearest), str(device), emitter, directory)
    if (known := _remembered.get(asked)) is not None:
        return known
    try:
        found = priced(near, key, nearest, device, emitter, directory)
    except ValueError:
        # Sizes that follow from each other (pages and the keys in them) may not be rounded apart.
        return priced(problem, key, nearest, device, emitter, directory)
    # Without a lock, which a fork might find taken: of two threads that ask at once both find the same.
    if len(_remembered) >= REMEMBERED:
        _remembered.clear()
    _remembered[asked] = found[:KEPT]
    return found[:KEPT]


_remembered: dict[Hashable, list[Priced]] = {}


def _rounded(size: int) -> int:
    if size <= EXACT:
        return size
    step = 1 << max(0, (size - 1).bit_length() - 1 - (STEPS.bit_length() - 1))
    return -(-size // step) * step


def priced(
    problem: Problem, key: Key, entries: Sequence[Entry], device: torch.device, emitter: str, directory: Path
) -> list[Priced]:
    """What could serve a problem, the fastest by prediction first; what cannot run is left out.

    entries: records of the same definition, the nearest first. directory: the cache that keeps derived forms.
    """
    machine, options = machine_of(device), _Options(problem, emitter)
    stored = _stored(problem, key, entries, machine, options, directory)
    # The mean by which the model is off for this definition holds for its picks, too: else a model that is too slow
    # everywhere would never pick, and one that is too fast always.
    factors = [factor for _, factor in stored if factor is not None]
    usual = math.exp(sum(map(math.log, factors)) / len(factors)) if factors else 1.0
    confirmed = [replace(p, seconds=p.seconds * (usual if f is None else f)) for p, f in stored]
    picks = [
        replace(p, seconds=p.seconds * usual * (UNCONFIRMED if stored else 1.0))
        for p in _picks(problem, machine, options, directory)
    ]
    return sorted([*confirmed, *picks], key=lambda p: p.seconds)


def ranked(problem: Problem, device: torch.device, emitter: str, directory: Path) -> list[Priced]:
    """Derived forms under schedules, the fastest by the cost model first; what cannot run is left out. directory: the
    cache that keeps derived forms."""
    return _picks(problem, machine_of(device), _Options(problem, emitter), directory)


def _picks(problem: Problem, machine: Machine, options: _Options, directory: Path) -> list[Priced]:
    found: list[Priced] = []
    for text in _forms(problem, directory):
        try:
            space = options.space(text)
            every = [s for s in options.of(text) if not unsupported(s, machine)]
        except ValueError as error:
            say_once(f"eintune: a cascade is not laid out: {error}", logging.INFO)
            continue
        tried = _at(problem, [(text, s) for s in _spread(every, SCHEDULES)], machine)
        found += [*tried, *_climbed(problem, text, space, options, tried, machine)]
    return sorted(found, key=lambda p: p.seconds)


def _forms(problem: Problem, directory: Path) -> list[str]:
    """The forms of the definition with the fewest passes, shipped, kept or derived now; itself without any."""
    found: dict[str, str] = {}
    for text in forms_of(problem.cascade, directory):
        # A form and its tiled spelling have one plan.
        found.setdefault(digest(Cascade.parse(text)), text)
        if len(found) == CASCADES:
            break
    return list(found.values()) or [problem.cascade]


def _climbed(
    problem: Problem, text: str, space: Space, options: _Options, tried: Sequence[Priced], machine: Machine
) -> list[Priced]:
    """Schedules around the best that were tried, one setting away from the best so far, until none of these is faster
    or CLIMBS were priced."""
    if not tried:
        return []
    seen, found = {p.schedule for p in tried}, list[Priced]()
    best = min(tried, key=lambda p: p.seconds)
    while len(found) < CLIMBS:
        around = dict.fromkeys(space.schedule(n) for n in space.neighbours(options.points(text)[best.schedule]))
        fresh = [s for s in around if s not in seen and not unsupported(s, machine)][: CLIMBS - len(found)]
        seen.update(fresh)
        made = _at(problem, [(text, s) for s in fresh], machine)
        found += made
        nearby = min(made, key=lambda p: p.seconds, default=best)
        if nearby.seconds >= best.seconds:
            break
        best = nearby
    return found


def machine_of(device: torch.device) -> Machine:
    """The description of the machine that a device is."""
    if device.type == "cpu":
        return load_machine("cpu")
    name = machine_for_device(platform_of(device).machine)
    return load_machine(name) if name else cuda_machine(str(device))


def _stored(
    problem: Problem, key: Key, entries: Sequence[Entry], machine: Machine, options: _Options, directory: Path
) -> list[tuple[Priced, float | None]]:
    """Stored winners at this problem's sizes, uncorrected, and what the model was off by where each was measured; None
    for one of another machine, whose time says nothing of this one's."""
    found: dict[tuple[str, Schedule], tuple[Priced, float | None]] = {}
    for entry in entries:
        record, here = entry.record, entry.key.machine == key.machine
        if record.schedule.emitter != options.emitter or record.schedule.precision != "ieee":
            continue
        # This machine may lack another's descriptors or specialised warps; the plain form runs anywhere.
        wanted = record.schedule if here else plain_schedule(record.schedule)
        try:
            # A record is data from a file. Nothing is made of its cascade unless this user's own derivation, or what
            # ships, has it as a form of the definition.
            if not follows(entry, problem.cascade, directory):
                continue
            schedule = nearest_schedule(wanted, Cascade.parse(record.cascade), problem, options.of(record.cascade))
            if (record.cascade, schedule) in found:
                continue
            at = _at(problem, [(record.cascade, schedule)], machine)
            if not at:
                continue
            factor = _factor(problem, entry, machine) if here else None
        except (ValueError, KeyError, RecursionError) as error:
            name = entry.path.name
            say_once(f"eintune: the record {name} is not used: {error}", logging.INFO, about=("record", name))
            continue
        found[record.cascade, schedule] = replace(at[0], entry=entry), factor
        if len(found) == STORED:
            break
    return list(found.values())


class _Options:
    """The legal schedules of each form at one problem's sizes, listed once: there are hundreds."""

    def __init__(self, problem: Problem, emitter: str) -> None:
        self.emitter = emitter
        self._problem = problem
        self._found: dict[str, tuple[Space, dict[Schedule, Point]]] = {}

    def of(self, text: str) -> list[Schedule]:
        """Raises ValueError (IllegalPlan) for a form that cannot be laid out."""
        return list(self.points(text))

    def space(self, text: str) -> Space:
        """The space of a form. Raises as `of`."""
        return self._listed(text)[0]

    def points(self, text: str) -> dict[Schedule, Point]:
        """Each schedule with a point that it is of. Raises as `of`."""
        return self._listed(text)[1]

    def _listed(self, text: str) -> tuple[Space, dict[Schedule, Point]]:
        if text not in self._found:
            space = space_of(Cascade.parse(text), self._problem, self.emitter)
            self._found[text] = space, {space.schedule(p): p for p in space.points()}
        return self._found[text]


def _factor(problem: Problem, entry: Entry, machine: Machine) -> float | None:
    """The measured over the predicted seconds of a record; None where its own sizes have no plan now."""
    key, record = entry.key, entry.record
    own = replace(problem, sizes=dict(key.sizes), dtypes=dict(key.dtypes), params=dict(key.params))
    at = _at(own, [(record.cascade, record.schedule)], machine)
    return record.seconds / at[0].seconds if at and at[0].seconds > 0 else None


def _at(problem: Problem, found: Sequence[tuple[str, Schedule]], machine: Machine) -> list[Priced]:
    """Forms under schedules at a problem's sizes, priced; those left out that have no plan or do not fit."""
    counted: list[tuple[str, Schedule, Work]] = []
    for text, schedule in found:
        try:
            counted.append((text, schedule, work(build_program(Cascade.parse(text), problem, schedule), schedule)))
        except ValueError:
            continue
    estimates = estimate_works([w for *_, w in counted], machine) if counted else []
    return [
        Priced(text, schedule, e.seconds)
        for (text, schedule, _), e in zip(counted, estimates, strict=True)
        if illegal(e.resources, machine) is None
    ]


def _spread(every: Sequence[Schedule], at_most: int) -> Iterator[Schedule]:
    """At most so many schedules, as many of each way to load and to divide warps, evenly spread within it: of hundreds
    by pointer a few dozen specialised ones would hardly get a place."""

    def way(s: Schedule) -> tuple[str, bool]:
        return s.loads, s.is_specialised

    groups = [list(group) for _, group in groupby(sorted(every, key=way), way)]
    for group in groups:
        most = max(1, at_most // len(groups))
        yield from group if len(group) <= most else (group[i * len(group) // most] for i in range(most))
