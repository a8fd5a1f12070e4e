"""The candidates: derived cascades crossed with schedules, planned, priced and pruned, each loss counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from eintune.costmodel.counts.estimate import Estimate
from eintune.costmodel.counts.resources import illegal, unsupported
from eintune.costmodel.counts.work import Work, work
from eintune.costmodel.machines.machine import Machine
from eintune.costmodel.pricing.calibration import Calibration
from eintune.costmodel.pricing.fit import fit
from eintune.costmodel.pricing.prune import prune
from eintune.costmodel.pricing.time import estimate_works
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.generate.emitters import EMITTERS
from eintune.search.study.study import Trial
from eintune.search.text.schedules import role_text
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.lowering.lower import IllegalPlan, build_program
from eintune.space.plan.lazy_rescaling import fault as no_lazy_rescaling
from eintune.space.plan.plan import Program
from eintune.space.plan.refusals import Refusal, RuleError
from eintune.space.plan.warp_specialisation import KIND, fault, is_divided
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules

from .derivations import Variant

REASONS = {
    "shared memory": "needs more shared memory than a program may have",
    "warps": "needs more warps than run at once",
    "tensor descriptors": "the machine has no tensor descriptors",
    "approximate functions": "the machine approximates no functions",
    "specialised warps": "warps that do different things are printed for another architecture",
    "divided work": "specialised warps cannot divide it",
    "lazy rescaling": "no loop of it can keep a reference",
    "registers": "spills too many registers",
    "dominated": "dominated: another moves and computes no more and is predicted faster",
    "slower": "predicted slower than the best by more than the model's error band",
}
"""What the kinds of reason that pruning counts by mean, in words."""


class Planner(Protocol):
    """How a cascade under a schedule becomes a plan to be priced and a kernel to be measured at a problem's sizes."""

    def plan(self, cascade: Cascade, problem: Problem, schedule: Schedule) -> Program:
        """Raises IllegalPlan."""

    def work(self, cascade: Cascade, problem: Problem, schedule: Schedule, plan: Program) -> Work:
        """What `plan` counts."""

    def kernel(self, candidate: Candidate) -> Kernel:
        """The candidate's kernel. Raises RuleError."""


class Exactly:
    """For the problem's sizes alone."""

    def plan(self, cascade: Cascade, problem: Problem, schedule: Schedule) -> Program:
        return build_program(cascade, problem, schedule)

    def work(self, cascade: Cascade, problem: Problem, schedule: Schedule, plan: Program) -> Work:
        return work(plan, schedule)

    def kernel(self, candidate: Candidate) -> Kernel:
        return EMITTERS[candidate.schedule.emitter](candidate.plan, candidate.schedule)


EXACTLY = Exactly()


@dataclass(frozen=True)
class Candidate:
    """One way to compute the problem: a derived cascade under a schedule, its counted work and what it should
    cost. `kernel` and `key` (the generated source's digest) are made when first asked for."""

    variant: Variant
    schedule: Schedule
    plan: Program
    work: Work
    estimate: Estimate
    problem: Problem
    planner: Planner = EXACTLY

    @cached_property
    def kernel(self) -> Kernel:
        return self.planner.kernel(self)

    @cached_property
    def key(self) -> str:
        return self.kernel.digest

    @property
    def group(self) -> str:
        return self.variant.digest

    @property
    def shape(self) -> str:
        """Tiles and warps in a few words."""
        roles = ", ".join(f"{rank} {role_text(r.outer, r.tile)}" for rank, r in self.schedule.roles)
        return f"{roles}, {self.schedule.warps} warps"

    @cached_property
    def knobs(self) -> Mapping[str, str]:
        """The cascade's digest and every field of the schedule, as texts."""
        fields = self.schedule.to_json()
        roles = {rank: role_text(*role) for rank, role in fields.pop("roles").items()}
        return {"cascade": self.group, **roles, **{name: str(value) for name, value in fields.items()}}


@dataclass(frozen=True)
class Candidates:
    """kept: best predicted first, each with a source of its own. considered: all pairs of a cascade and a schedule.
    schedules: different schedules among them. left_out: how many were dropped, by reason."""

    kept: tuple[Candidate, ...]
    considered: int
    schedules: int
    left_out: Mapping[str, int] = field(default_factory=dict)


def candidates(
    variants: Sequence[Variant],
    problem: Problem,
    machine: Machine,
    emitter: str,
    *,
    calibration: Calibration | None = None,
    at_most: int = 256,
    log: Callable[[str], None] = lambda text: None,
    planner: Planner = EXACTLY,
) -> Candidates:
    """Every cascade under every schedule of `emitter`, priced on `machine`; the worthwhile ones best first.

    at_most: how many to keep. planner: how plans and kernels are made. Raises MachineError where the machine has no
    unit for a product's dtype.
    """
    left_out: Counter[str] = Counter()
    every = everything(
        variants, problem, machine, emitter, calibration=calibration, left_out=left_out, log=log, planner=planner
    )
    considered = len(every) + sum(left_out.values())
    seen = {c.schedule for c in every}
    worthwhile = _worthwhile(every, machine, calibration, left_out)
    return Candidates(
        tuple(_distinct(worthwhile, at_most, left_out)), considered, len(seen), dict(left_out.most_common())
    )


def everything(
    variants: Sequence[Variant],
    problem: Problem,
    machine: Machine,
    emitter: str,
    *,
    calibration: Calibration | None = None,
    left_out: Counter[str] | None = None,
    log: Callable[[str], None] = lambda text: None,
    planner: Planner = EXACTLY,
) -> list[Candidate]:
    """Every cascade under every schedule that has a plan, priced; those without one are counted in `left_out`."""
    lost: Counter[str] = Counter() if left_out is None else left_out
    planned: list[_Planned] = []
    for variant in variants:
        cascade = Cascade.parse(variant.text)
        every = _supported(schedules(cascade, problem, emitter), machine, lost)
        planned += _plans(variant, cascade, problem, every, lost, planner)
        log(f"{variant.label}: {len(planned):,} candidates so far")
    estimates = estimate_works([w for *_, w in planned], machine, calibration) if planned else []
    return [Candidate(*parts, e, problem, planner) for parts, e in zip(planned, estimates, strict=True)]


def _supported(every: Sequence[Schedule], machine: Machine, left_out: Counter[str]) -> list[Schedule]:
    """The schedules that the machine has the means for."""
    reasons = [unsupported(s, machine) for s in every]
    left_out.update(_words(reason) for reason in reasons if reason)
    return [s for s, reason in zip(every, reasons, strict=True) if reason is None]


WITHOUT: Mapping[str, Any] = {
    "warps": 4,
    "stages": 1,
    "order": "forward",
    "loads": "pointer",
    "pipelined": "none",
    "warp_specialisation": "none",
}
"""What of a schedule a plan does not depend on."""

_Planned = tuple[Variant, Schedule, Program, Work]


def _plans(
    variant: Variant,
    cascade: Cascade,
    problem: Problem,
    every: Sequence[Schedule],
    left_out: Counter[str],
    planner: Planner,
) -> Iterator[_Planned]:
    """The plans of one cascade, counted. Schedules that differ in `WITHOUT` only share one."""
    made: dict[Schedule, Program | IllegalPlan] = {}
    counts: dict[Schedule, Work] = {}
    for schedule in every:
        # Planning takes milliseconds, and most knobs do not change a plan: one is made for all schedules that differ
        # in those.
        counted = replace(schedule, **WITHOUT)
        planned = replace(counted, rescaling="eager")  # which changes what is counted, and not the plan
        if planned not in made:
            made[planned] = _plan(planner, cascade, problem, planned)
        match made[planned]:
            case IllegalPlan() as error:
                left_out[f"no plan: {error.rule}"] += 1
            case plan:
                if why := _unsuited(plan, schedule):
                    left_out[_words(why)] += 1
                    continue
                if counted not in counts:
                    counts[counted] = planner.work(cascade, problem, counted, plan)
                yield variant, schedule, plan, counts[counted].under(schedule)


def _unsuited(program: Program, schedule: Schedule) -> Refusal | None:
    """Why the kernels of a program that multiply cannot be divided among specialised warps as a schedule asks; None
    where they can, and where it asks for none."""
    if not schedule.is_specialised:
        return None
    divided = [plan for plan in program.kernels if is_divided(plan)]
    rules = (fault, no_lazy_rescaling) if schedule.rescaling == "lazy" else (fault,)
    found = next(filter(None, (rule(plan) for rule in rules for plan in divided)), None)
    return found if divided else Refusal(KIND, "nothing is multiplied")


def _plan(planner: Planner, cascade: Cascade, problem: Problem, schedule: Schedule) -> Program | IllegalPlan:
    try:
        return planner.plan(cascade, problem, schedule)
    except IllegalPlan as error:
        return error


def _words(refusal: Refusal) -> str:
    return REASONS.get(refusal.kind, refusal.kind)


def _worthwhile(
    priced: Sequence[Candidate], machine: Machine, calibration: Calibration | None, left_out: Counter[str]
) -> list[Candidate]:
    """Best first: what pruning keeps, and the best of each other cascade as a witness, so that the model is fitted
    to, and judged on, every kind."""
    pruned = prune([c.estimate for c in priced], machine, calibration, groups=[c.group for c in priced])
    kept = set(pruned.kept)
    served = {priced[i].group for i in kept}
    for i in sorted(pruned.reasons, key=lambda i: priced[i].estimate.seconds):
        # A form that pruning leaves nothing of would be judged by a prediction alone.
        if priced[i].group not in served and illegal(priced[i].estimate.resources, machine) is None:
            kept.add(i)
            served.add(priced[i].group)
        else:
            left_out[_words(pruned.reasons[i])] += 1
    return sorted((priced[i] for i in kept), key=lambda c: c.estimate.seconds)


def _distinct(ranked: Sequence[Candidate], at_most: int, left_out: Counter[str]) -> list[Candidate]:
    """One candidate a generated source, the best predicted ones; never so few that a cascade has none."""
    kept: dict[str, Candidate] = {}
    groups: set[str] = set()
    for candidate in ranked:
        # Generating source is the dear step, so it is done from the best on, and ends early.
        if len(kept) >= at_most and candidate.group in groups:
            left_out[f"beyond the best {at_most}"] += 1
            continue
        try:
            first = kept.setdefault(candidate.key, candidate)
        except RuleError as error:
            left_out[f"no {candidate.schedule.emitter} kernel: {error.rule}"] += 1
            continue
        if first is candidate:
            groups.add(candidate.group)
        else:
            left_out["same generated source as another"] += 1
    return list(kept.values())


class Model:
    """The cost model of one machine over candidates: prices them, and is fitted again to what was measured.

    known: work that was measured elsewhere (the same computation at other sizes), with its seconds.
    """

    def __init__(self, points: Sequence[Candidate], machine: Machine, known: Sequence[tuple[Work, float]] = ()) -> None:
        self._points = points
        self._known = known
        self._machine = machine
        self.calibration = self._start = Calibration.of(machine)

    def __call__(self, trials: Sequence[Trial[Candidate]]) -> Callable[[Candidate], float]:
        """Fit to the trials that ran and were right; the prediction of every point after that."""
        right = [*self._known, *((t.point.work, t.measurement.seconds) for t in trials if t.ok)]
        # Always from the machine's own start, not from the last fit: samples that were fitted before would count
        # twice.
        self.calibration = fit(right, self._machine, self._start)
        priced = estimate_works([p.work for p in self._points], self._machine, self.calibration)
        seconds = {p.key: e.seconds for p, e in zip(self._points, priced, strict=True)}
        return lambda point: seconds[point.key]
