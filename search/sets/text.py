"""What tuning a set comes to: a line a point, and the kernels that are kept; as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eintune.search.text.formatting import milliseconds, plural
from eintune.search.text.schedules import schedule_text
from eintune.search.text.tables import text_table

from .set_search import PointResult, SetResult

HEADER = ("", "kept", "of the best", "best peer", "against it")


def set_text(title: str, result: SetResult) -> str:
    """The table of a set, in a terminal."""
    letters = {n: _letter(i) for i, n in enumerate(result.chosen)}
    sizes = [p.problem.sizes for p in result.points]
    varying = [r for r in sizes[0] if len({s[r] for s in sizes}) > 1]
    rows = [(_named(p, varying), *_times(p, letters)) for p in result.points]
    lines = [title, "", text_table(HEADER, rows, right=(1, 2, 4)), ""]
    lines += [f"  {_named(p, varying)}: {p.note}" for p in result.points if p.note and not p.seconds]
    lines += [""] * any(p.note and not p.seconds for p in result.points)
    if (mean := _mean(result)) is not None:
        lines += [f"  geometric mean against the best peer of each point: {mean:.2f}x", ""]
    for n, letter in letters.items():
        lines.append(f"  {letter}  {schedule_text(result.kernels[n].schedule)}")
    kept, timed = plural(len(result.chosen), "kernel"), len(result.kernels)
    points = plural(sum(bool(p.seconds) for p in result.points), "point")
    lines += ["", f"  {kept} of {timed} kept for {points}; stored in {result.path}", ""]
    return "\n".join(lines)


def _letter(n: int) -> str:
    return chr(ord("A") + n) if n < 26 else f"#{n + 1}"


def _named(point: PointResult, varying: Sequence[str]) -> str:
    """A point by the sizes in which it differs from others: the title above has the rest."""
    return " ".join(f"{r}={point.problem.sizes[r]}" for r in varying)


def _times(point: PointResult, letters: dict[int, str]) -> tuple[str, ...]:
    kept = {n: s for n, s in point.seconds.items() if n in letters}
    if not kept:
        return ("-", "-", "-", "-")
    n, seconds = min(kept.items(), key=lambda item: item[1])
    peer = best_peer(point)
    compared = ("-", "-") if peer is None else (f"{peer[0]} {milliseconds(peer[1])}", f"{peer[1] / seconds:.2f}x")
    best = min(point.seconds.values())
    return (f"{milliseconds(seconds)} {letters[n]}", f"{best / seconds:.1%}", *compared)


def best_peer(point: PointResult) -> tuple[str, float] | None:
    """The fastest peer that ran at a point: its name and seconds."""
    ran = ((name, m.seconds) for name, m in point.peers.items() if m.status == "ok" and math.isfinite(m.seconds))
    return min(ran, key=lambda item: item[1], default=None)


def _mean(result: SetResult) -> float | None:
    logs = []
    for point in result.points:
        kept = [s for n, s in point.seconds.items() if n in result.chosen]
        if kept and (peer := best_peer(point)):
            logs.append(math.log(peer[1] / min(kept)))
    return math.exp(sum(logs) / len(logs)) if logs else None


def set_json(title: str, result: SetResult) -> dict[str, Any]:
    """As plain data: all kernels that were timed, which are kept, and what each took at each point."""
    return {
        "title": title,
        "portfolio": result.path.name,
        "kernels": [{"cascade": k.cascade, "schedule": k.schedule.to_json()} for k in result.kernels],
        "kept": list(result.chosen),
        "points": [
            {
                "title": p.title,
                "sizes": dict(p.problem.sizes),
                "seconds": {str(n): s for n, s in p.seconds.items()},
                "peers": {name: m.to_json() for name, m in p.peers.items()},
                "measured": p.measured,
                "note": p.note,
            }
            for p in result.points
        ],
    }
