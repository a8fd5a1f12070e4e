"""How long a kernel should take: the estimate of one candidate, and of many at once."""

from __future__ import annotations

from collections.abc import Sequence

from eintune.costmodel.counts.estimate import Estimate, Resources, Traffic, most
from eintune.costmodel.counts.work import Work, work
from eintune.costmodel.machines.machine import Machine
from eintune.space.plan.plan import LoopPlan, Program
from eintune.space.schedule.schedule import Schedule

from .calibration import Calibration
from .placed_kernel import UNITS, PlacedKernel
from .terms import FOLLOWING, placed_kernels, terms, terms_of


def estimate(
    plan: LoopPlan | Program,
    schedule: Schedule,
    machine: Machine,
    calibration: Calibration | None = None,
    resources: Resources | None = None,
) -> Estimate:
    """Price a plan. `resources` from a compiler win over predicted ones; the calibration defaults to the machine's.

    Raises MachineError where the machine has no unit for a product's dtype.
    """
    return estimate_work(work(plan, schedule), machine, calibration, resources)


def estimate_work(
    counted: Work, machine: Machine, calibration: Calibration | None = None, resources: Resources | None = None
) -> Estimate:
    """Price counted work."""
    return estimate_works([counted], machine, calibration, [resources])[0]


def predicted_seconds(counted: Sequence[Work], machine: Machine, calibration: Calibration | None = None) -> list[float]:
    """As `estimate_works`, the seconds alone: a few microseconds each, where their kernels were priced before."""
    seconds: list[float] = terms(counted, machine).seconds(calibration or Calibration.of(machine)).tolist()
    return seconds


def estimate_works(
    counted: Sequence[Work],
    machine: Machine,
    calibration: Calibration | None = None,
    resources: Sequence[Resources | None] | None = None,
) -> list[Estimate]:
    """Price many candidates at once, in the order given. resources: of a program of several launches, its first's."""
    chosen = calibration or Calibration.of(machine)
    placed = placed_kernels(counted, machine, resources)
    rows = terms_of(counted, placed, machine)
    seconds, units = rows.seconds(chosen), rows.unit_seconds(chosen)
    # In seconds each unit needs alone, at what it really achieves: the largest of them names the limiter.
    hbm = rows.by_candidate(rows.hbm) / chosen.memory_efficiency
    traffic: dict[tuple[int, ...], Traffic] = {}

    def moved(w: Work) -> Traffic:
        key = id(w.lengths), *[id(x.lengths) for x in w.then]  # what schedules of one plan share
        if key not in traffic:
            traffic[key] = w.traffic
        return traffic[key]

    return [
        _answer(w, p, t, (*u, h), chosen, moved(w))
        for w, p, t, u, h in zip(counted, placed, seconds.tolist(), units.tolist(), hbm.tolist(), strict=True)
    ]


def _answer(
    counted: Work,
    placed: Sequence[PlacedKernel],
    seconds: float,
    by_unit: tuple[float, ...],
    calibration: Calibration,
    traffic: Traffic,
) -> Estimate:
    """One candidate's estimate; programs and waves are those of its first launch."""
    launch_seconds = calibration.launch_seconds * (1 + FOLLOWING * (len(placed) - 1))
    named = (*zip((*UNITS, "hbm"), by_unit, strict=True), ("launch", launch_seconds))
    first, *then = placed
    hbm_bytes = first.hbm_bytes(counted) + sum([p.hbm_bytes(w) for w, p in zip(counted.then, then, strict=True)])
    return Estimate(
        seconds=seconds,
        traffic=traffic.with_hbm(hbm_bytes),
        resources=most([p.resources for p in placed]) if then else first.resources,
        programs=counted.programs,
        programs_per_sm=first.per_sm,
        waves=counted.programs / first.slots,
        limiter=max(named, key=lambda pair: pair[1])[0],
        unit_seconds=named,
    )
