"""The solver of integer programs, through PuLP: which one is there, and what it found.

PuLP 3 and 4 tell the outcome in different ways (a status of the model; what `solve` returns), and 3 is the last
that runs on Python 3.11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import pulp

Verdict: TypeAlias = Literal["optimal", "infeasible", "unproven"]
"""The best answer is found, or there is none, or the solver stopped before it knew."""


class ExtractionError(RuntimeError):
    """No solver is there, or it failed."""


PULP_3: Mapping[int, Verdict] = {1: "optimal", -1: "infeasible"}
"""By PuLP 3's status of a solution; others leave it open."""
SOLVERS = ("HiGHS", "COIN_CMD", "PULP_CBC_CMD")
"""PuLP's names, the preferred first: HiGHS, CBC as installed, CBC as older PuLPs bring it."""


HIGHS: Mapping[str, bool] = {"mip_heuristic_run_rens": False}
"""HiGHS's options: programs of some hundred nodes are proven at the root or a few nodes below it, where another within
takes a quarter of the time and finds nothing. (A version that knows no such option goes on without it.)"""
MAX_CONSTRAINTS = 5_000
"""Of one program: the solver looks at no clock within a step, and one of 6,476 took 12 s. (The largest of a definition
that somebody means, a chain of 48 products, has 1,316.)"""


def solver(seconds: float) -> Any:
    """HiGHS, or CBC where HiGHS is missing. Raises ExtractionError where there is neither."""
    for name in SOLVERS:
        if (kind := getattr(pulp, name, None)) is None:
            continue
        # One thread, so that answers do not depend on how threads interleave; and hardly any gap, as answers must
        # come in order.
        more = HIGHS if name == "HiGHS" else {}
        choice = kind(msg=False, threads=1, gapRel=1e-6, timeLimit=max(seconds, 0.1), **more)
        if choice.available():
            return choice
    raise ExtractionError("extraction needs an integer solver: install one of highspy (HiGHS) or CBC for PuLP")


def solve(model: Any, engine: Any) -> Verdict:
    """Run the solver on a model whose variables are bounded; their values are the answer where it is optimal.

    An answer that is only feasible (the time was over) is unproven, and so is that of a program that is too large.
    """
    # Handing a larger program over would make the time limit void, so it counts as one that ran out of time.
    if model.numConstraints() > MAX_CONSTRAINTS:
        return "unproven"
    outcome = model.solve(engine)
    if isinstance(outcome, int):  # PuLP 3: why it stopped; what was found stands in the model
        return PULP_3.get(model.sol_status, "unproven")
    match outcome.status.name:
        case "Optimal":
            return "optimal"
        case "Infeasible":
            return "infeasible"
        case _:
            return "unproven"
