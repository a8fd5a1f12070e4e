"""Several kernels for any size on one machine: what each should take at sizes that are given later, at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eintune.costmodel.counts.work import CountedProgram
from eintune.costmodel.machines.machine import Machine
from eintune.space.ir.expr import Rank

from .calibration import Calibration
from .placed_kernel import PlacedKernel
from .terms import joined_terms


class Prices:
    """Programs on a machine. All that sizes do not change is found once; `estimate_works` has the details of an answer.

    calibration: the machine's by default. Raises MachineError where the machine has no unit for a product's dtype.
    """

    def __init__(
        self, programs: Sequence[CountedProgram], machine: Machine, calibration: Calibration | None = None
    ) -> None:
        self._programs, self._machine = programs, machine
        self._calibration = calibration or Calibration.of(machine)
        self.placed = [
            [PlacedKernel(k.blocks, k.needs, k.options, machine) for k in program.kernels] for program in programs
        ]
        """The launches of each program."""

    def at(self, sizes: Mapping[Rank, int]) -> list[float]:
        """Predicted seconds of each program at some sizes. Raises KeyError for a size that is missing."""
        works = [program.at(sizes) for program in self._programs]
        seconds: list[float] = joined_terms(works, self.placed, self._machine).seconds(self._calibration).tolist()
        return seconds
