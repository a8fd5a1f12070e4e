"""Growth: what deriving costs, for each workload, for attention's modifiers combined, and for chains of operators.

Each row is derived in a process of its own, so that its memory and its processor time are its own.
"""

from __future__ import annotations

import csv
import io
import itertools
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib import metadata
from typing import Any

from eintune import __version__
from eintune.host import quoting
from eintune.search.text.tables import text_table
from eintune.space.cascade.cascade import Cascade
from eintune.space.workloads.attention import Attention
from eintune.space.workloads.builtin import WORKLOADS
from eintune.space.workloads.chains import CHAINS
from eintune.space.workloads.modifiers import (
    Bias,
    Causal,
    Documents,
    HeadScale,
    Mask,
    Modifier,
    Prefix,
    Slopes,
    Softcap,
    Window,
)

LENGTHS = (6, 12, 24, 48)
MODIFIERS: dict[str, Modifier | str] = {
    "causal": Causal(),
    "window": Window(1024),
    "prefix": Prefix(256),
    "documents": Documents(),
    "mask": Mask(),
    "softcap": Softcap(30.0),
    "alibi": Slopes(),
    "bias": Bias(),
    "head scale": HeadScale(),
    "sinks": "sinks",
    "log-sum-exp": "lse",
    "grouped": "grouped",
}
"""What may be combined; a text is an option of `Attention` or of its cascade."""
MOST_SHOWN = 6


@dataclass(frozen=True)
class Task:
    """One row to measure: its group ("workload", "modifiers" or "chain"), its name and its definition."""

    group: str
    name: str
    definition: Callable[[], Cascade]


@dataclass(frozen=True)
class Grown:
    """What one derivation cost.

    classes, nodes: of the saturated graph. steps, stopped: of saturation. forms: handed on; fewest: the fewest
    passes of one. saturation, extraction, checks: seconds of wall time. wall, cpu: seconds in all, the second of
    every process that took part. peak: bytes that the larger process held at most. complete: no limit of time was
    met. error: why there is no derivation.
    """

    group: str
    name: str
    classes: int = 0
    nodes: int = 0
    steps: int = 0
    stopped: str = ""
    forms: int = 0
    fewest: int = 0
    saturation: float = 0.0
    extraction: float = 0.0
    checks: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    complete: bool = False
    error: str = ""


def attention_with(names: Sequence[str]) -> Cascade:
    """Attention with some of MODIFIERS."""
    chosen = [MODIFIERS[n] for n in names]
    options: dict[str, Any] = {c: True for c in chosen if isinstance(c, str) and c != "grouped"}
    variant = Attention(tuple(c for c in chosen if isinstance(c, Modifier)), **options)
    return variant.cascade(grouped="grouped" in chosen)


def tasks(combined: int = 3, lengths: Sequence[int] = LENGTHS) -> Iterator[Task]:
    """Every row: the workloads, attention with each `combined` of MODIFIERS, the chains at each length."""
    for name, workload in WORKLOADS.items():
        yield Task("workload", name, workload)
    for names in itertools.combinations(MODIFIERS, combined):
        yield Task("modifiers", ", ".join(names), partial(attention_with, names))
    for name, chain in CHAINS.items():
        for n in lengths:
            yield Task("chain", f"{name} {n}", partial(chain, n))


def measure(todo: Sequence[Task]) -> Iterator[Grown]:
    """Derive each in turn, in a process of its own that starts with everything imported."""
    from eintune.space.derivation import derive
    from eintune.space.derivation import extraction as extract

    assert derive and extract  # imported before the processes start, so that no row pays for it
    context = multiprocessing.get_context("fork")
    for task in todo:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_measured, args=(task, sender))
        process.start()
        sender.close()
        try:
            row: Grown = receiver.recv()
        except EOFError:
            process.join()
            row = Grown(task.group, task.name, error=f"its process ended with code {process.exitcode}")
        process.join()
        yield row


def _measured(task: Task, sender: Any) -> None:
    from eintune.space.derivation.derive import derive

    start, begun = time.monotonic(), _processor()
    try:
        d = derive(task.definition())
    except Exception as error:
        sender.send(Grown(task.group, task.name, error=f"{type(error).__name__}: {error}"))
        return
    row = Grown(
        task.group,
        task.name,
        classes=d.statistics.classes,
        nodes=d.statistics.nodes,
        steps=d.statistics.steps,
        stopped=d.statistics.stopped,
        forms=len(d.cascades),
        fewest=min(c.passes for c in d.cascades),
        saturation=d.seconds["saturation"],
        extraction=d.seconds["extraction"],
        checks=d.seconds["checks"],
        wall=time.monotonic() - start,
        cpu=_processor() - begun,
        peak=max(_usage(who).ru_maxrss for who in _WHO) * _MAXRSS_UNIT,
        complete=d.complete,
    )
    sender.send(row)


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def _usage(who: int) -> resource.struct_rusage:
    return resource.getrusage(who)


def _processor() -> float:
    """Seconds of processor time, of this process and of those it has waited for."""
    return sum(_usage(who).ru_utime + _usage(who).ru_stime for who in _WHO)


# ---- how it is told


def machine() -> str:
    """The machine in words, without its name."""
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"


def versions() -> dict[str, str]:
    found = {"eintune": __version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in ("egglog", "highspy", "pulp", "numpy")}


def to_csv(rows: Sequence[Grown], command: str, load: float) -> str:
    """A table with its circumstances in front, as lines that start with `#`. load: runnable processes at the start."""
    out = io.StringIO()
    out.write(f"# {command}\n# {machine()}; load at the start {load:.1f}\n")
    out.write(f"# {', '.join(f'{name} {v}' for name, v in versions().items())}\n")
    out.write(
        "# seconds: saturation, extraction, checks and wall as the clock ran; cpu of all processes; peak in bytes\n"
    )
    writer = csv.DictWriter(out, [f.name for f in fields(Grown)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.3f}" if isinstance(v, float) else quoting.csv(v) for k, v in asdict(row).items()})
    return out.getvalue()


def to_text(rows: Sequence[Grown]) -> str:
    """The tables for a terminal; of a group with many rows its slowest, and what all have in common."""
    return "\n\n".join(_group(name, list(group)) for name, group in itertools.groupby(rows, key=lambda r: r.group))


HEADER = ("", "classes", "nodes", "stopped", "forms", "saturation s", "extraction s", "wall s", "cpu s", "peak MiB")


def _group(name: str, rows: list[Grown]) -> str:
    slowest = sorted(rows, key=lambda r: -r.cpu)[:MOST_SHOWN] if len(rows) > 40 else rows
    lines = [_line(r) for r in slowest]
    text = f"{name}: {len(rows)}\n" + text_table(HEADER, lines, right=(1, 2, 4, 5, 6, 7, 8, 9))
    spent = [r.cpu for r in rows]
    text += f"\n  cpu seconds: median {statistics.median(spent):.2f}, most {max(spent):.2f}"
    bad = [r for r in rows if r.error or not r.complete]
    return text + "".join(f"\n  {r.name}: {r.error or 'cut short by a limit of time'}" for r in bad)


def _line(r: Grown) -> Sequence[str]:
    numbers: Mapping[str, str] = {n: f"{getattr(r, n):.2f}" for n in ("saturation", "extraction", "wall", "cpu")}
    sizes = (f"{r.classes:,}", f"{r.nodes:,}", r.stopped, str(r.forms))
    return (r.name, *sizes, *numbers.values(), f"{r.peak / 2**20:.0f}")
