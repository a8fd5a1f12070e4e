"""Why something cannot be had, as data: what broke, apart from the words for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """A reason as data. kind: the rule that is broken, by which refusals are counted. message: the values that broke
    it, in words."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class RuleError(ValueError):
    """A rule that is broken, and by what; the message is both. rule: the rule alone, without the values, by which
    refusals are counted."""

    def __init__(self, rule: str, got: str = "") -> None:
        super().__init__(f"{rule}, but {got}" if got else rule)
        self.rule = rule
