"""Derived cascades on a machine of cores: every schedule, both ways to hold intermediates, every grid of cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from eintune.costmodel.cores.cores import CoreEstimate, CoreWork, core_work, grid_of, grids, price, unfit
from eintune.costmodel.machines.machine import Machine
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.lowering.lower import IllegalPlan, build_plan
from eintune.space.plan.plan import LoopPlan
from eintune.space.plan.refusals import Refusal
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules, space_of

from .derivations import Variant


@dataclass(frozen=True)
class CorePlan:
    """One plan that fits, on the grid that suits it best. tiles: how many of the matrix unit's a core's block has
    along each rank."""

    variant: Variant
    schedule: Schedule
    plan: LoopPlan
    work: CoreWork
    tiles: tuple[tuple[str, int], ...]
    estimate: CoreEstimate

    @property
    def block(self) -> str:
        """ "p 2 x m 4"."""
        return block_text(self.tiles)


@dataclass(frozen=True)
class Fit:
    """How many destination slots one block of one cascade needs, unblocked and sub-blocked. fullest: what takes them
    where most are taken, unblocked."""

    variant: Variant
    tiles: tuple[tuple[str, int], ...]
    whole: int
    blocked: int
    fullest: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class CorePlans:
    """kept: what fits, fastest first. considered: cascades x schedules x ways to hold intermediates. left_out: how
    many do not fit, by reason. fits: of every cascade and block."""

    machine: Machine
    kept: tuple[CorePlan, ...]
    considered: int
    left_out: dict[str, int]
    fits: tuple[Fit, ...]


def core_plans(variants: Sequence[Variant], problem: Problem, machine: Machine) -> CorePlans:
    """Price every plan on every grid. Raises MachineError for a dtype that the matrix unit does not take."""
    kept: list[CorePlan] = []
    fits: dict[tuple[str, tuple[tuple[str, int], ...]], Fit] = {}
    lost: Counter[str] = Counter()
    considered = 0
    every = list(grids(machine))
    for variant in variants:
        for schedule, plan, tiles in _planned(variant, problem, machine, lost):
            works = [core_work(plan, schedule, machine, blocked=b) for b in (False, True)]
            needs = (works[0].destination, works[1].destination, works[0].fullest)
            fits.setdefault((variant.digest, tiles), Fit(variant, tiles, *needs))
            considered += len(works)
            for counted in works:
                if reason := unfit(counted, machine):
                    lost[_rule(reason, counted)] += 1
                    continue
                best = min((price(counted, machine, r, c) for r, c in every), key=_preference)
                kept.append(CorePlan(variant, schedule, plan, counted, tiles, best))
    kept.sort(key=lambda p: _preference(p.estimate))
    return CorePlans(machine, tuple(kept), considered, dict(lost.most_common()), tuple(fits.values()))


def block_text(tiles: tuple[tuple[str, int], ...]) -> str:
    """ "p 2 x m 4"."""
    return " x ".join(f"{rank} {n}" for rank, n in tiles)


def _preference(e: CoreEstimate) -> tuple[float, int]:
    """Faster first; of equal ones the smaller grid."""
    return round(e.seconds, 12), e.rows * e.columns


def _rule(reason: Refusal, counted: CoreWork) -> str:
    if reason.kind == "L1":
        return "needs more L1 than a core has"
    held = "sub-blocked" if counted.blocked else "unblocked"
    return f"needs more destination slots than a core has, with {held} intermediates"


def _planned(
    variant: Variant, problem: Problem, machine: Machine, lost: Counter[str]
) -> Iterator[tuple[Schedule, LoopPlan, tuple[tuple[str, int], ...]]]:
    cascade = Cascade.parse(variant.text)
    side = grid_of(machine).tile
    uses = space_of(cascade, problem, grid_of(machine).target).uses
    shown = [*uses.of("row"), *uses.of("resident"), *uses.of("streamed")]
    for schedule in schedules(cascade, problem, grid_of(machine).target):
        try:
            plan = build_plan(cascade, problem, schedule)
        except IllegalPlan as error:
            lost[f"no plan: {error.rule}"] += 1
            continue
        roles = dict(schedule.roles)
        lengths = {r: min(roles[r].tile or 1, problem.sizes[r]) for r in shown if r in roles}
        yield schedule, plan, tuple((r, ceil(n / side)) for r, n in lengths.items())
