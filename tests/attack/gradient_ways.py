"""The gradient of one drawn program: against finite differences, and in stages against itself, in float64.

Along one random direction: what the gradient says the results change by, and what they do. Where the results jump or
bend within a step, steps of different lengths disagree and say nothing.
"""

from __future__ import annotations

import itertools

import numpy as np
from drawn_cascades import Case
from four_ways import Values, is_defined

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.run import infer_sizes, run_cascade
from eintune.space.gradients.gradient import Gradient, gradient
from eintune.space.gradients.training import training
from eintune.space.ir.einsum import CascadeError
from eintune.space.ir.expr import Rank

STEPS = (1e-4, 3e-5, 1e-5, 1e-6)
NEAR = 1e-4
SAME = 1e-7


def gradient_verdict(case: Case) -> str:
    """ "agreed", "refused", "undefined" (as of `four_ways`), "none" (nothing to differentiate), "bent", or a fault."""
    c = case.cascade
    kinds = [t.kind for t in (*c.outputs.values(), *c.inputs.values())]
    if "float" not in kinds[: len(c.outputs)] or "float" not in kinds[len(c.outputs) :]:
        return "none"
    try:
        exact = run_cascade(c, case.data, case.given, case.params)
        g, parts = gradient(c), training(c)
    except (CascadeError, ValueError, IndexError):
        return "refused"
    if not is_defined(case):
        return "undefined"
    sizes = _sizes(case, [g.cascade, parts.forward, *parts.stages])
    rng = np.random.default_rng(case.seed)
    cotangents = {
        k: np.where(np.isfinite(exact[n]), rng.normal(size=exact[n].shape), 0) for n, k in g.cotangents.items()
    }
    given = case.data | cotangents
    made = _run(g.cascade, given, sizes, case)
    for cascade in (parts.forward, *parts.stages):
        given = given | _run(cascade, given, sizes, case)
    for name, whole in ((n, made[n]) for n in parts.gradients.values()):
        off = np.abs(whole - given[name]).max(initial=0.0)
        if not off <= SAME * max(1.0, np.abs(whole).max(initial=0.0)):
            return f"in stages {name} is off by {off:.3g}"
    return _beside_differences(case, g, made, cotangents, sizes, rng)


def _beside_differences(
    case: Case, g: Gradient, made: Values, cotangents: Values, sizes: dict[Rank, int], rng: np.random.Generator
) -> str:
    way = {n: np.where(np.isfinite(case.data[n]), rng.normal(size=case.data[n].shape), 0) for n in g.gradients}
    changes = [made[g.gradients[n]] * way[n] for n in way]
    says = float(sum(a.sum() for a in changes))

    def value(h: float) -> float:
        data = case.data | {n: np.where(d != 0, case.data[n] + h * d, case.data[n]) for n, d in way.items()}
        results = _run(case.cascade, data, sizes, case)
        return sum(
            float((np.where(np.isfinite(results[n]), results[n], 0) * cotangents[k]).sum())
            for n, k in g.cotangents.items()
        )

    found = [(value(h) - value(-h)) / (2 * h) for h in STEPS]
    allowed = NEAR * max(1.0, abs(says), *(float(np.abs(a).sum()) for a in changes))
    if any(abs(says - x) <= allowed for x in found):
        return "agreed"
    # what changes by less than a large result's last digit cannot be seen
    unseen = abs(value(0.0)) * 2.0**-52 / STEPS[0] > allowed
    if unseen or max(abs(a - b) for a, b in itertools.pairwise(found)) > allowed:
        return "bent"
    return f"the gradient says {says:.6g}, differences {found[1]:.6g}"


def _run(cascade: Cascade, data: Values, sizes: dict[Rank, int], case: Case) -> dict[str, np.ndarray]:
    own = {r for t in cascade.inputs.values() for r in t.ranks}
    given = {r: n for r, n in sizes.items() if r not in own}
    made = run_cascade(cascade, {n: data[n] for n in cascade.inputs}, given, case.params)
    return {n: np.asarray(a, np.float64) for n, a in made.items()}


def _sizes(case: Case, cascades: list[Cascade]) -> dict[Rank, int]:
    """Of ranks that only these have, too: each is another name for one of its letter."""
    shapes = {n: a.shape for n, a in case.data.items()}
    sizes = case.sizes | infer_sizes(case.cascade, shapes, case.given)
    for r in (r for c in cascades for r in c.ranks() if r not in sizes):
        sizes[r] = next(n for known, n in sizes.items() if known[0] == r[0])
    return sizes
