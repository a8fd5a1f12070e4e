"""The study over a made-up space of 24 points with known times, and a model that is off by a little."""

from __future__ import annotations

import errno
import math
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from eintune.host.processes import identity
from eintune.search.measure.measurement import Measurement
from eintune.search.study.journal import OWNER, forget, open_storage
from eintune.search.study.residuals import corrected
from eintune.search.study.samplers import STRATEGIES, nearest, strategy
from eintune.search.study.study import SearchOutcome, StopRule, Study, Trial, error_band, noise, openers
from eintune.search.text.faults import JournalError


@dataclass(frozen=True)
class MadeUp:
    key: str
    group: str
    knobs: dict[str, str]

    @property
    def shape(self) -> str:
        return f"{self.knobs['tile']}-{self.knobs['warps']}"


POINTS = [
    MadeUp(f"{cascade}-{tile}-{warps}", cascade, {"cascade": cascade, "tile": tile, "warps": warps})
    for cascade in ("one", "two", "three")
    for tile in ("16", "32", "64", "128")
    for warps in ("4", "8")
]
BEST = "one-64-4"


def seconds(p: MadeUp) -> float:
    passes = {"one": 1.0, "two": 1.7, "three": 2.4}[p.group]
    tile = 1 + abs(math.log2(int(p.knobs["tile"]) / 64)) * 0.3
    return 1e-3 * passes * tile * (1.15 if p.knobs["warps"] == "8" else 1.0)


TIMES = {p.key: seconds(p) for p in POINTS}
_noise = random.Random(7)
# right up to 5%, and 2.5 times too fast
MODEL = {p.key: 0.4 * TIMES[p.key] * math.exp(_noise.gauss(0, 0.05)) for p in POINTS}


def measure(points: Sequence[MadeUp]) -> list[Measurement]:
    return [Measurement(p.key, "ok", TIMES[p.key], TIMES[p.key] * 0.99, TIMES[p.key] * 1.01) for p in points]


def refit(trials: Sequence[Trial[MadeUp]]) -> Callable[[MadeUp], float]:
    """One free factor, fitted to the trials."""
    logs = [math.log(t.measurement.seconds / MODEL[t.point.key]) for t in trials if t.ok]
    factor = math.exp(sum(logs) / len(logs)) if logs else 1.0
    return lambda p: factor * MODEL[p.key]


def new_study(folder: Path, name: str = "mixed", points: Sequence[MadeUp] = POINTS) -> Study[MadeUp]:
    return Study(list(points), journal=folder / "journal", name="made-up", strategy=strategy(name))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_measures_each_point_once_and_finds_the_best(tmp_path: Path, name: str) -> None:
    outcome = new_study(tmp_path, name).run(measure, refit, StopRule(trials=99, batch=4, until_sure=False))
    assert sorted(t.point.key for t in outcome.trials) == sorted(TIMES)
    assert outcome.stopped == "every candidate was measured"
    assert outcome.best is not None and outcome.best.point.key == BEST


def test_stops_when_nothing_left_can_win(tmp_path: Path) -> None:
    outcome = new_study(tmp_path).run(measure, refit, StopRule(trials=99, batch=4))
    assert outcome.best is not None and outcome.best.point.key == BEST
    assert "no candidate left can win" in outcome.stopped
    assert 8 <= len(outcome.trials) < len(POINTS)
    left = {p.key for p in POINTS} - {t.point.key for t in outcome.trials}
    assert min(TIMES[k] for k in left) > TIMES[BEST]


def test_goes_on_while_the_model_is_unsure(tmp_path: Path) -> None:
    chance = random.Random(1)
    guesses = {p.key: math.exp(chance.gauss(0, 1)) * 1e-3 for p in POINTS}
    outcome = new_study(tmp_path).run(measure, lambda trials: lambda p: guesses[p.key], StopRule(trials=99, batch=4))
    assert len(outcome.trials) > 16


def test_stops_at_trials_and_at_seconds(tmp_path: Path) -> None:
    outcome = new_study(tmp_path / "a").run(measure, refit, StopRule(trials=7, batch=4, until_sure=False))
    assert len(outcome.trials) == 7 and "7 trials" in outcome.stopped

    outcome, _ = slowly(tmp_path / "b", StopRule(trials=99, seconds=9.0, batch=4, until_sure=False))
    assert len(outcome.trials) == 9 and "budget of 9 s" in outcome.stopped


def test_batches_shrink_to_what_the_budget_allows(tmp_path: Path) -> None:
    _, sizes = slowly(tmp_path, StopRule(trials=99, seconds=10.0, batch=6, until_sure=False))
    assert sizes == [6, 4]


def slowly(folder: Path, limits: StopRule) -> tuple[SearchOutcome[MadeUp], list[int]]:
    """A study on a clock by which each point takes a second; also the sizes of its batches."""
    sizes: list[int] = []

    def measure_slowly(points: Sequence[MadeUp]) -> list[Measurement]:
        sizes.append(len(points))
        return measure(points)

    study = Study(
        POINTS, journal=folder / "journal", name="made-up", strategy=strategy("model"), clock=lambda: float(sum(sizes))
    )
    return study.run(measure_slowly, refit, limits), sizes


def test_every_group_is_tried(tmp_path: Path) -> None:
    """A kind that the model despises is measured too: what the model says of it is only believed then."""
    outcome = new_study(tmp_path, "model").run(measure, refit, StopRule(trials=6, batch=2, until_sure=False))
    assert {t.point.group for t in outcome.trials} == {"one", "two", "three"}


def test_the_first_batch_holds_the_best_of_several_groups() -> None:
    ranked = sorted(POINTS, key=lambda p: MODEL[p.key])
    first = openers(ranked, 6)
    assert first[0] is ranked[0]
    assert {p.group for p in first} == {"one", "two", "three"}
    assert len(first) == len({p.key for p in first}) == 6


def test_the_first_batch_holds_the_best_of_several_shapes() -> None:
    first = openers(sorted(POINTS, key=lambda p: MODEL[p.key]), 11)
    assert len({p.shape for p in first}) == 8


def test_predictions_are_made_before_the_point_was_seen(tmp_path: Path) -> None:
    outcome = new_study(tmp_path).run(measure, refit, StopRule(trials=12, batch=4, until_sure=False))
    first = [t for t in outcome.trials if t.batch == 0]
    assert all(t.predicted == MODEL[t.point.key] == t.prior for t in first)
    for t in outcome.trials:
        earlier = [u for u in outcome.trials if u.batch < t.batch]
        expected = corrected(refit(earlier), [(u.point, u.measurement.seconds) for u in earlier])
        assert t.predicted == pytest.approx(expected(t.point))


def test_failures_are_results_with_a_penalty_and_a_broken_constraint(tmp_path: Path) -> None:
    def crashing(points: Sequence[MadeUp]) -> list[Measurement]:
        return [Measurement(p.key, "crashed", message="gone") if p.group == "one" else measure([p])[0] for p in points]

    study = new_study(tmp_path)
    outcome = study.run(crashing, refit, StopRule(trials=99, batch=4, until_sure=False))
    assert outcome.best is not None and outcome.best.point.group == "two"
    told = study._study.get_trials(states=(TrialState.COMPLETE,))
    assert len(told) == len(POINTS)
    failed = [t for t in told if t.params["cascade"] == "one"]
    assert all(t.constraints == {"ok": 1.0} for t in failed)
    assert min(t.value for t in failed) > max(TIMES.values())
    assert all(not t.constraints for t in told if t.params["cascade"] != "one")


def test_all_failing_ends_without_a_best(tmp_path: Path) -> None:
    outcome = new_study(tmp_path).run(
        lambda points: [Measurement(p.key, "timeout") for p in points], refit, StopRule(trials=99, batch=8)
    )
    assert outcome.best is None and len(outcome.trials) == len(POINTS)


def test_a_finished_study_is_read_back_whole(tmp_path: Path) -> None:
    limits = StopRule(trials=10, batch=4, until_sure=False)
    before = new_study(tmp_path).run(measure, refit, limits)
    again = new_study(tmp_path)
    assert again.resumed == 10 and repr(again.trials) == repr(before.trials)
    after = again.run(lambda points: pytest.fail("nothing is left to measure"), refit, limits)
    assert repr(after.trials) == repr(before.trials)


def test_goes_on_after_kill_9(tmp_path: Path) -> None:
    """A process is killed in the middle of a batch; the next one reaps its open trials and measures the rest."""
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_study as made
        from pathlib import Path
        calls = []
        def measure(points):
            calls.append(points)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return made.measure(points)
        made.new_study(Path({str(tmp_path)!r})).run(measure, made.refit, made.StopRule(99, batch=4, until_sure=False))
        """)
    )
    done = subprocess.run([sys.executable, "-P", str(script)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    study = new_study(tmp_path)
    assert study.resumed == 8 and study.reaped == 4
    asked: list[str] = []

    def watching(points: Sequence[MadeUp]) -> list[Measurement]:
        asked.extend(p.key for p in points)
        return measure(points)

    outcome = study.run(watching, refit, StopRule(trials=99, batch=4, until_sure=False))
    assert len(asked) == len(POINTS) - 8
    assert sorted(t.point.key for t in outcome.trials) == sorted(TIMES)
    assert outcome.best is not None and outcome.best.point.key == BEST


def test_a_half_written_last_line_is_cut_off(tmp_path: Path) -> None:
    new_study(tmp_path).run(measure, refit, StopRule(trials=8, batch=4, until_sure=False))
    journal = tmp_path / "journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 8, "wor')
    study = new_study(tmp_path)
    assert study.cut_bytes == 19 and study.resumed == 8
    assert journal.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    ("damage", "line"),
    [(lambda lines: [*lines[:2], b"not json", *lines[3:]], 3), (lambda lines: [b"\x00\xff", *lines[1:]], 1)],
)
def test_damage_elsewhere_is_said_with_its_line(
    tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    new_study(tmp_path).run(measure, refit, StopRule(trials=4, batch=4))
    journal = tmp_path / "journal"
    journal.write_bytes(b"\n".join(damage(journal.read_bytes().split(b"\n"))))
    with pytest.raises(JournalError, match=rf"line {line} is damaged.*remove it"):
        new_study(tmp_path)


def test_a_journal_without_its_beginning_is_refused(tmp_path: Path) -> None:
    new_study(tmp_path).run(measure, refit, StopRule(trials=4, batch=4))
    journal = tmp_path / "journal"
    journal.write_bytes(b"\n".join(journal.read_bytes().split(b"\n")[5:]))
    with pytest.raises(JournalError, match=r"must begin with a study.*remove it"):
        new_study(tmp_path)


def test_a_journal_that_is_a_folder_or_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalError, match="folder"):
        open_storage(tmp_path / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="file"):
        open_storage(tmp_path / "file" / "journal")


@pytest.mark.parametrize("fails", ["ask", "set_user_attr", "tell"])
def test_what_is_right_is_not_lost_to_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """A journal that takes no more lines ends the search, with the best that it has."""
    study = new_study(tmp_path)
    written: list[MadeUp] = []

    def fill(points: Sequence[MadeUp]) -> list[Measurement]:
        if written:
            monkeypatch.setattr(JournalFileBackend, "append_logs", full)
        written.extend(points)
        if fails == "ask":
            monkeypatch.setattr(optuna.Study, "ask", full)
        elif fails == "tell":
            monkeypatch.setattr(optuna.Study, "tell", full)
        return measure(points)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    outcome = study.run(fill, refit, StopRule(trials=24, batch=4, until_sure=False))
    assert "journal: No space left on device" in outcome.stopped
    assert len(outcome.trials) == len(written) and outcome.best is not None
    assert outcome.best.measurement.seconds == min(TIMES[p.key] for p in written)


def test_a_full_disk_before_anything_is_right_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    with pytest.raises(JournalError, match=r"journal .*journal: No space left on device"):
        study.run(measure, refit, StopRule(trials=8))


def test_points_must_differ_and_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one point"):
        new_study(tmp_path, points=[])
    twin = MadeUp("other", "one", POINTS[0].knobs)
    with pytest.raises(ValueError, match="differ"):
        new_study(tmp_path, points=[POINTS[0], twin])


def test_unknown_strategy_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"must be one of \['mixed'.*but got 'best'"):
        strategy("best")


def test_nearest_prefers_fewest_differences_then_the_ranking() -> None:
    assert nearest({"cascade": "two", "tile": "64", "warps": "8"}, POINTS).key == "two-64-8"
    assert nearest({}, POINTS) is POINTS[0]


def test_error_band_ignores_the_first_batch() -> None:
    def trial(batch: int, ratio: float) -> Trial[Any]:
        return Trial(POINTS[0], Measurement("x", "ok", ratio, ratio, ratio), 1.0, 1.0, "model", batch, 0.0)

    first = [trial(0, 2.5)] * 4
    assert error_band(first) is None
    assert error_band([*first, *[trial(1, math.exp(0.1))] * 3]) == pytest.approx(0.1)
    assert error_band([*first, *[trial(1, 100.0)] * 3]) == 0.7


def test_noise_is_the_typical_half_width() -> None:
    outcome = SearchOutcome((Trial(POINTS[0], Measurement("x", "ok", 1.0, 0.9, 1.1), 1, 1, "model", 0, 0),), "")
    assert noise(outcome.trials) == pytest.approx(0.1)
    assert noise(()) == 0.0


def test_optuna_is_quiet() -> None:
    assert optuna.logging.get_verbosity() >= optuna.logging.WARNING


# ---- whose a trial is


def opened(folder: Path, owner: str | None) -> optuna.Trial:
    """A trial that somebody asked for and has not told."""
    study = new_study(folder)
    study._sampler.ranked = POINTS
    trial = study._study.ask(study._space)
    if owner is not None:
        trial.set_user_attr(OWNER, owner)
    return trial


@pytest.fixture
def other() -> Iterator[str]:
    """Another process that lives."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield identity(child.pid)
    child.kill()
    child.wait()


def ended() -> str:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    who = identity(child.pid)
    child.kill()
    child.wait()
    return who


def test_a_trial_belongs_to_a_process_that_lives(tmp_path: Path, other: str) -> None:
    for owner, reaped in ((other, 0), (ended(), 1), (None, 1), ("another-host|boot|1|2", 0)):
        opened(tmp_path, owner)
        assert new_study(tmp_path).reaped == reaped, owner


def test_a_trial_that_somebody_closed_is_not_lost(tmp_path: Path) -> None:
    def meanwhile(points: Sequence[MadeUp]) -> list[Measurement]:
        closed = study._study.get_trials(states=(TrialState.RUNNING,))
        for trial in closed[:1]:
            study._study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
        return measure(points)

    study = new_study(tmp_path)
    outcome = study.run(meanwhile, refit, StopRule(trials=6, batch=3, until_sure=False))
    assert len({t.point.key for t in outcome.trials}) == 6
    again = new_study(tmp_path)
    times = [{t.point.key: t.measurement.seconds for t in trials} for trials in (again.trials, outcome.trials)]
    assert times[0] == times[1]
    assert again.reaped == 0


def test_a_journal_that_is_written_is_not_removed(tmp_path: Path, other: str) -> None:
    opened(tmp_path, other)
    with pytest.raises(JournalError, match="another process is writing it"):
        forget(tmp_path / "journal")
    assert len(new_study(tmp_path)._study.get_trials()) == 1


@pytest.mark.parametrize("text", [None, b"", b"\x00\n", b"{}\n"])
def test_a_journal_that_nobody_writes_is_removed(tmp_path: Path, text: bytes | None) -> None:
    opened(tmp_path, ended())
    if text is not None:
        (tmp_path / "journal").write_bytes(text)
    forget(tmp_path / "journal")
    forget(tmp_path / "journal")
    assert not (tmp_path / "journal").exists()
