"""Many searches for one winner at once: killed, interrupted, started again. All end, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from eintune.kernels.store.cache import Cache, Key
from eintune.kernels.store.platform import platform_of
from eintune.kernels.store.portfolio import read_portfolios
from eintune.search.tune.one_search import journal_of, only_search
from eintune.space.workloads.attention import attention_problem

LINE = (
    "tune",
    "--seq",
    "32",
    "--heads",
    "2",
    "--head-dim",
    "16",
    "--device",
    "cpu",
    "--trials",
    "4",
    "--budget",
    "300",
)
COMPLETE, FAILED = 1, 3
"""Optuna's codes of a trial's state."""


@dataclass
class Tune:
    """One process. name: also of the files that it writes into."""

    name: str
    process: subprocess.Popen[bytes]
    code: int | None = None

    def end(self, seconds: float) -> None:
        self.code = self.process.wait(seconds)

    def interrupt(self) -> None:
        """As Ctrl-C in a terminal does: the process and all that share its group."""
        os.killpg(self.process.pid, signal.SIGINT)


SET = (*LINE[:2], "32,48", *LINE[3:])
"""The size of LINE and another one, as a set."""


def start(folder: Path, name: str, *options: str, line: tuple[str, ...] = LINE) -> Tune:
    (folder / "tmp").mkdir(exist_ok=True)
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "eintune", *line, *options, "--results", f"results-{name}"],
            cwd=folder,
            env=os.environ | {"EINTUNE_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    return Tune(name, process)


def measuring(folder: Path, tune: Tune, seconds: float) -> bool:
    """Wait until a tune has measured something; False where it ends before."""
    return says(folder, tune, " 1/4 ", seconds)


def says(folder: Path, tune: Tune, what: str, seconds: float) -> bool:
    """Wait until a tune says something; False where it ends before."""
    until = time.monotonic() + seconds
    while tune.process.poll() is None and time.monotonic() < until:
        if what in (folder / f"{tune.name}.err").read_text():
            return True
        time.sleep(0.05)
    return False


def trials(journal: Path) -> tuple[list[str], Counter[int]]:
    """The candidates that a journal says were measured, and how many trials have which state (0: open)."""
    keys: dict[int, str] = {}
    states: Counter[int] = Counter()
    last: dict[int, int] = {}
    made = 0
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        if "study_id" in entry and "datetime_start" in entry:
            last[made] = 0
            made += 1
        if "user_attr" in entry and "key" in entry["user_attr"]:
            keys[entry["trial_id"]] = entry["user_attr"]["key"]
        if "state" in entry and "trial_id" in entry:
            last[entry["trial_id"]] = entry["state"]
    states.update(last.values())
    return [keys[t] for t, state in last.items() if state == COMPLETE], states


def check(folder: Path, tunes: list[Tune]) -> dict[str, object]:
    """What must hold when all have ended; the table of what came of them."""
    (entry,) = Cache(folder / "cache", shipped=None).entries()
    for tune in tunes:
        out, err = (folder / f"{tune.name}.{kind}" for kind in ("out", "err"))
        assert "Traceback" not in err.read_text() and "Exception" not in err.read_text(), err.read_text()[-2000:]
        if tune.code == 0:
            assert str(entry.path) in out.read_text(), tune.name
        assert tune.code in (0, 130, -signal.SIGKILL), (tune.name, tune.code, err.read_text()[-500:])
    (journal,) = (folder / "cache" / "journals").glob("*.jsonl")
    keys, states = trials(journal)
    assert len(keys) == len(set(keys)), "a candidate was counted twice"
    assert entry.record.digest in keys, "the winner's trial was lost"
    assert entry.record.statistics["measured"] == len(keys) == 4, (entry.record.statistics, keys)
    assert set(states) <= {COMPLETE, FAILED}, "a trial was left open"
    locks = {f"eintune-{os.getuid()}", f"runtime-{os.getuid()}"}
    left = {p.name for p in (folder / "tmp").iterdir()} - locks
    assert not left, "temporary files were left"
    assert not list((folder / "cache").rglob("*.tmp"))
    answered = sum("from the cache" in (folder / f"{t.name}.out").read_text() for t in tunes)
    return {"codes": Counter(t.code for t in tunes), "read the answer": answered, "trials": dict(states)}


def test_one_killed_while_others_wait(tmp_path: Path) -> None:
    """The first is killed as it measures; of two that wait one goes on where it was, the other reads the answer."""
    first = start(tmp_path, "first")
    assert measuring(tmp_path, first, 240)
    others = [start(tmp_path, "second"), start(tmp_path, "third")]
    first.process.kill()
    first.end(10)
    for other in others:
        other.end(300)
    came = check(tmp_path, [first, *others])
    assert came["codes"] == {0: 2, -9: 1} and came["read the answer"] == 1
    went_on = [(tmp_path / f"{t.name}.err").read_text() for t in others]
    assert sum("going on: " in err for err in went_on) == 1


def test_a_set_waits_for_the_search_at_one_of_its_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their journal is the same, which `--retune` begins anew."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))  # where the locks are of what is started here
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    sizes = {"batch": 1, "heads": 2, "kv_heads": 2, "seq": 32, "kv_seq": 32, "head_dim": 16, "value_dim": 16}
    problem = attention_problem(**sizes, dtype="fp32")
    key = Key.of(problem, platform_of("cpu"))
    with only_search(tmp_path / "cache", key, print) as waited:
        tune = start(tmp_path, "set", "--retune", line=SET)
        assert not waited and says(tmp_path, tune, "another process searches", 240)
        assert not journal_of(tmp_path / "cache", key).exists() and tune.process.poll() is None
    tune.end(300)
    assert tune.code == 0 and journal_of(tmp_path / "cache", key).exists()


@pytest.mark.soak
def test_sets_and_tunes_of_their_points_at_once(tmp_path: Path) -> None:
    """Two are killed, one of each kind begins anew: who is left ends, and a set that waited reads the answer."""
    tunes = []
    for number, (line, options, kill) in enumerate([
        (SET, (), 9.0), (LINE, (), 12.0), (SET, (), 0.0), (LINE, (), 0.0),
        (SET, ("--retune",), 0.0), (LINE, ("--retune",), 0.0), (SET, (), 0.0),
    ]):  # fmt: skip
        tunes.append((start(tmp_path, str(number), *options, line=line), time.monotonic() + kill if kill else 0.0))
        time.sleep(1.0)
    for tune, end in tunes:
        if end:
            time.sleep(max(0.0, end - time.monotonic()))
            tune.process.kill()
        tune.end(600)
        err = (tmp_path / f"{tune.name}.err").read_text()
        assert "Traceback" not in err and "Exception" not in err, err[-2000:]
        assert tune.code == (-signal.SIGKILL if end else 0) or (end and tune.code == 0), (tune.name, tune.code, err)
    ((_, portfolio),) = read_portfolios(tmp_path / "cache" / "portfolios").items()
    assert [dict(p.sizes)["m"] for p in portfolio.points] == [32, 48]
    assert len(Cache(tmp_path / "cache", shipped=None).entries()) == 1
    answered = [t.name for t, _ in tunes if "are stored already" in (tmp_path / f"{t.name}.out").read_text()]
    print("read the answer:", answered)
    assert answered
    for journal in (tmp_path / "cache" / "journals").glob("*.jsonl"):
        _, states = trials(journal)
        assert set(states) <= {COMPLETE, FAILED}
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.soak
@pytest.mark.parametrize("seed", [0])
def test_twelve_at_once(tmp_path: Path, seed: int) -> None:
    """Staggered; three are killed and one is interrupted while they search or wait, one searches again."""
    draw = random.Random(seed)
    tunes: list[Tune] = []
    fates = ["kill", "kill", "kill", "interrupt", "retune", *["leave"] * 7]
    draw.shuffle(fates)
    fates.sort(key=lambda fate: fate == "retune")  # the last that starts, so that it meets a search or a record
    doomed: list[tuple[float, str, Tune]] = []
    begun = time.monotonic()
    for number, fate in enumerate(fates):
        tunes.append(start(tmp_path, f"{number}-{fate}", *(("--retune",) if fate == "retune" else ())))
        if fate in ("kill", "interrupt"):
            doomed.append((time.monotonic() + draw.uniform(3, 25), fate, tunes[-1]))
        time.sleep(draw.uniform(0.2, 2.5))
        strike(doomed)
    while doomed:
        time.sleep(0.05)
        strike(doomed)
    for tune in tunes:
        tune.end(900)
    came = check(tmp_path, tunes)
    print(came, f"{time.monotonic() - begun:.0f} s")
    assert all(t.code == 0 for t in tunes if t.name.endswith(("leave", "retune")))


def strike(doomed: list[tuple[float, str, Tune]]) -> None:
    """Do to each what is due; whoever has ended before is left alone."""
    for item in [d for d in doomed if d[0] <= time.monotonic()]:
        doomed.remove(item)
        _, fate, tune = item
        if tune.process.poll() is None:
            tune.interrupt() if fate == "interrupt" else tune.process.kill()
