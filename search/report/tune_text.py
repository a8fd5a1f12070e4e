"""What the tuner prints on stdout: neat within 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eintune.kernels.store.cache import Key, Record
from eintune.search.measure.measurement import Measurement
from eintune.search.text.formatting import against, milliseconds, plural
from eintune.search.text.schedules import schedule_text
from eintune.search.text.tables import UNBOUNDED, text_table, wrapped

if TYPE_CHECKING:
    from eintune.costmodel.counts.estimate import Resources
    from eintune.search.study.study import Trial
    from eintune.search.tune.candidates import Candidate
    from eintune.search.tune.tune import Planned, TuneResult

WRAPPED = {0: 28, 1: 34}
"""Where the columns of cascades and schedules are wrapped."""


def result_text(result: TuneResult, top: int) -> str:
    """The table of a search: predicted, measured, against the peers; the winner and where it is stored."""
    run, winner = result.run, result.finals.winner
    best_peer = run.best_peer
    lines = [run.title, f"on {run.machine['title']}", "", _trials(result, top, best_peer), ""]
    if result.finals.peers:
        lines += [_peers(result.finals.peers, result.finals.time.seconds), ""]
    lines += _wrapped("winner", winner.point.variant.label)
    lines += _wrapped("schedule", schedule_text(winner.point.schedule))
    lines += _wrapped("time", _times(result, best_peer))
    lines += _doubt(result.finals.doubt)
    lines += _wrapped("space", _space(result))
    lines += _wrapped("search", f"{len(result.outcome.trials)} measured; stopped: {result.outcome.stopped}")
    lines += _wrapped("stored", str(result.record_path))
    lines += ["", *_cascade(winner.point.variant.text), ""]
    return "\n".join(lines)


def report_text(page: Path | None) -> str:
    """Where the report of a search is."""
    return "\n".join(_wrapped("report", str(page) if page else "could not be written"))


def _times(result: TuneResult, best_peer: tuple[str, float] | None) -> str:
    seconds = result.finals.time.seconds
    text = f"{milliseconds(seconds)}, predicted {milliseconds(result.finals.winner.predicted)}"
    if best_peer is None:
        return text
    return f"{text}: {against(seconds, *best_peer)}"


def _doubt(doubt: str) -> list[str]:
    """A warning where the winner's time may not hold."""
    return _wrapped("beware", f"{doubt}; --retune measures anew") if doubt else []


def _space(result: TuneResult) -> str:
    space = result.planned.space
    return (
        f"{plural(len(result.planned.derived.variants), 'cascade')} x {plural(space.schedules, 'schedule')}: "
        f"{plural(space.considered, 'candidate')}, {len(space.kept):,} worth measuring"
    )


def _trials(result: TuneResult, top: int, peer: tuple[str, float] | None) -> str:
    """The fastest trials, and the fastest of every other cascade; finalists first, as they were timed together."""

    def seconds(trial: Trial[Candidate]) -> float:
        return result.finals.times.get(trial.point.key, trial.measurement).seconds

    right = sorted((t for t in result.outcome.trials if t.ok), key=seconds)
    right.sort(key=lambda t: t.point.key not in result.finals.times)
    shown = right[:top]
    groups = {t.point.group for t in shown}
    for trial in right[top:]:
        if trial.point.group not in groups:
            groups.add(trial.point.group)
            shown.append(trial)
    rows = [
        [
            t.point.variant.label,
            schedule_text(t.point.schedule),
            milliseconds(t.predicted),
            milliseconds(seconds(t)),
            *([f"{peer[1] / seconds(t):.2f}x"] if peer else []),
        ]
        for t in shown
    ]
    return text_table(
        ["cascade", "schedule", "predicted", "measured", *([f"vs {peer[0]}"] if peer else [])],
        rows,
        right=(2, 3, 4),
        widest=WRAPPED,
    )


def _peers(peers: Any, seconds: float) -> str:
    rows = [[name, _measured(m), _compared(m, seconds)] for name, m in peers.items()]
    return text_table(["in the same run", "time", "eintune is"], rows, right=(1,))


def _measured(m: Measurement) -> str:
    return milliseconds(m.seconds) if m.status == "ok" else m.status


def _compared(m: Measurement, seconds: float) -> str:
    if m.status != "ok":
        return textwrap.shorten(m.message, 60, placeholder=" …")
    ratio = m.seconds / seconds
    if 0.98 < ratio < 1.02:
        return "as fast (within 2%)"
    return f"{ratio:.2f}x as fast" if ratio > 1 else f"slower: {name_times(1 / ratio)}"


def name_times(ratio: float) -> str:
    """ "this peer is 1.30x as fast"."""
    return f"this peer is {ratio:.2f}x as fast"


def _wrapped(name: str, text: str) -> list[str]:
    return wrapped(text, f"{name:<10}")


def _cascade(text: str) -> list[str]:
    lines = ["the winning cascade, as derived:"]
    for line in text.strip().splitlines():
        lines += wrapped(line, "  ", indent=4, most=UNBOUNDED)
    return lines


# ---- from the cache


def record_text(title: str, key: Key, record: Record, path: Path) -> str:
    """A stored winner."""
    statistics = record.statistics
    lines = [title, f"on {key.machine}: from the cache, nothing was measured (--retune searches again)", ""]
    if record.peers:
        rows = [["eintune", milliseconds(record.seconds), ""]]
        for name, timed in record.peers.items():
            peer = Measurement("0", "ok", timed.seconds)
            rows.append([name, milliseconds(timed.seconds), f"eintune is {_compared(peer, record.seconds)}"])
        lines += [text_table(["when it was tuned", "time", ""], rows, right=(1,)), ""]
    lines += _wrapped("winner", str(statistics.get("label", "")))
    lines += _wrapped("schedule", schedule_text(record.schedule))
    predicted = record.estimate.get("seconds")
    expected = f", predicted {milliseconds(float(predicted))}" if isinstance(predicted, (int, float)) else ""
    lines += _wrapped("time", f"{milliseconds(record.seconds)}{expected}; tuned {record.created}")
    lines += _doubt(record.doubt)
    lines += _wrapped("stored", str(path))
    lines += ["", *_cascade(record.cascade)]
    return "\n".join(lines)


# ---- without measuring


def plan_text(title: str, planned: Planned, top: int, exact: Sequence[Resources | str]) -> str:
    """The ranking of a plan-only run; `exact` has what the compiler reported for the first ones."""
    machine, space = planned.machine, planned.space
    lines = [title, f"on {machine.title}, priced and not measured", ""]
    rows = []
    for i, c in enumerate(space.kept[:top]):
        e = c.estimate
        need = exact[i] if i < len(exact) else e.resources
        rows.append(
            [
                f"{i + 1}",
                c.variant.label,
                schedule_text(c.schedule),
                milliseconds(e.seconds),
                e.limiter,
                *(_resources(need) if machine.kind == "gpu" else []),
            ]
        )
    gpu = ["shared", "regs", "spills"] if machine.kind == "gpu" else []
    header = ["", "cascade", "schedule", "predicted", "limiter", *gpu]
    lines += [text_table(header, rows, right=(0, 3, 5, 6, 7), widest={1: 22, 2: 30}), ""]
    if exact:
        lines += wrapped(f"shared memory, registers a thread and spilled bytes as compiled for {machine.architecture}")
    lines += wrapped(
        f"{plural(len(planned.derived.variants), 'cascade')} x {plural(space.schedules, 'schedule')}: "
        f"{plural(space.considered, 'candidate')}, {len(space.kept):,} worth measuring; left out:"
    )
    for reason, count in space.left_out.items():
        lines += wrapped(reason, f"  {count:>7,}  ")
    return "\n".join(lines)


def _resources(need: Resources | str) -> list[str]:
    if isinstance(need, str):
        return [need[:30], "", ""]
    return [f"{need.shared_bytes / 1024:.0f} KiB", f"{need.registers_per_thread}", f"{need.spill_bytes}"]


def plan_json(planned: Planned, top: int, exact: Sequence[Resources | str]) -> dict[str, Any]:
    """The ranking as plain data."""
    from eintune.search.tune.tune import space_json  # which loads all that a search needs

    ranking = []
    for i, c in enumerate(planned.space.kept[:top]):
        row: dict[str, Any] = {
            "label": c.variant.label,
            "digest": c.variant.digest,
            "passes": c.variant.passes,
            "schedule": c.schedule.to_json(),
            "estimate": c.estimate.to_json(),
        }
        if i < len(exact):
            need = exact[i]
            row["compiled"] = need if isinstance(need, str) else vars(need)
        ranking.append(row)
    return {"machine": planned.machine.name, "space": space_json(planned), "ranking": ranking}
