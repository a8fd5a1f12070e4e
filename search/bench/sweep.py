"""The benchmark over sequence lengths: every derived kind of kernel, the tuned winner and the peers at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eintune.costmodel.machines.machine import Machine
from eintune.search.measure.measurer import MeasureError
from eintune.search.peers.peers import PEERS, attention_peers
from eintune.search.text.formatting import milliseconds, plural
from eintune.search.text.progress import Progress
from eintune.search.text.standing import Standing
from eintune.space.cascade.problem import Problem
from eintune.space.workloads.builtin import attention_problem

from .case import Case, Options, Row, State, best, measure_case, reference_winner


@dataclass(frozen=True)
class Setting:
    """What is benchmarked, at each length of `lengths` (queries = keys)."""

    lengths: tuple[int, ...]
    heads: int
    kv_heads: int
    head_dim: int
    batch: int
    dtype: str
    causal: bool
    device: str

    @property
    def mode(self) -> Literal["top_left"] | None:
        return "top_left" if self.causal else None

    def problem(self, length: int) -> Problem:
        """Raises ValueError with the rule that a size breaks."""
        return attention_problem(
            batch=self.batch,
            heads=self.heads,
            kv_heads=self.kv_heads,
            seq=length,
            kv_seq=length,
            head_dim=self.head_dim,
            dtype=self.dtype,
            causal=self.mode,
        )

    def flops(self, length: int) -> float:
        """Of the two matrix products, over the pairs of a query and a key that it sees; a multiply-add is two."""
        pairs = length * (length + 1) / 2 if self.causal else length * length
        return 4.0 * self.batch * self.heads * pairs * self.head_dim

    @property
    def title(self) -> str:
        parts = [f"batch {self.batch}", plural(self.heads, "head")]
        parts += [plural(self.kv_heads, "kv head")] if self.kv_heads != self.heads else []
        parts += [f"head dim {self.head_dim}", self.dtype] + (["causal"] if self.causal else [])
        return f"Attention: {', '.join(parts)}"


@dataclass(frozen=True)
class Result:
    """A benchmark. machine: as `tune.describe` has it. missing: peers that cannot run here at all, and why. notes:
    where each length's winner comes from. stages: wall seconds."""

    setting: Setting
    options: Options
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str
    started: str
    rows: tuple[Row, ...]
    missing: Mapping[str, str]
    notes: Mapping[int, str]
    stages: Mapping[str, float] = field(default_factory=dict)

    def at(self, state: State, length: int | None = None) -> list[Row]:
        """The rows of one state, at one length or at all."""
        return [r for r in self.rows if r.state == state and length in (None, r.length)]

    @property
    def wrong(self) -> list[Row]:
        """Our own variants that failed in any way."""
        return [r for r in self.rows if r.ours and r.measurement.status != "ok"]


OnRows = Callable[[Sequence[Row], Mapping[int, str]], None]


def bench(
    setting: Setting,
    options: Options,
    machine: Machine,
    cache: Path,
    *,
    progress: Progress,
    on_rows: OnRows = lambda rows, notes: None,
) -> tuple[list[Row], dict[int, str]]:
    """All rows, and where each length's winner comes from; `on_rows` gets those so far after each length, so that they
    can be kept.

    A length at which nothing can be measured (its reference does not fit in memory) has no rows, and a note.
    Raises MeasureError where that is so at every length.
    """
    rows: list[Row] = []
    notes: dict[int, str] = {}
    for number, length in enumerate(setting.lengths):
        progress.standing = Standing(number, len(setting.lengths), "lengths done")
        progress.say(f"length {length}")
        try:
            found = measure_case(_case(setting, options, length), options, machine, setting.device, cache, progress)
        except MeasureError as error:
            if length == setting.lengths[-1] and not rows:
                raise
            notes[length] = f"not measured: {error}"
            progress.say(notes[length])
            continue
        notes[length] = found.note
        rows += found.rows
        on_rows(rows, notes)
    return rows, notes


def _case(setting: Setting, options: Options, length: int) -> Case:
    there = tuple(n for n in options.peers if not PEERS[n].missing(setting.device))
    peers = attention_peers(setting.device, setting.mode, there)
    return Case(setting.problem(length), tuple(peers), length, setting.flops(length))


def summary(rows: Sequence[Row]) -> str:
    """One line on a length: the winner and the best peer."""
    mine, peer = reference_winner(rows), best(rows, ours=False)
    if mine is None:
        return "nothing of ours ran"
    return f"{mine.variant} {milliseconds(mine.seconds)}" + (
        f", {peer.variant} {milliseconds(peer.seconds)}" if peer else ""
    )
