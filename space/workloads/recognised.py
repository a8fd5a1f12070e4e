"""Which of the built-in definitions a stored one is, told by its digest: files keep no more of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from itertools import chain, combinations, islice, product
from typing import Any

from .builtin import WORKLOADS
from .workload import Option, Workload

SIZE = 64
"""Of what must have a size to be posed: no definition depends on it."""
MOST_TRIED = 4096


def recognised(
    workload: str, digest: str, sizes: Mapping[str, int], params: Mapping[str, float], tensors: Collection[str]
) -> dict[str, Any] | None:
    """The options, but for sizes, under which a workload's definition has this digest (sha256 of its text); None for
    a definition of the user's own, and for one with functions of theirs.

    sizes, params, tensors: those of the problem, by name. What they show of an option need not be tried.
    """
    row = WORKLOADS.get(workload)
    if row is None:
        return None
    needed = {o.name: SIZE for o in row.options if o.default is None}
    shown = {**sizes, **params, **dict.fromkeys(tensors)}
    plain = _names(row, needed)
    if plain is None:
        return None
    found = {o: _values(row, o, needed, plain, shown) for o in row.options if o.name not in needed}
    owners = Counter(chain.from_iterable(set().union(*values.values()) for values in found.values()))
    choices = []
    for option, values in found.items():
        # a name that no other option brings says that this one was given
        given = any(owners[name] == 1 for names in values.values() for name in names)
        choices.append([(option, v) for v in (*values, *(() if given else (None,)))])
    for chosen in islice(product(*choices), MOST_TRIED):
        options = {o.name: v for o, v in chosen if v is not None}
        if _digest(row, needed | options) == digest:
            return {o.name: v for o, v in chosen if v is not None and o.kind != "size"}
    return None


def _values(
    row: Workload, option: Option, needed: Mapping[str, int], plain: Collection[str], shown: Mapping[str, Any]
) -> dict[Any, frozenset[str]]:
    """What an option may be, and the names that it brings into the problem: those that are not there rule it out."""
    found: dict[Any, frozenset[str]] = {}
    for value in _drawn(option):
        names = _names(row, {**needed, option.name: value})
        more = frozenset() if names is None else frozenset(names) - frozenset(plain)
        if not more <= set(shown) or (option.kind in ("size", "count", "number") and not more):
            continue
        # a number that stands in the problem under a name of its own is that number
        number = shown[next(iter(more))] if option.kind in ("count", "number") else None
        if names is not None or option.kind in ("flag", "choice"):  # what says nothing alone may, beside another option
            found[value if number is None else number] = more
    return found


def _drawn(option: Option) -> Iterator[Any]:
    """Values of an option that may make different definitions."""
    match option.kind:
        case "flag":
            yield True
        case "choice":
            yield from option.choices
        case "text":  # some of the axes that it is over without a value
            axes = option.bare
            yield from ("".join(some) for n in range(len(axes), 0, -1) for some in combinations(axes, n))
        case "size" | "count":
            yield 1
        case "number":
            yield 1.0
        case "function":
            return


def _names(row: Workload, given: Mapping[str, Any]) -> set[str] | None:
    """The names in a problem: of ranks, tensors and scalars; None where it cannot be posed."""
    try:
        problem = row.posed(given, "fp32").problem
    except ValueError:
        return None
    return set(chain(problem.sizes, problem.dtypes, problem.params))


def _digest(row: Workload, given: Mapping[str, Any]) -> str:
    try:
        return sha256(row.posed(given, "fp32").problem.cascade.encode()).hexdigest()
    except ValueError:
        return ""
