"""How far a command is, and what it has found so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .formatting import milliseconds


@dataclass
class Standing:
    """How far the work is. done, of: of what `counted` names. left: seconds, as of `since` (`at_most`: the budget's, as
    nothing was measured to tell better). best, predicted: seconds of the fastest so far, and the model's of the same.
    peer: the name and seconds of somebody else's."""

    done: int = 0
    of: int = 0
    counted: str = "measured"
    left: float | None = None
    at_most: bool = False
    since: float = field(default_factory=time.monotonic)
    best: float | None = None
    predicted: float | None = None
    peer: tuple[str, float] | None = None

    @property
    def remaining(self) -> float | None:
        """Seconds that are left now."""
        return None if self.left is None else max(self.left - (time.monotonic() - self.since), 0.0)

    def parts(self) -> list[str]:
        """In few words: how many of how many, the best against the model and the peer, the time left."""
        told = [f"{self.done} of {self.of} {self.counted}"] if self.of else []
        if self.best is not None:
            told.append(f"best {milliseconds(self.best)}")
            told += [f"model {milliseconds(self.predicted)}"] if self.predicted is not None else []
        if self.peer is not None:
            name, seconds = self.peer
            ratio = f" ({seconds / self.best:.2f}x)" if self.best else ""
            told.append(f"{name} {milliseconds(seconds)}{ratio}")
        if (left := self.remaining) is not None:
            told.append(f"{'at most' if self.at_most else 'about'} {left:.0f} s left")
        return told
