"""Who proposes the next point to measure: one small protocol, and the strategies that follow it.

Only points that survived pruning exist, so a proposal is never illegal: an Optuna sampler's suggestion is
projected to the nearest point that is still open.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

Knobs = Mapping[str, str]
"""A point's place in the space: one text per knob (a cascade's signature, a rank's role, warps, …)."""
Space = dict[str, BaseDistribution]


class Point(Protocol):
    """What a study searches over. `key` identifies the generated source, `group` the derived cascade, `shape` the
    tiles."""

    @property
    def key(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def shape(self) -> str: ...
    @property
    def knobs(self) -> Knobs: ...


class Strategy(Protocol):
    """Chooses one of the open points; `ranked` is best-predicted first and never empty."""

    def propose(self, study: Study, trial: FrozenTrial, space: Space, ranked: Sequence[Point]) -> Point: ...


class ModelOrder:
    """The cost model's ranking, nothing else."""

    def propose(self, study: Study, trial: FrozenTrial, space: Space, ranked: Sequence[Point]) -> Point:
        return ranked[0]


class RandomOrder:
    """Uniform choice: what every other strategy must beat."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def propose(self, study: Study, trial: FrozenTrial, space: Space, ranked: Sequence[Point]) -> Point:
        return self._random.choice(ranked)


class Nearest:
    """An Optuna sampler over the knobs, its suggestion projected to the nearest open point."""

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def propose(self, study: Study, trial: FrozenTrial, space: Space, ranked: Sequence[Point]) -> Point:
        # {} while the sampler has too few results: the best predicted is the nearest to nothing
        return nearest(self._sampler.sample_relative(study, trial, space), ranked)


class Alternate:
    """By turns the model's best and another strategy's choice: the model finds the region, the other repairs
    what the model is wrong about."""

    def __init__(self, other: Strategy) -> None:
        self._turns: tuple[Strategy, Strategy] = (ModelOrder(), other)

    def propose(self, study: Study, trial: FrozenTrial, space: Space, ranked: Sequence[Point]) -> Point:
        return self._turns[trial.number % 2].propose(study, trial, space, ranked)


def _tpe(seed: int) -> Strategy:
    """Tree-structured Parzen estimator (Bergstra et al., 2011; Watanabe, 2023). The model's ranking is its
    start-up phase, so it starts early."""
    return Nearest(TPESampler(n_startup_trials=4, constant_liar=True, seed=seed))


STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "mixed": lambda seed: Alternate(_tpe(seed)),
    "model": lambda seed: ModelOrder(),
    "tpe": _tpe,
    "random": RandomOrder,
}


def strategy(name: str, seed: int = 0) -> Strategy:
    """The strategy called `name`. Raises ValueError naming the valid ones."""
    if name not in STRATEGIES:
        raise ValueError(f"`strategy` must be one of {sorted(STRATEGIES)}, but got {name!r}")
    return STRATEGIES[name](seed)


class OverPoints(BaseSampler):
    """Optuna's view of a strategy: every trial that it samples is an open point. `ranked` is set before each `ask`;
    `chosen`, where it is set, is that trial's point whatever the strategy says."""

    def __init__(self, chosen: Strategy, space: Space) -> None:
        self._strategy = chosen
        self._space = space
        self.ranked: Sequence[Point] = ()
        self.chosen: Point | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        return self._space

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        point = self.chosen or self._strategy.propose(study, trial, search_space, self.ranked)
        return dict(point.knobs)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise RuntimeError(f"every knob is sampled at once, but {param_name!r} was asked for alone")


def distributions(points: Sequence[Point]) -> Space:
    """One categorical distribution a knob, over the values that the points have."""
    values: dict[str, set[str]] = {}
    for point in points:
        for knob, value in point.knobs.items():
            values.setdefault(knob, set()).add(value)
    return {knob: CategoricalDistribution(sorted(choices)) for knob, choices in sorted(values.items())}


def nearest(wanted: Mapping[str, Any], points: Sequence[Point]) -> Point:
    """The point that differs in the fewest knobs; of equals the first, that is the best predicted."""
    return min(points, key=lambda p: sum(p.knobs.get(knob) != value for knob, value in wanted.items()))
