"""What the benchmark prints on stdout: correctness first, then times and ratios, neat within 100 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence

from eintune.search.text import tables
from eintune.search.text.formatting import against, milliseconds
from eintune.search.text.tables import text_table

from .case import STATES, Row, State, best, reference_winner, verdict
from .sweep import Result

HEADING = "VERIFYING CORRECTNESS"
WIDTH = 96
NAMES = 50
"""Characters of a variant's name before it is wrapped."""
COLUMN = 9
MESSAGE = 240
UNSTEADY = "~"
SPREAD = 1.25
"""A time is marked where its 80th percentile is more than this times its 20th."""


def heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}"


# ---- correctness


def correctness_text(title: str, rows: Sequence[Row]) -> str:
    """Every variant against float64 in one case; a variant is listed once, with the worst of its states."""
    worst: dict[str, Row] = {}
    for row in rows:
        seen = worst.get(row.variant)
        if seen is None or seen.measurement.status == "ok":
            worst[row.variant] = row
    table = text_table(
        ["variant", "rms error", "budget", "max error", ""],
        [
            [r.variant, _error(m.rms_error), _error(m.budget), _error(m.max_error), verdict(r)]
            for r in worst.values()
            for m in (r.measurement,)
        ],
        right=(1, 2, 3),
        widest={0: NAMES},
    )
    whys = [_why(r) for r in worst.values() if r.measurement.status != "ok"]
    return "\n".join([title, table, *whys])


def _error(value: float) -> str:
    return f"{value:.2e}" if math.isfinite(value) else "-"


def _why(row: Row) -> str:
    m = row.measurement
    return wrapped(f"  {row.variant}: ", f"{m.status}: {m.message}")


def wrapped(head: str, text: str) -> str:
    """A head and a text that is cut at MESSAGE characters, neat within WIDTH columns."""
    return "\n".join(tables.wrapped(textwrap.shorten(text, MESSAGE, placeholder=" …"), head, indent=4, most=WIDTH))


# ---- times


def times_text(result: Result) -> str:
    """Times and ratios of every state, the peers that are not here, and what it comes to."""
    on = f"on {result.machine['title']}; {_how(result)}"
    parts = [heading("TIMES"), result.setting.title, *tables.wrapped(on, most=tables.UNBOUNDED), ""]
    for state in result.options.states:
        parts += [_state_text(result, state), ""]
    parts += _absent(result)
    parts += _winners(result)
    parts += _shared(result)
    return "\n".join(parts).rstrip()


def _how(result: Result) -> str:
    cold = "a cold second-level cache for each launch, " if result.setting.device == "cuda" else ""
    return f"median of at most {result.options.iters} samples, {cold}a new order each round"


def _state_text(result: Result, state: State) -> str:
    rows = result.at(state)
    names = _order(rows)

    def against_best(row: Row, at: Sequence[Row]) -> str:
        return _ratio(best(at, ours=False), row)

    def against_winner(row: Row, at: Sequence[Row]) -> str:
        return _ratio(reference_winner(at), row)

    title = "" if result.options.states == ("interleaved",) else f", {state} ({STATES[state]})"
    spread = f" ({UNSTEADY}: varied by more than {SPREAD - 1:.0%})" if any(map(_unsteady, rows)) else ""
    return "\n\n".join(
        [
            _table(f"milliseconds{title}{spread}", result, state, names, lambda row, at: _milliseconds(row)),
            _table(f"times as fast as the best peer{title}", result, state, names, against_best),
            _table(f"times as fast as our winner{title}", result, state, names, against_winner),
            _conclusion(result, state),
        ]
    )


def _table(
    title: str, result: Result, state: State, names: Sequence[str], cell: Callable[[Row, Sequence[Row]], str]
) -> str:
    lengths = result.setting.lengths
    wide = max(NAMES // 2, min(NAMES, WIDTH - COLUMN * len(lengths)))
    at = {length: result.at(state, length) for length in lengths}
    lines = []
    for name in names:
        there = {length: next((r for r in at[length] if r.variant == name), None) for length in lengths}
        lines.append([name, *(cell(row, at[length]) if row else "" for length, row in there.items())])
    table = text_table(["variant", *map(str, lengths)], lines, right=range(1, len(lengths) + 1), widest={0: wide})
    return f"{title}\n{table}"


def _order(rows: Sequence[Row]) -> list[str]:
    """Ours first, then the peers, the fastest at the greatest length first."""
    last = max(r.length for r in rows)

    def key(name: str) -> tuple[bool, float]:
        mine = [r for r in rows if r.variant == name]
        seconds = next((r.seconds for r in mine if r.length == last), math.nan)
        return not mine[0].ours, seconds if math.isfinite(seconds) else math.inf

    return sorted(dict.fromkeys(r.variant for r in rows), key=key)


def _milliseconds(row: Row) -> str:
    ms = row.seconds * 1e3
    if not math.isfinite(ms):
        return "-" if verdict(row) == "cannot run" else verdict(row)
    text = f"{ms:.0f}" if ms >= 1000 else f"{ms:.4g}"
    return f"{UNSTEADY}{text}" if _unsteady(row) else text


def _unsteady(row: Row) -> bool:
    return row.measurement.high > SPREAD * row.measurement.low


def _ratio(standard: Row | None, row: Row) -> str:
    if standard is None or not math.isfinite(row.seconds):
        return "-"
    return f"{standard.seconds / row.seconds:.2f}x"


def _conclusion(result: Result, state: State) -> str:
    """The winner against the best peer, at each length and in the geometric mean."""
    lines, logs = [], []
    for length in result.setting.lengths:
        at = result.at(state, length)
        mine, peer = reference_winner(at), best(at, ours=False)
        if mine is None:
            lines.append(f"  {length}: none of ours ran")
            continue
        text = f"  {length}: {mine.variant}, {milliseconds(mine.seconds)}"
        if peer is not None:
            text += f": {against(mine.seconds, f'{peer.variant}', peer.seconds)}"
            logs.append(math.log(peer.seconds / mine.seconds))
        lines.append(text)
    if len(logs) > 1:
        lines.append(f"  geometric mean: {math.exp(sum(logs) / len(logs)):.2f}x the best peer")
    return "\n".join(["ours against the best peer", *lines])


def _absent(result: Result) -> list[str]:
    """Peers that are not here, and those that do not take the problem, with the lengths if these are not all."""
    refused: dict[tuple[str, str], list[int]] = {}
    for row in result.at(result.options.states[0]):
        if verdict(row) == "cannot run":
            refused.setdefault((row.variant, row.measurement.message), []).append(row.length)
    lines = [wrapped(f"  {name}: ", reason) for name, reason in result.missing.items()]
    for (name, reason), lengths in refused.items():
        some = f" at {', '.join(map(str, lengths))}" if len(lengths) < len(result.setting.lengths) else ""
        lines.append(wrapped(f"  {name}{some}: ", reason))
    return ["peers that did not run", *lines, ""] if lines else []


def _winners(result: Result) -> list[str]:
    """Where each length's winner comes from."""
    lines = []
    for length, origin in result.notes.items():
        details = [
            r.detail for r in result.at(result.options.states[0], length) if r.detail and r.variant.endswith(" winner")
        ]
        lines.append(wrapped(f"  {length}: ", f"{details[0]}; {origin}" if details else origin))
    return ["our winner", *lines, ""]


def _shared(result: Result) -> list[str]:
    """Variants of ours whose generated kernel is one and the same: their rows show one measurement."""
    lines = []
    for length in result.setting.lengths:
        by_digest: dict[str, list[str]] = {}
        for row in result.at(result.options.states[0], length):
            if row.ours:
                by_digest.setdefault(row.measurement.digest, []).append(row.variant.removeprefix("eintune "))
        lines += [wrapped(f"  {length}: ", " = ".join(names)) for names in by_digest.values() if len(names) > 1]
    return ["one generated kernel under several names", *lines, ""] if lines else []
