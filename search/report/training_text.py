"""What a tuned training step comes to: each kernel of it, the forward and the backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eintune.kernels.store.cache import Entry
from eintune.search.text.formatting import milliseconds
from eintune.search.text.tables import text_table

Named = tuple[str, Entry | None]
"""What a kernel gives, and what is stored of it."""


def training_text(title: str, entries: Sequence[Named]) -> str:
    """A table with a row a kernel. The first is the forward's."""
    rows = [
        [name, str(e.record.statistics.get("label", "")), milliseconds(e.record.seconds)] if e else [name, "none", ""]
        for name, e in entries
    ]
    lines = [f"{title}, a training step", "", text_table(["kernel", "form", "time"], rows, right=(2,)), ""]
    seconds = [e.record.seconds if e else None for _, e in entries]
    forward, backward = seconds[:1], seconds[1:]
    for name, times in (("forward", forward), ("backward", backward)):
        known = [s for s in times if s is not None]
        lines.append(f"{name:9} {milliseconds(sum(known)) if len(known) == len(times) else 'not all of it is stored'}")
    return "\n".join(lines)


def training_json(entries: Sequence[Named]) -> dict[str, Any]:
    """The same as data."""
    return {
        "kernels": [
            {"gives": name, "key": e.key.to_json(), "record": e.record.to_json(), "path": str(e.path)}
            if e
            else {"gives": name}
            for name, e in entries
        ]
    }
