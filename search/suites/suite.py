"""Suites: benchmark cases that belong in one table, as data. A case is stated by the same options as for `tune`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import msgspec
from msgspec import Meta

from eintune.host.data import BadData, Text, from_toml
from eintune.host.files import read_whole
from eintune.search.bench.case import State
from eintune.search.options.command import Parser, Usage
from eintune.search.options.problem import add_problem, each_of, posed_of
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.workload import Posed

MAX_BYTES = 2**20
KEYS = ("title", "peers", "against", "copy", "states", "cases")


@dataclass(frozen=True)
class Suite:
    """Cases that are compared with the same peers.

    name: of its files. peers: by name. against: those whose ratio has a column of its own, the better of them.
    copy: whether a copy of as many bytes is timed beside. states: () for the device's usual. cases: the options of
    each, as one writes them.
    """

    name: str
    title: str
    cases: tuple[str, ...]
    peers: tuple[str, ...]
    against: tuple[str, ...] = ()
    copy: bool = False
    states: tuple[State, ...] = ()


@dataclass(frozen=True)
class Stated:
    """A case as stated: its options in full, a short name, a title, the problem, and what attention it is, where it
    is one."""

    text: str
    name: str
    title: str
    problem: Problem
    about: Any


def built_in() -> tuple[str, ...]:
    """The names of the suites that come with the package."""
    folder = resources.files(__package__)
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_suite(named: str, option: str = "--suite") -> Suite:
    """A suite by name, or from a TOML file. Raises Usage."""
    if named in built_in():
        raw = (resources.files(__package__) / f"{named}.toml").read_bytes()
        return parse_suite(named, raw)
    path = Path(named)
    if not path.exists():
        raise Usage(f"{option} must be a TOML file or one of {', '.join(built_in())}, but got {named!r}")
    return parse_suite(path.stem, read_whole(path, MAX_BYTES), f"{path}: ")


Texts: TypeAlias = Annotated[list[Text], Meta(max_length=256)]


class _SuiteFile(msgspec.Struct):
    title: Text | None = None
    peers: Texts = msgspec.field(default_factory=list)
    against: Texts = msgspec.field(default_factory=list)
    copy: bool = False
    states: list[State] = msgspec.field(default_factory=list)
    cases: Texts = msgspec.field(default_factory=list)


def parse_suite(name: str, raw: bytes, where: str = "") -> Suite:
    """Raises Usage with the rule that the file breaks."""
    try:
        for key in from_toml(raw, dict[str, Any]):
            if key not in KEYS:
                raise Usage(f"{where}a suite has the keys {', '.join(KEYS)}, but got {key!r}")
        file = from_toml(raw, _SuiteFile)
    except BadData as error:
        raise Usage(f"{where}not a suite: {error}") from None
    if not file.cases:
        raise Usage(f"{where}`cases` must be a list of at least one case")
    states = tuple(s for s in get_args(State) if s in file.states)
    title = name if file.title is None else file.title
    return Suite(name, title, tuple(file.cases), tuple(file.peers), tuple(file.against), file.copy, states)


def stated(texts: Sequence[str], dtype: str) -> tuple[Stated, ...]:
    """The cases that texts state; each has a name of its own. Raises Usage, naming the case."""
    found: dict[str, Stated] = {}
    for text in texts:
        case = _stated(text, dtype)
        if (other := found.setdefault(case.name, case)) is not case:
            raise Usage(f"cases must differ, but {text!r} and {other.text!r} are both {case.name}")
    return tuple(found.values())


def posed_cases(texts: Sequence[str], dtype: str) -> Iterator[Posed]:
    """The problems that texts state, where a size may be a list or a range. Raises Usage, naming the case."""
    for text in texts:
        yield from _posed(text, dtype, several=True)


def _stated(text: str, dtype: str) -> Stated:
    (posed,) = _posed(text, dtype)
    return Stated(text, posed.folder, posed.title, posed.problem, posed.about)


def _posed(text: str, dtype: str, *, several: bool = False) -> list[Posed]:
    parser = Parser(prog="eintune tune", add_help=False)
    add_problem(parser, several=several)
    try:
        return [posed_of(one, dtype) for one in each_of(parser.parse_args(shlex.split(text)))]
    except (Usage, ValueError) as error:
        raise Usage(f"case {text!r}: {error}") from None
