"""The derived cascades of the built-in definitions, shipped as text: what a program uses that never tuned.

One file a definition in `derived/`: sections that start with `== ` and a title; the first is the definition,
the others its forms, fewest passes first. Reading them needs no e-graph; `write_derived` derives them again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from eintune.host.files import write_whole
from eintune.host.notices import say_once
from eintune.space.cascade.cascade import Cascade

if TYPE_CHECKING:
    from eintune.space.egraph.graph import Limits

FOLDER = Path(__file__).parent / "derived"
_MARK = "== "


def derived_texts(definition: str) -> tuple[str, ...]:
    """The forms of a definition (given as text), fewest passes first; empty if it is none of the shipped."""
    return _shipped().get(_canonical_text(definition), ())


def _canonical_text(text: str) -> str:
    return str(Cascade.parse(text))


@functools.cache
def _shipped() -> Mapping[str, tuple[str, ...]]:
    found = {}
    for path in sorted(FOLDER.glob("*.edge")):
        definition, *forms = read_sections(path.read_text(encoding="utf-8"))
        found[_canonical_text(definition)] = tuple(forms)
    return found


def read_sections(text: str) -> list[str]:
    """The bodies of a file's sections, in order. Raises ValueError for a file without any."""
    bodies = [section.partition("\n")[2].strip() for section in ("\n" + text).split("\n" + _MARK)[1:]]
    if not bodies:
        raise ValueError(f"a file of derived cascades must have sections that start with {_MARK!r}, but has none")
    return bodies


def sections(definition: Cascade, limits: Limits | None = None) -> str:
    """The text of the file for one definition: derives it (seconds)."""
    from eintune.space.derivation.derive import derive

    parts = [("definition", str(definition))]
    found = derive(definition, limits=limits)
    if found.failed:
        say_once(f"eintune: forms that fail their check against the definition are left out: {found.failed}")
    parts += [(f"{d.description}; {d.signature}", str(d.cascade)) for d in found.cascades]
    return "\n".join(f"{_MARK}{title}\n{body.strip()}\n" for title, body in parts)


def write_derived(folder: Path = FOLDER) -> list[Path]:
    """Derive the shipped definitions again and write their files; returns the paths."""
    from eintune.space.workloads.builtin import SHIPPED

    paths = []
    for name, definition in SHIPPED.items():
        path = folder / f"{name}.edge"
        write_whole(path, sections(definition).encode())
        paths.append(path)
    return paths


if __name__ == "__main__":
    for written in write_derived():
        print(written)
