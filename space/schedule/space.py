"""Which schedules a cascade may have at one size: the roles its ranks may take, and the knobs.

Roles follow from what the graph does with each rank (`rank_uses`), the rest from the `knobs`; nothing here knows a
workload or a machine.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from eintune.space.analysis.filters import equalities, ranks_of_numbers
from eintune.space.analysis.rank_uses import rank_uses
from eintune.space.analysis.roots import roots_of
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.ir.approximations import is_approximable
from eintune.space.plan.descriptor_blocks import reads_of

from .choices import Choice, Point, Setting, SpaceFacts
from .knobs import KNOBS
from .legal_points import legal_points
from .schedule import Schedule
from .targets import TARGETS


@dataclass(frozen=True)
class Space(SpaceFacts):
    """The schedules of one cascade at one size for one emitter."""

    @property
    def key(self) -> Hashable:
        """All that it is made of: spaces that agree in it have the same points."""
        uses = self.uses
        ranks = (tuple(uses.kinds.items()), tuple(uses.halves.items()), tuple(uses.packs_with.items()))
        flags = (uses.filtered, uses.coupled, uses.products, self.approximable, self.data_dependent_bounds)
        return ranks, flags, tuple(self.sizes.items()), self.target, self.reads

    def choices(self) -> list[Choice]:
        return [c for knob in KNOBS for c in knob.choices(self)]

    def is_legal(self, point: Point) -> bool:
        return all(knob.is_legal(self, point) for knob in KNOBS)

    def points(self) -> Iterator[dict[str, Setting]]:
        """Every legal combination of the settings worth trying."""
        yield from legal_points(self, self.choices())

    def default(self) -> dict[str, Setting]:
        """The legal point that is nearest to every knob's own default."""
        choices = self.choices()
        wanted = {c.name: c.default for c in choices}
        if self.is_legal(wanted):
            return wanted
        legal = list(self.points())
        if not legal:
            raise ValueError(f"no schedule for the sizes {dict(self.sizes)} (emitter {self.target.name})")
        return min(legal, key=lambda p: sum(c.distance(p[c.name]) for c in choices))

    def neighbours(self, point: Point) -> Iterator[dict[str, Setting]]:
        """The legal points one step of one knob away."""
        for c in self.choices():
            for setting in c.steps(point[c.name]):
                if self.is_legal(moved := {**point, c.name: setting}):
                    yield moved

    def schedule(self, point: Point) -> Schedule:
        return Schedule(
            emitter=self.target.name,
            roles=tuple((r, self.role(r, point)) for r in self.uses.kinds),
            warps=int(point["warps"]),
            stages=int(point["stages"]),
            filters=str(point["filters"]),
            order=str(point["order"]),
            loads=str(point["loads"]),
            functions=str(point["functions"]),
            pipelined=str(point["pipelined"]),
            bounds=str(point["bounds"]),
            warp_specialisation=str(point["warp_specialisation"]),
            rescaling=str(point["rescaling"]),
        )


def space_of(cascade: Cascade, problem: Problem, emitter: str) -> Space:
    """The schedules of a cascade at a problem's sizes. Raises ValueError for an emitter that has no target and for a
    rank without a size, IllegalPlan for a cascade that cannot be laid out."""
    if emitter not in TARGETS:
        raise ValueError(f"`emitter` must be one of {sorted(TARGETS)}, but got {emitter!r}")
    target = TARGETS[emitter]
    roots = roots_of(cascade)
    ranks = roots.ranks()
    missing = [r for r in ranks if problem.sizes.get(r, 0) < 1]
    if missing:
        raise ValueError(f"every rank has a size of at least 1, but {missing} have none ({problem.sizes})")
    uses = rank_uses(roots.expressions, roots.halves, ranks, problem.sizes, target.longest_axis)
    if not uses.products and target.plain:
        target = target.plain
    reads = () if roots.halves else reads_of(roots.expressions, problem.dtypes)
    sizes = {r: problem.sizes[r] for r in ranks}
    # A number for each row of a tile is no loop's bound before it is reduced.
    by_row = any(uses.kinds[r] == "row" for r in ranks_of_numbers(roots.expressions))
    data_dependent = by_row or bool(equalities(roots.expressions))
    return Space(uses, sizes, target, reads, is_approximable(roots.expressions, problem.dtypes), data_dependent)


def schedules(cascade: Cascade, problem: Problem, emitter: str) -> list[Schedule]:
    """The legal schedules of a cascade at one size, without duplicates. Raises as `space_of`."""
    space = space_of(cascade, problem, emitter)
    return list(dict.fromkeys(space.schedule(p) for p in space.points()))


def default_schedule(cascade: Cascade, problem: Problem, emitter: str) -> Schedule:
    """The legal schedule that is nearest to all knobs' defaults. Raises ValueError where none is legal, and as
    `space_of`."""
    space = space_of(cascade, problem, emitter)
    return space.schedule(space.default())
