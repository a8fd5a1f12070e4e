"""5,000 hostile texts: a right answer or one line; no traceback, nothing over 10 s, nothing over 2 GiB."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hostile_texts import text_of
from text_uses import SECONDS, Outcome, outcome, watched

from eintune.space.workloads.attention import Attention
from eintune.space.workloads.function_modifiers import ScoreMod

ALL = 5_000
BATCH = 100
IN_CI = 250


def check(seeds: range) -> list[Outcome]:
    found = {seed: outcome(seed, kernels=seed % 4 == 0, forms=seed % 8 == 0) for seed in seeds}
    faults = {seed: (o.step, o.says[:300]) for seed, o in found.items() if o.kind == "fault"}
    assert not faults
    return list(found.values())


def test_hostile_texts_are_answered_or_refused_in_one_line() -> None:
    kinds = Counter(o.kind for o in check(range(IN_CI)))
    assert kinds["right"] > IN_CI // 20 and kinds["refused"] > IN_CI // 4


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(ALL // BATCH))
def test_all_hostile_texts(batch: int) -> None:
    check(range(BATCH * batch, BATCH * (batch + 1)))


def test_a_seed_is_one_text() -> None:
    assert [text_of(seed) for seed in range(50)] == [text_of(seed) for seed in range(50)]


# ---- functions that are traced: no text, and as large as they like


def _deep(score: Any, *_: Any) -> Any:
    for _i in range(3000):
        score = score * 1.5 + 1.0
    return score


def _doubling(score: Any, *_: Any) -> Any:
    for _i in range(40):
        score = score * score
    return score


def _digits(score: Any, *_: Any) -> Any:
    return score + 10**400


def _forever(score: Any, *rest: Any) -> Any:
    return _forever(score, *rest)


REFUSED = {
    _deep: "at most 5000 operations and operands, but this has 6008",
    _doubling: "at most 8000 operations between two reductions",
    _digits: "cannot be traced: OverflowError",
    _forever: "cannot be traced: RecursionError",
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda f: f.__name__)
def test_a_traced_function_has_the_same_limits(function: Callable[..., Any]) -> None:
    with watched(SECONDS), pytest.raises(ValueError, match=REFUSED[function]) as caught:
        Attention((ScoreMod(function),)).cascade()
    assert str(caught.value).isprintable()


if __name__ == "__main__":
    counted: Counter[tuple[str, str]] = Counter()
    slowest = 0.0
    for number in range(*map(int, sys.argv[1:3])):
        one = outcome(number, kernels=number % 4 == 0, forms=number % 8 == 0)
        counted[one.made, one.kind] += 1
        slowest = max(slowest, one.seconds)
        if one.kind == "fault" or one.seconds > 5:
            print(number, one.made, one.kind, one.step, f"{one.seconds:.1f} s", one.says[:400], flush=True)
    print(dict(counted), f"slowest {slowest:.1f} s")
