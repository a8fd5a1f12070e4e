"""Deriving in a process of its own: it needs no device, so it is over when PyTorch has been loaded.

`python -m eintune.search.tune.deriver FD` is the process.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from eintune.host.notices import one_line
from eintune.host.worker import Answer, Child, answer_tasks
from eintune.space.cascade.cascade import Cascade

from .derivations import Derivations, are_kept, derivations


@dataclass(frozen=True)
class Derive:
    """Derive a definition, as `derivations` does without shipped forms. A deriving process answers with its
    `Derivations`."""

    definition: str
    folder: Path
    fresh: bool


PATIENCE = 600.0
"""Seconds that a derivation is waited for: far above its own limits."""


class Deriver:
    """Derives a definition beside whatever its owner does. A context manager: it owns the process.

    folder, fresh: as for `derivations`, which never takes shipped forms here.
    """

    def __init__(self, definition: str, folder: Path, *, fresh: bool = False) -> None:
        self._task = Derive(definition, folder, fresh)
        self._child = Child("eintune.search.tune.deriver")
        self._started = False
        self._made: Derivations | None = None

    def __enter__(self) -> Deriver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.stop()

    def start(self) -> None:
        """Begin, unless that was done; forms that are kept need no process."""
        if not self._started and (self._task.fresh or not are_kept(self._task.definition, self._task.folder)):
            self._child.send(self._task)
            self._started = True

    def result(self) -> Derivations | None:
        """The forms, when they are there; None where it did not start or failed: whoever derives then hears why."""
        if self._made is None and self._child.running:
            outcome = self._child.receive(PATIENCE)
            self._child.stop()
            self._made = outcome.value if outcome.status == "ok" else None
        return self._made


def _answer(task: Derive) -> Answer:
    try:
        made = derivations(Cascade.parse(task.definition), task.folder, fresh=task.fresh, shipped=False)
    except Exception as error:
        return Answer("run-error", message=one_line(error))
    return Answer("ok", made)


if __name__ == "__main__":
    sys.exit(answer_tasks(sys.argv[1:], lambda send: _answer))
