"""Which laws led to a derived cascade: those without which it is not found.

A proof path names one way of many. Leaving a law out and deriving again says what no other way replaces.
"""

from __future__ import annotations

from collections.abc import Callable

from .derive import Derivation, derive


def needed_laws(derivation: Derivation, log: Callable[[str], None] = lambda law: None) -> tuple[tuple[str, ...], ...]:
    """For each cascade of a derivation, in its order: the laws without any one of which it is not found.

    Derives once more for each law that matched; `said` is told its name before. Raises as `derive` does.
    """
    needed: list[list[str]] = [[] for _ in derivation.cascades]
    for law, matches in derivation.statistics.matches.items():
        if not matches:
            continue
        log(law)
        rest = derive(derivation.definition, without=frozenset({law}))
        found = {(d.digest, d.signature) for d in rest.cascades}
        for laws, d in zip(needed, derivation.cascades, strict=True):
            if (d.digest, d.signature) not in found:
                laws.append(law)
    return tuple(tuple(sorted(laws)) for laws in needed)
