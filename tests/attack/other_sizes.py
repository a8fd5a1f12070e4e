"""Kernels that are made for any size, of drawn programs: planned at one draw of sizes, run at others.

`python tests/attack/other_sizes.py [FIRST [LAST]]` runs a range of seeds and prints what came of them.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from drawn_cascades import Case, draw, with_data
from four_ways import Fault, budgets, compare, is_defined

from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.generate.emitters import emit
from eintune.kernels.launch.load import load
from eintune.kernels.reference.eager import DTYPES
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.run import run_cascade
from eintune.space.lowering.lower import build_for_any_size
from eintune.space.plan.roles import Role
from eintune.space.schedule.any_size import for_any_size
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import schedules

SCHEDULES = 3
DRAWS = 3
KINDS = {"int": "int64", "bool": "bool"}


def run_elsewhere(seed: int) -> Counter[str]:
    """Plan a program at its own sizes and run it at those and others; what happened, counted. Raises Fault where a
    kernel disagrees with the evaluator, or ends in an error that is no refusal."""
    case, found = draw(seed), Counter[str]()
    if 0 in case.sizes.values():
        return found
    problem = problem_of(case)
    try:
        every = schedules(case.cascade, problem, "torch")
    except ValueError:
        return Counter(refused=1)
    rng = random.Random(seed)
    for schedule in rng.sample(every, min(SCHEDULES, len(every))):
        # Loops of other steps than a size has make tails; the space has long tiles only.
        wanted = for_any_size(_shorter(schedule, rng))
        try:
            kernel = emit(build_for_any_size(case.cascade, problem, wanted), wanted)
        except ValueError:
            found["refused"] += 1
            continue
        others = (with_data(seed, random.Random(f"{seed} {n}"), case.cascade) for n in range(DRAWS))
        for other in itertools.chain([case], filter(None, others)):
            other = replace(other, params=case.params)
            same = all(other.sizes[r] == case.sizes[r] for r in _numbers(kernel, case))
            if 0 in other.sizes.values() or not same:
                found["elsewhere refused"] += 1
                continue
            found[_run(kernel, other)] += 1
    return found


def problem_of(case: Case) -> Problem:
    """The case in float64."""
    tensors = {**case.cascade.inputs, **case.cascade.outputs}
    dtypes = {n: KINDS.get(t.kind, "fp64") for n, t in tensors.items()}
    return Problem("drawn", str(case.cascade), dict(case.sizes), dtypes, dict(case.params))


def _shorter(schedule: Schedule, rng: random.Random) -> Schedule:
    """Ranks that are held whole, some of them in short tiles."""

    def shorter(role: Role) -> Role:
        tile = rng.choice([2, 4, 8])
        return Role("loop", tile) if role.outer is None and role.tile and rng.random() < 0.5 else role

    return replace(schedule, roles=tuple((r, shorter(role)) for r, role in schedule.roles))


def _numbers(kernel: Kernel, case: Case) -> list[str]:
    """The ranks whose sizes the kernel has as numbers."""
    free = {r for a in kernel.arguments for r in a.axes}
    return [r for r in case.sizes if r not in free]


def _run(kernel: Kernel, case: Case) -> str:
    try:
        here = kernel.at(case.sizes)
    except ValueError:
        return "elsewhere refused"
    exact = run_cascade(case.cascade, case.data, case.given, case.params)
    if not is_defined(case):
        return "undefined"
    made = {a.name: torch.full(a.shape, float("nan"), dtype=DTYPES[a.dtype]) for a in here.arguments if a.output}
    given = {n: torch.as_tensor(x) for n, x in case.data.items()} | made
    try:
        load(here)([given[a.name] for a in here.arguments])
    except Exception as error:
        raise Fault(f"{type(error).__name__}: {error} at {case.sizes} of\n{case.cascade}\n{kernel.source}") from error
    compare(
        "any size",
        {n: t.numpy() for n, t in made.items()},
        exact,
        budgets(case, exact),
        f"{case.sizes} {kernel.source}",
    )
    return "agreed"


if __name__ == "__main__":
    first, last = (int(a) for a in [*sys.argv[1:], *["0", "400"][len(sys.argv) - 1 :]])
    total, faults = Counter[str](), 0
    np.seterr(all="ignore")
    torch.set_num_threads(1)
    for s in range(first, last):
        try:
            total += run_elsewhere(s)
        except Fault as fault:
            faults += 1
            print(s, str(fault)[:3000], flush=True)
    print(dict(total), faults, "faults")
