"""How long the programs of one kernel are beside each other, and in what order they start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from eintune.space.ir.expr import Rank

from .bound_code import Ints, PerProgram
from .trips import SAMPLED_PROGRAMS, Floats, Runs, TripCounts, sample_from

PROFILE_BINS = 64
PROFILE_SAMPLES = 4096


class ProgramLengths:
    """Relative lengths (mean 1) of a kernel's programs, by what trip counts say. Two are equal if their profiles are.

    efforts: of the root block and of one iteration of each path (`Traffic.effort`). runs: of the paths, over the whole
    grid. counts: tiles of the grid's ranks, fastest varying first. programs: of the grid. reversible: the rank that
    runs backwards where programs start in reverse, if any does. longest: the longest program over the mean.
    """

    def __init__(
        self,
        trips: TripCounts,
        sizes: Mapping[Rank, int],
        efforts: Sequence[float],
        runs: Sequence[Runs],
        counts: Mapping[Rank, int],
        programs: int,
        reversible: Rank | None,
    ) -> None:
        self.trips, self.efforts, self.runs = trips, efforts, runs
        self._sizes, self._counts, self._programs, self._reversible = sizes, counts, programs, reversible
        self._endings: dict[tuple[bool, int], float] = {}
        self.longest = 1.0
        if trips.uneven:
            self._whole = self._in_loops(runs)
            self._mean = sum([e * r.mean for e, r in zip(efforts[1:], runs, strict=True)], efforts[0]) or 1.0
            self.longest = float(np.maximum.reduce(self._whole) + efforts[0]) / self._mean

    def _in_loops(self, runs: Sequence[Runs]) -> PerProgram:
        """Lengths in the efforts' unit, of the programs that runs are of, without the root block."""
        first, *others = [effort * r.iterations for effort, r in zip(self.efforts[1:], runs, strict=True)]
        for x in others:
            first = first + x
        return first

    def profile(self, reverse: bool) -> tuple[float, ...]:
        """Of the longest program in each of some even bins of the order in which programs start. reverse: the slowest
        tiled grid rank runs backwards."""
        return tuple(self._last(reverse, self._bins).tolist())

    def ending(self, reverse: bool, running: float) -> float:
        """The mean over the last bins of the profile, those of the last `running` programs."""
        bins = max(1, math.ceil(min(1.0, running / self._programs) * self._bins))
        key = reverse, bins
        if key not in self._endings:
            last = self._last(reverse, bins)
            self._endings[key] = float(np.add.reduce(last)) / len(last)
        return self._endings[key]

    @property
    def _bins(self) -> int:
        return PROFILE_BINS if self.trips.uneven and self._programs >= PROFILE_BINS else 1

    def _last(self, reverse: bool, bins: int) -> Floats:
        """The last bins of the profile: only those programs are looked at."""
        if not self.trips.uneven:
            return np.ones(1)
        each, larger = divmod(min(self._programs, PROFILE_SAMPLES), self._bins)  # the first bins have one more
        starts = [i * each + min(i, larger) for i in range(self._bins - bins, self._bins)]
        index = self.launch_order(reverse, PROFILE_SAMPLES, starts[0])
        if prod([self._counts[r] for r in self.trips.uneven]) > SAMPLED_PROGRAMS:
            lengths = self._in_loops(self.trips.at(self._sizes, index))
        else:  # each different program is among those of the whole grid
            lengths = self._whole[self._among_all(index)]
        longest: Floats = np.maximum.reduceat(lengths, [s - starts[0] for s in starts])
        return (longest + self.efforts[0]) / self._mean

    def _among_all(self, index: Mapping[Rank, Ints]) -> Ints:
        """Places in `TripCounts.whole_grid` of programs with these tile indices."""
        first, *others = self.trips.uneven
        place, before = index[first], self._counts[first]
        for r in others:
            place = place + index[r] * before
            before *= self._counts[r]
        return place

    def launch_order(self, reverse: bool, samples: int, start: int = 0) -> dict[Rank, Ints]:
        """Tile indices by uneven rank of an even sample of programs, in the order in which they start (grid ranks
        fastest first), without the first `start` of them."""
        flat = sample_from(start, self._programs, samples)
        return dict(self._indices(flat, reverse))

    def _indices(self, flat: Ints, reverse: bool) -> Iterator[tuple[Rank, Ints]]:
        before = 1
        for rank, count in self._counts.items():
            if rank in self.trips.uneven:
                index = (flat if before == 1 else flat // before) % count
                # As printed: the slowest tiled rank counts down, so that under a causal mask the longest rows start
                # first.
                yield rank, count - 1 - index if reverse and rank == self._reversible else index
            before *= count

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProgramLengths):
            return NotImplemented
        return all(self.profile(reverse) == other.profile(reverse) for reverse in (False, True))

    def __hash__(self) -> int:
        return hash(self.profile(False))
