"""Why something cannot be had, as data: what broke, apart from the words for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """kind: what losses are counted by. message: the values that broke it."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class RuleError(ValueError):
    """A rule that is broken, and by what; the message is both. rule: without the values, so that losses are counted by
    it."""

    def __init__(self, rule: str, got: str = "") -> None:
        super().__init__(f"{rule}, but {got}" if got else rule)
        self.rule = rule
