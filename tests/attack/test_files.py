"""Hostile files in every place that is read: a right answer or one line, within seconds and bounded memory."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest
from hostile import THINGS, attacks, bomb, removed
from targets import TARGETS, Target

from eintune.host import notices
from eintune.search.cli.main import main

SECONDS = 10.0
MEMORY_KIB = 2 * 2**20
FEW = 24
"""Files of each kind in every run of the tests, beside what is none."""
SEED = 20_261_129


@dataclass
class Outcome:
    """answers, lines: how many files gave either. slowest: seconds. faults: what else happened, by what was done."""

    answers: int = 0
    lines: int = 0
    slowest: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)


class Late(BaseException):
    """A use took too long."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises Late inside if it takes longer."""

    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Heard(logging.Handler):
    """What is said while it listens."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def attacked(target: Target, count: int, seed: int) -> Outcome:
    """Put `count` hostile files in the target's place, one after the other."""
    outcome, heard = Outcome(), Heard()
    notices.logger.addHandler(heard)
    try:
        for what in islice(attacks(target.path, target.data, target.pack, target.craft, seed), count):
            notices.forget()
            heard.said.clear()
            begun = time.process_time()
            fault = tried(target, outcome)
            outcome.slowest = max(outcome.slowest, time.process_time() - begun)
            fault = fault or next((f"said {m!r}" for m in heard.said if not is_one_line(m)), "")
            if fault:
                outcome.faults[what] = fault
    finally:
        notices.logger.removeHandler(heard)
        removed(target.path)
    return outcome


def tried(target: Target, outcome: Outcome) -> str:
    """What was wrong with how one file was taken, or ""."""
    try:
        with within(SECONDS * 3):  # by the clock, on a busy machine; processor time is judged in the end
            target.use()
    except target.says as error:
        outcome.lines += 1
        text = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
        return "" if is_one_line(text) else f"its line is {text[:500]!r}"
    except Late:
        return "takes too long"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    outcome.answers += 1
    return ""


def is_one_line(text: str) -> bool:
    return text.isprintable() and 0 < len(text) <= 2000


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", [k for k in TARGETS if k != "pictures"])
def test_a_hostile_file_is_a_right_answer_or_one_line(kind: str, tmp_path: Path) -> None:
    make, _ = TARGETS[kind]
    outcome = attacked(make(tmp_path), len(THINGS) + FEW, SEED)
    assert not outcome.faults
    assert outcome.answers + outcome.lines == len(THINGS) + FEW and outcome.slowest < SECONDS


def test_a_valid_file_is_an_answer(tmp_path: Path) -> None:
    for i, (kind, (make, _)) in enumerate(TARGETS.items()):
        folder = tmp_path / str(i)
        folder.mkdir()
        if kind != "pictures":
            make(folder).use()


VERBS: tuple[tuple[str, ...], ...] = (
    *(("list",), ("show", "thing"), ("explain", "--seq", "64", "--heads", "2"), ("verify",), ("clear",)),
    *(("export", "a.zip"), ("import", "."), ("merge", ".", "--file", "a.zip")),
)


@pytest.mark.parametrize("verb", VERBS)
def test_a_cache_full_of_hostile_things_is_looked_at(
    verb: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("records", "portfolios", "derived", "journals", "machines"):
        (tmp_path / folder).mkdir()
        for i, make in enumerate(THINGS):
            make(tmp_path / folder / f"thing-{i}.json")
        (tmp_path / folder / "\x1b[31mred\udcff.json").write_text('{"format": 1, "key": "\\ud800"}')
    there = [] if "merge" in verb else ["--cache", str(tmp_path)]
    code = main(["cache", *verb, *there, *(["--device", "cpu"] if "explain" in verb else [])])
    out, err = capsys.readouterr()
    assert code in (0, 1, 2) and "Traceback" not in err and "\x1b" not in out + err
    if verb == ("clear",):  # a folder is nobody's record
        assert [p.name for p in (tmp_path / "records").iterdir()] == ["thing-5.json"]


def test_a_packed_flood_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    target = TARGETS["recorded space"][0](tmp_path)
    removed(target.path)
    bomb(target.path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(target.says, match="must be at most"):
        target.use()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KIB / 8


@pytest.mark.soak
def test_three_thousand_hostile_files(tmp_path: Path) -> None:
    """The whole of it, each kind in a process of its own: prints the table."""
    total: Counter[str] = Counter()
    faults = []
    print(f"\n{'kind':<24}{'files':>7}{'answers':>9}{'lines':>7}{'faults':>8}{'slowest s':>11}{'MiB more':>10}")
    for kind in TARGETS:
        folder = tmp_path / kind.replace(" ", "-").replace("'", "")
        folder.mkdir()
        command = [sys.executable, "-P", __file__, kind, str(folder)]
        environment = {**os.environ, "EINTUNE_CACHE": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=3000)
        assert done.returncode == 0, done.stderr[-2000:]
        row, *found = done.stdout.splitlines()
        files, answers, lines, wrong, slowest, more = row.split("\t")
        print(f"{kind:<24}{files:>7}{answers:>9}{lines:>7}{wrong:>8}{slowest:>11}{more:>10}")
        total += Counter(files=int(files), answers=int(answers), lines=int(lines), faults=int(wrong))
        faults += [f"{kind}: {line}" for line in found]
        assert float(slowest) < SECONDS and float(more) < MEMORY_KIB / 1024
    print(f"{'all':<24}{total['files']:>7}{total['answers']:>9}{total['lines']:>7}{total['faults']:>8}")
    assert not faults and total["files"] >= 3000


def run_kind(kind: str, folder: str) -> None:
    """One kind, whole: a row of the table, then the faults."""
    make, count = TARGETS[kind]
    target = make(Path(folder))
    target.use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = attacked(target, count, SEED + random.Random(kind).randrange(10**6))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    row = (count, outcome.answers, outcome.lines, len(outcome.faults), f"{outcome.slowest:.2f}", f"{more:.0f}")
    print("\t".join(map(str, row)))
    for what, fault in outcome.faults.items():
        print(f"{what}: {fault}".replace("\n", " "))


if __name__ == "__main__":
    run_kind(*sys.argv[1:])
