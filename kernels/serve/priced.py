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
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from eintune.costmodel.counts.resources import illegal, unsupported
from eintune.costmodel.counts.work import Work
from eintune.costmodel.machines.detect import cuda_machine
from eintune.costmodel.machines.machine import Machine, load_machine, machine_for_device
from eintune.costmodel.pricing.time import estimate_works
from eintune.host.notices import say_once
from eintune.host.recent import Recent
from eintune.kernels.store.cache import Entry, Key
from eintune.kernels.store.kept_forms import follows, forms_of
from eintune.kernels.store.nearest import Nearness, contenders, token_of
from eintune.kernels.store.platform import platform_of
from eintune.space.cascade.canonical import digest
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.schedule.choices import Point
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import Space, space_of
from eintune.space.schedule.spread import spread
from eintune.space.schedule.targets import TARGETS

from .adapted import nearest_schedule, plain_schedule
from .any_size import open_ranks, parsed, rounded, rounded_up, work_at

T = TypeVar("T")
SCHEDULES = 32
"""How many schedules of one cascade the cost model looks at without tuning, spread over all."""
CLIMBS = 48
"""How many more it looks at on its way from the best of those, one setting changed at a time. All in all half a second
of planning."""
CASCADES = 2
"""How many derived cascades of different plans it looks at, those with the fewest passes first."""
KEPT = 16
"""How many of the fastest are kept of an answer: more than are tried."""
STORED = 16
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


STEPS, FINE = 4, 16
"""To which sizes are rounded before they are priced: so many in each doubling, fewer where picks are planned."""
REMEMBERED = 4096
"""How many answers a process keeps."""
LOOKED_AT = 256
"""How many points, the nearest, are looked at: a cache from elsewhere may be full of what cannot be used."""
CLOSE = 2.5
"""Doublings of sizes, all ranks together, within which what was measured is trusted to hold the best."""
POINTS = 4
"""From how many of the nearest points it is learnt what the model is off by."""
NEAREST = 0.1
"""Doublings that are added to how far a point is: beside one at the very sizes others hardly count."""


def priced_few(
    problem: Problem, key: Key, entries: Sequence[Entry], device: torch.device, emitter: str, directory: Path
) -> list[Priced]:
    """The first of `priced_near` close to what was measured, in a fraction of the time: only the kernels that were
    among the fastest nearby are priced. None elsewhere."""
    near, rounded_key = _rounded(problem, key)
    asked = (rounded_key, token_of(entries), str(device), emitter, directory, "few")
    found = _remembered.get(asked)
    if found is None:
        machine = machine_of(device)
        nearest = contenders(_nearest(rounded_key, entries), key.machine)
        members = _members(near, key, nearest, machine, emitter, directory)
        there = [m for m in members if _fits(near, m)] if _is_covered(near, members) else []
        found = _remembered[asked] = confirmed(near, there, machine)[0][:KEPT] if there else []
    return found


def priced_near(
    problem: Problem, key: Key, entries: Sequence[Entry], device: torch.device, emitter: str, directory: Path
) -> list[Priced]:
    """As `priced`, and remembered. Close to what was measured, at sizes rounded up to steps of 1/16 of a doubling;
    elsewhere to steps of a quarter, since there picks are planned: a program whose lengths grow waits for that once a
    step. What serves a size does not depend on which came before it."""
    near, rounded_key = _rounded(problem, key)
    asked = (rounded_key, token_of(entries), str(device), emitter, directory)
    found = _remembered.get(asked)
    if found is None:
        machine = machine_of(device)
        members = _members(near, key, _nearest(rounded_key, entries), machine, emitter, directory)
        found = confirmed(near, members, machine)[0] if _is_covered(near, members) else []
        found = (found or _with_picks(problem, key, members, machine, emitter, directory))[:KEPT]
        _remembered[asked] = found
    return found


def _rounded(problem: Problem, key: Key) -> tuple[Problem, Key]:
    near = rounded_up(problem, FINE)
    return near, replace(key, sizes=tuple(sorted(near.sizes.items())))


def _names(members: Sequence[_Member]) -> Hashable:
    return tuple((m.text, m.schedule, *((e.path, e.record.seconds) for e in m.entries)) for m in members)


def _nearest(key: Key, entries: Sequence[Entry]) -> list[Entry]:
    asked = token_of(entries), replace(key, sizes=())
    nearness = _nearness.get(asked)
    if nearness is None:
        nearness = _nearness[asked] = Nearness(entries, key)
    return nearness.nearest(key, LOOKED_AT)


def _with_picks(
    problem: Problem, key: Key, members: Sequence[_Member], machine: Machine, emitter: str, directory: Path
) -> list[Priced]:
    near = rounded_up(problem, STEPS)
    asked = (replace(key, sizes=tuple(sorted(near.sizes.items()))), _names(members), machine.name, emitter, directory)
    if (found := _remembered.get(asked)) is not None:
        return found
    try:
        found = among(near, members, machine, emitter, directory)
    except ValueError:
        # Sizes that follow from each other (the parts of one that is split) may not be rounded apart.
        return among(problem, members, machine, emitter, directory)
    _remembered[asked] = found
    return found


_nearness: Recent[Hashable, Nearness] = Recent(64)
_remembered: Recent[Hashable, list[Priced]] = Recent(REMEMBERED)


def priced(
    problem: Problem, key: Key, entries: Sequence[Entry], device: torch.device, emitter: str, directory: Path
) -> list[Priced]:
    """What could serve a problem, the fastest by prediction first; what cannot run is left out.

    entries: records and points of the same definition, the nearest first. directory: the cache that keeps derived
    forms.
    """
    machine = machine_of(device)
    return among(problem, _members(problem, key, entries, machine, emitter, directory), machine, emitter, directory)


def among(
    problem: Problem, members: Sequence[_Member], machine: Machine, emitter: str, directory: Path
) -> list[Priced]:
    """As `priced`, of members and of the model's own picks."""
    stored, usual = confirmed(problem, members, machine)
    picks = [
        replace(p, seconds=p.seconds * usual * (UNCONFIRMED if stored else 1.0))
        for p in _picks(problem, machine, emitter, directory)
    ]
    return sorted([*stored, *picks], key=lambda p: p.seconds)


def confirmed(problem: Problem, members: Sequence[_Member], machine: Machine) -> tuple[list[Priced], float]:
    """The members at the problem's sizes, corrected by what the model was off by where each was measured, and the mean
    of that."""
    stated = [(m, s) for m in members if (s := _tried(m, lambda m: _schedule(problem, m))) is not None]
    # All at once, which costs little more than one.
    priced = _each_at(problem, [(m.text, s) for m, s in stated], machine)
    found: list[tuple[Priced, float | None]] = []
    for (m, _), at in zip(stated, priced, strict=True):
        at = at or _tried(m, lambda m: _nearest_at(problem, m, machine))
        if at is not None:
            factor = _tried(m, lambda m: (_factor(problem, m, machine),))
            found += [(replace(at, entry=m.entries[0]), *factor)] if factor else []
    # The mean by which the model is off for this definition holds for its picks, too: else a model that is too slow
    # everywhere would never pick, and one that is too fast always.
    factors = [factor for _, factor in found if factor is not None]
    usual = math.exp(sum(map(math.log, factors)) / len(factors)) if factors else 1.0
    corrected = [replace(p, seconds=p.seconds * (usual if f is None else f)) for p, f in found]
    return sorted(corrected, key=lambda p: p.seconds), usual


def _schedule(problem: Problem, member: _Member) -> Schedule:
    """What a member's kernel would run under here. Raises ValueError where nothing would."""
    return member.schedule if _fits(problem, member) else _adapted(problem, member)


def _nearest_at(problem: Problem, member: _Member, machine: Machine) -> Priced | None:
    """A member that has no plan at these sizes, under the schedule that is nearest to its own here."""
    nearest = nearest_schedule(member.schedule, parsed(member.text), problem)
    return next(iter(_at(problem, [(member.text, nearest)], machine)), None)


def _tried(member: _Member, step: Callable[[_Member], T]) -> T | None:
    """What a step gives; None (said once) where a record turns out to be of no use."""
    try:
        return step(member)
    except (ValueError, KeyError, RecursionError) as error:
        name = member.entries[0].path.name
        say_once(f"eintune: the record {name} is not used: {error}", logging.INFO, about=("record", name))
        return None


def ranked(problem: Problem, device: torch.device, emitter: str, directory: Path) -> list[Priced]:
    """Derived forms under schedules, the fastest by the cost model first; what cannot run is left out. directory: the
    cache that keeps derived forms."""
    return _picks(problem, machine_of(device), emitter, directory)


def _picks(problem: Problem, machine: Machine, emitter: str, directory: Path) -> list[Priced]:
    found: list[Priced] = []
    for text in _forms(problem, directory):
        try:
            space = _space(problem, text, emitter)
            first = _spread(space, machine)
        except ValueError as error:
            say_once(f"eintune: a cascade is not laid out: {error}", logging.INFO)
            continue
        tried = _at(problem, [(text, s) for s in first], machine)
        found += [*tried, *_climbed(problem, text, space, first, tried, machine)]
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
    problem: Problem,
    text: str,
    space: Space,
    first: Mapping[Schedule, Point],
    tried: Sequence[Priced],
    machine: Machine,
) -> list[Priced]:
    """Schedules around the best that were tried, one setting away from the best so far, until none of these is faster
    or CLIMBS were priced. first: points of what was tried."""
    if not tried:
        return []
    points, found = dict(first), list[Priced]()
    seen = {p.schedule for p in tried}
    best = min(tried, key=lambda p: p.seconds)
    while len(found) < CLIMBS:
        around = {space.schedule(n): n for n in space.neighbours(points[best.schedule])}
        fresh = [s for s in around if s not in seen and not unsupported(s, machine)][: CLIMBS - len(found)]
        seen.update(fresh)
        points |= around
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


@dataclass(frozen=True)
class _Member:
    """A form under a schedule that was measured at some sizes. entries: where, the nearest first; here: on this
    machine."""

    text: str
    schedule: Schedule
    entries: tuple[Entry, ...]
    here: bool


def _members(
    problem: Problem, key: Key, entries: Sequence[Entry], machine: Machine, emitter: str, directory: Path
) -> list[_Member]:
    """What was measured, by form and schedule, at most STORED. entries: the nearest sizes first, as is what comes of
    them."""
    found: dict[tuple[str, Schedule, bool], list[Entry]] = {}
    for entry in entries:
        record, here = entry.record, entry.key.machine == key.machine
        if record.schedule.emitter != emitter or record.schedule.precision != "ieee":
            continue
        # This machine may lack another's descriptors or specialised warps; the plain form runs anywhere.
        schedule = record.schedule if here else plain_schedule(record.schedule)
        if unsupported(schedule, machine):
            continue
        known = record.cascade, schedule, here
        if known not in found and len(found) == STORED:
            continue
        try:
            # A record is data from a file. Nothing is made of its cascade unless this user's own derivation, or what
            # ships, has it as a form of the definition.
            if known in found or follows(entry, problem.cascade, directory):
                found.setdefault(known, []).append(entry)
        except (ValueError, KeyError, RecursionError) as error:
            name = entry.path.name
            say_once(f"eintune: the record {name} is not used: {error}", logging.INFO, about=("record", name))
    return [_Member(text, s, tuple(every), here) for (text, s, here), every in found.items()]


def rehearse(entries: Sequence[Entry], machine: Machine) -> None:
    """Find out, and remember, what first calls ask of what was measured on a machine: what the model counts of each
    kernel and says of it where it was measured, and what becomes of it beside what others need as numbers."""
    groups: dict[Hashable, list[Entry]] = {}
    for e in entries:
        groups.setdefault((e.key.cascade, tuple(e.key.widths.items()), e.key.ranks), []).append(e)
    for group in groups.values():
        found: dict[tuple[str, Schedule], list[Entry]] = {}
        for e in group:
            found.setdefault((e.record.cascade, e.record.schedule), []).append(e)
        members = [_Member(text, schedule, tuple(every), True) for (text, schedule), every in found.items()]
        posed: dict[Hashable, Problem] = {}
        for m in members:
            for e in m.entries:
                key = e.key
                problem = Problem(key.workload, m.text, dict(key.sizes), dict(key.dtypes), dict(key.params))
                predicted(m.text, m.schedule, problem, machine)
                free = open_ranks(m.text, problem, m.schedule)
                posed.setdefault((key.dtypes, *(pair for pair in key.sizes if pair[0] not in free)), problem)
        for problem in posed.values():
            confirmed(problem, members, machine)


def _fits(problem: Problem, member: _Member) -> bool:
    """Whether all that a member's kernel needs as numbers is as it was at one of its points; else (another head dim) a
    schedule is to be found that is legal here."""
    free = open_ranks(member.text, problem, member.schedule)
    return any(math.isfinite(_doublings(problem, dict(e.key.sizes), free)) for e in member.entries)


def _adapted(problem: Problem, member: _Member) -> Schedule:
    """A member's schedule for what its kernel needs as numbers here: the nearest that is legal at lengths that it was
    measured at, whatever they are here, so that it is looked for once and not at every length that a program comes
    with. Raises ValueError where there is none."""
    free = open_ranks(member.text, problem, member.schedule)
    longest = dict(max((math.prod(n for _, n in e.key.sizes), e.key.sizes) for e in member.entries)[1])
    sizes = {r: longest.get(r, n) if r in free else n for r, n in problem.sizes.items()}
    asked = member.text, member.schedule, tuple(sorted(sizes.items())), tuple(sorted(problem.dtypes.items()))
    found = _adaptations.get(asked)
    if found is None:
        found = nearest_schedule(member.schedule, parsed(member.text), replace(problem, sizes=sizes))
        _adaptations[asked] = found
    return found


_adaptations: Recent[Hashable, Schedule] = Recent(1024)


def _is_covered(problem: Problem, members: Sequence[_Member]) -> bool:
    """Whether something was measured so near to a problem's sizes, on this machine, that what was measured is trusted
    to hold the best: what a kernel needs as numbers is equal, and the rest is at most CLOSE doublings in all away from
    a point, or from what is between the points of a portfolio, which somebody chose to cover that."""
    together: dict[Path, list[dict[str, int]]] = {}
    for m in members:
        if not m.here:
            continue
        try:
            free = open_ranks(m.text, problem, m.schedule)
        except (ValueError, KeyError, RecursionError):
            continue
        for e in m.entries:
            sizes = dict(e.key.sizes)
            doublings = _doublings(problem, sizes, free)
            if doublings <= CLOSE:
                return True
            if e.any_size and math.isfinite(doublings):
                together.setdefault(e.path, []).append(sizes)
    return any(_beyond(problem, points) <= CLOSE for points in together.values())


def _beyond(problem: Problem, points: Sequence[Mapping[str, int]]) -> float:
    """How many doublings in all sizes are less than the least, or more than the most, of some points."""
    every = {r: [p[r] for p in points] for r in problem.sizes}
    return sum(math.log2(max(min(every[r]) / n, n / max(every[r]), 1.0)) for r, n in problem.sizes.items())


def _doublings(problem: Problem, sizes: Mapping[str, int], free: Collection[str]) -> float:
    """How far sizes are from a problem's: the sum of |log2| of their ratios; infinite where one that is not free
    differs."""
    if any(sizes.get(r) != n for r, n in problem.sizes.items() if r not in free):
        return math.inf
    return sum(abs(math.log2(n / sizes[r])) for r, n in problem.sizes.items() if r in free and r in sizes)


def _space(problem: Problem, text: str, emitter: str) -> Space:
    """The space of a form at sizes that stand for all that are alike: where tiles are padded to powers of two, what is
    worth trying changes with doublings of a size. Raises ValueError (IllegalPlan) for a form that has no layout."""
    if not TARGETS[emitter].padded:
        return space_of(parsed(text), problem, emitter)
    space = space_of(parsed(text), rounded_up(problem, 1), emitter)
    several = space.uses.of("batch")
    return replace(space, sizes={r: rounded(n, 1, 1) if r in several else n for r, n in space.sizes.items()})


def _spread(space: Space, machine: Machine) -> dict[Schedule, Point]:
    """The schedules of a space that are looked at first, each with a point that it is of; found once."""
    asked = space.key, machine.name
    found = _spreads.get(asked)
    if found is None:
        found = _spreads[asked] = spread(space, SCHEDULES, lambda s: not unsupported(s, machine))
    return found


_spreads: Recent[Hashable, dict[Schedule, Point]] = Recent(64)


def _factor(problem: Problem, member: _Member, machine: Machine) -> float | None:
    """The measured over the predicted seconds of a member: the geometric mean over the POINTS nearest sizes, the nearer
    the heavier. None where none was measured here, or none has a plan now."""
    logs: list[tuple[float, float]] = []
    for entry in member.entries if member.here else ():
        sizes = dict(entry.key.sizes)
        expected = predicted(member.text, member.schedule, replace(problem, sizes=sizes), machine)
        if expected is not None:
            apart = sum(abs(math.log2(n / sizes.get(r, n))) for r, n in problem.sizes.items())
            logs.append((1 / (NEAREST + apart) ** 2, math.log(entry.record.seconds / expected)))
        if len(logs) == POINTS:
            break
    weight = sum(w for w, _ in logs)
    return math.exp(sum(w * x for w, x in logs) / weight) if logs else None


def predicted(text: str, schedule: Schedule, problem: Problem, machine: Machine) -> float | None:
    """What the model says of a kernel at the sizes at which it was measured; None where it has no plan there now."""
    sizes, dtypes = tuple(sorted(problem.sizes.items())), tuple(sorted(problem.dtypes.items()))
    asked = (text, schedule, sizes, dtypes, machine.name)
    found = _at_points.get(asked)
    if found is None:
        at = _at(problem, [(text, schedule)], machine)
        found = _at_points[asked] = at[0].seconds if at and at[0].seconds > 0 else math.nan
    return None if math.isnan(found) else found


_at_points: Recent[Hashable, float] = Recent(4096)


def _at(problem: Problem, found: Sequence[tuple[str, Schedule]], machine: Machine) -> list[Priced]:
    """Forms under schedules at a problem's sizes, priced as the kernels for any size that serve there; those left out
    that have no plan or do not fit."""
    return [p for p in _each_at(problem, found, machine) if p]


def _each_at(problem: Problem, found: Sequence[tuple[str, Schedule]], machine: Machine) -> list[Priced | None]:
    """As `_at`, in their order, with None for those that are left out."""
    works: list[Work | None] = []
    for text, schedule in found:
        try:
            works.append(work_at(text, problem, schedule))
        except (ValueError, KeyError, RecursionError):
            works.append(None)
    counted = [w for w in works if w]
    estimates = iter(estimate_works(counted, machine) if counted else [])
    priced: list[Priced | None] = []
    for (text, schedule), w in zip(found, works, strict=True):
        e = next(estimates) if w else None
        fits = e is not None and illegal(e.resources, machine) is None
        priced.append(Priced(text, schedule, e.seconds) if e is not None and fits else None)
    return priced
