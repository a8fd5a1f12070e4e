"""`tune` with lists, ranges or a file of sizes: the points that they state, by definition, each set tuned as one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eintune.kernels.store.cache import Cache, Key
from eintune.kernels.store.files import CacheWriteError
from eintune.kernels.store.platform import platform_of
from eintune.kernels.store.portfolio import load_portfolio, portfolio_key
from eintune.search.measure.measurer import MeasureError
from eintune.search.options.command import Failure
from eintune.search.options.documents import write_json
from eintune.search.options.problem import each_of, emitter_of, posed_of
from eintune.search.peers.tuning import tuning_peers
from eintune.search.text.formatting import plural
from eintune.search.text.progress import Progress
from eintune.search.tune.finals import NothingWorked
from eintune.search.tune.one_search import only_search
from eintune.search.tune.provenance import versions
from eintune.search.tune.tune import EFFORT, Effort

from .set_search import SetResult, Wanted, tune_set
from .text import set_json, set_text

if TYPE_CHECKING:
    from eintune.costmodel.counts.work import Work
    from eintune.costmodel.machines.machine import Machine
    from eintune.space.workloads.workload import Posed

TRIALS = {"cuda": 16, "cpu": 8}
"""Candidates that are measured at each point, by default."""
SECONDS = {"cuda": 15.0, "cpu": 30.0}
"""... and the budget of each, of which a set has that of all its points."""


def is_set(chosen: argparse.Namespace) -> bool:
    """Whether the options of `tune` state more than one point."""
    return chosen.set is not None or any(isinstance(v, tuple) for n, v in vars(chosen).items() if n.startswith("of_"))


def points_of(chosen: argparse.Namespace, dtype: str) -> list[Posed]:
    """The points that the options state, each once. Raises Usage."""
    if chosen.set is None:
        every = [posed_of(one, dtype) for one in each_of(chosen)]
    else:
        from eintune.search.suites.suite import load_suite, posed_cases

        every = list(posed_cases(load_suite(chosen.set, "--set").cases, chosen.dtype or dtype))
    return list({p.folder: p for p in every}.values())


def tune_sets(
    chosen: argparse.Namespace, device: str, machine: Machine, cache: Path, progress: Progress, dtype: str
) -> int:
    """Tune the points by definition; prints a table of each, and returns the exit code."""
    sets: dict[tuple[Any, ...], list[Posed]] = {}
    for posed in points_of(chosen, dtype):
        emitter_of(posed.problem, "gpu" if device == "cuda" else "cpu")
        problem = posed.problem
        of = (problem.cascade, tuple(sorted(problem.dtypes.items())), tuple(sorted(problem.params.items())))
        sets.setdefault(of, []).append(posed)
    count = sum(map(len, sets.values()))
    answers: list[Mapping[str, Any]] = []
    failed = []
    known: list[tuple[Work, float]] = []
    for number, points in enumerate(sets.values(), 1):
        title = _title(points) + (f" (set {number} of {len(sets)})" if len(sets) > 1 else "")
        place = portfolio_key(Key.of(points[0].problem, platform_of(device)))
        left, result = _left(chosen, points, device, cache), None
        try:
            if left:
                with only_search(cache, place, progress.say) as waited:
                    # what another process found meanwhile is the answer
                    left = _left(chosen, points, device, cache) if waited else left
                    result = _tuned(chosen, left, count, device, machine, cache, known, progress) if left else None
        except (NothingWorked, MeasureError) as error:
            failed.append(f"{title}: {error}")
            progress.say(failed[-1])
            continue
        except CacheWriteError as error:
            raise Failure(str(error.strerror)) from error
        if result is None:
            print(f"{title}\n\n  all {plural(len(points), 'point')} are stored already; --retune measures anew\n")
            answers.append({"title": title, "portfolio": place.file_name, "cached": True})
            continue
        print(set_text(title, result), flush=True)
        answers.append(set_json(title, result))
        # what was measured is not lost if the next set is interrupted
        write_json(chosen, _told(machine, device, answers), last=False)
    write_json(chosen, _told(machine, device, answers))
    if failed:
        raise Failure("; ".join(failed))
    return 0


def _told(machine: Machine, device: str, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sets that are done, for --json."""
    return {"machine": machine.title, "versions": versions(platform_of(device)), "sets": answers}


def _title(points: Sequence[Posed]) -> str:
    return points[0].title if len(points) == 1 else f"{points[0].title}, and {plural(len(points) - 1, 'other')}"


def _left(chosen: argparse.Namespace, points: Sequence[Posed], device: str, cache: Path) -> list[Posed]:
    """The points of one definition at which the user's own portfolio has not been measured; all with --retune."""
    keys = {p.folder: Key.of(p.problem, platform_of(device)) for p in points}
    found = load_portfolio(Cache(cache), portfolio_key(keys[points[0].folder]))
    stored = set() if found is None or chosen.retune else {p.sizes for p in found.points}
    return [p for p in points if keys[p.folder].sizes not in stored]


def _tuned(
    chosen: argparse.Namespace,
    points: Sequence[Posed],
    count: int,
    device: str,
    machine: Machine,
    cache: Path,
    known: list[tuple[Work, float]],
    progress: Progress,
) -> SetResult:
    peers = [() if chosen.no_peers else tuple(tuning_peers(p, device)) for p in points]
    wanted = [Wanted(p.problem, p.title, by) for p, by in zip(points, peers, strict=True)]
    whole = EFFORT[device]
    share = len(points) / count
    effort = Effort(
        trials=round(chosen.trials * share) if chosen.trials else TRIALS[device] * len(points),
        seconds=chosen.budget * share if chosen.budget else SECONDS[device] * len(points),
        batch=whole.batch,
        kept=96,
    )
    return tune_set(
        wanted,
        device,
        machine,
        cache,
        effort=effort,
        fresh=chosen.retune,
        sampler=chosen.sampler,
        known=known,
        progress=progress,
    )
