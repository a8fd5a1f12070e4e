"""The whole way at a tiny size on this CPU: search, store, report, answer from the cache, go on, fail well."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import eintune
from eintune.host import notices
from eintune.kernels.libraries import attention as libraries
from eintune.kernels.libraries.fastest import fastest_known
from eintune.kernels.libraries.versions import version_of
from eintune.kernels.store.cache import Cache
from eintune.search.cli.main import main
from eintune.search.report.tune_text import _trials
from eintune.search.tune.run import Run
from eintune.search.tune.run_files import read_run
from eintune.space.schedule.schedule import Schedule

SIZE = ("--seq", "64", "--heads", "2", "--head-dim", "16", "--device", "cpu")
FAST = ("--trials", "6", "--budget", "60")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one problem was tuned."""
    folder = tmp_path_factory.mktemp("tuned")
    done = run(folder, "--json", "first.json")
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def command(*options: str) -> list[str]:
    return [sys.executable, "-P", "-m", "eintune.search.cli.main", "tune", *SIZE, *FAST, *options]


def run(folder: Path, *options: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"EINTUNE_CACHE": str(folder / "cache")}
    return subprocess.run(
        command(*options), cwd=folder, env=environment, capture_output=True, text=True, timeout=300, **settings
    )


def test_the_winner_is_stored_and_printed(tuned: Path) -> None:
    (entry,) = Cache(tuned / "cache", shipped=None).entries()
    out = (tuned / "stdout").read_text()
    for word in ("predicted", "measured", "vs sdpa", "winner", "schedule", "stored", str(entry.path), "report"):
        assert word in out
    assert entry.record.statistics["label"] in out
    assert ("slower" in out) == (entry.record.peers["sdpa"].seconds < 0.98 * entry.record.seconds)
    peer, here = entry.record.peers["sdpa"], version_of("sdpa", "cpu")
    assert peer.version == here and torch.__version__ in here and peer.low is not None and peer.high is not None
    assert peer.low <= peer.seconds <= peer.high and peer.rms_error is not None and peer.max_error is not None
    assert peer.budget is not None and (peer.rms_error <= peer.budget or peer.short_of)
    tables = [line for line in out.splitlines() if str(tuned) not in line and "report.html" not in line]
    assert max(map(len, tables)) <= 100


def test_who_serves_follows_from_what_was_measured(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the times that this run took, and with our kernel's made so short that nothing is faster."""
    (entry,) = Cache(tuned / "cache", shipped=None).entries()
    peer = entry.record.peers["sdpa"]
    calls: list[float] = []
    attend = libraries.LIBRARIES["cpu"]["sdpa"]
    monkeypatch.setitem(libraries.LIBRARIES["cpu"], "sdpa", lambda *given: calls.append(given[-1]) or attend(*given))
    q, k, v = (torch.randn(1, 2, 64, 16) for _ in range(3))
    for number, (low, seconds) in enumerate([(entry.record.low, entry.record.seconds), (1e-9, 1e-9)]):
        record = replace(entry.record, low=low, seconds=seconds, high=max(seconds, entry.record.high))
        monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / str(number)))
        Cache().store(entry.key, record)
        found = fastest_known(Cache(), entry.key, ["sdpa"], libraries.FIXED)
        sure = not record.doubt and not peer.short_of and peer.high is not None
        assert (found is not None) == (sure and peer.high < low)
        with eintune.configure(policy="fastest"):
            before = len(calls)
            eintune.attention(q, k, v)
        notices.forget()
        assert (len(calls) > before) == (found is not None)


def test_finalists_are_shown_as_they_were_timed_together() -> None:
    """A busy machine may take longer then: a winner never stands above what looks faster, but was not timed with it."""

    def trial(key: str, seconds: float) -> SimpleNamespace:
        point = SimpleNamespace(key=key, group="g", variant=SimpleNamespace(label=key), schedule=Schedule("torch", ()))
        return SimpleNamespace(point=point, ok=True, predicted=1e-3, measurement=SimpleNamespace(seconds=seconds))

    a, b, c = trial("a", 1e-3), trial("b", 1.1e-3), trial("c", 2e-3)
    times = {"a": SimpleNamespace(seconds=4e-3), "b": SimpleNamespace(seconds=3e-3)}
    finals = SimpleNamespace(times=times, winner=b)
    result: Any = SimpleNamespace(outcome=SimpleNamespace(trials=[a, c, b]), finals=finals)
    lines = _trials(result, 3, ("sdpa", 6e-3)).splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["b", "a", "c"]
    assert [line.split()[-1] for line in lines] == ["2.00x", "1.50x", "3.00x"]
    alone = _trials(result, 3, None)
    assert "vs" not in alone and [line.split()[-2:] for line in alone.splitlines()[2:]] == [
        ["3", "ms"],
        ["4", "ms"],
        ["2", "ms"],
    ]


def test_progress_goes_to_stderr_with_the_reasons_of_what_was_left_out(tuned: Path) -> None:
    err = (tuned / "stderr").read_text()
    for word in ("derive", "price", "search", "finals", "store", "left out:", "1/6"):
        assert word in err
    assert "left out" not in (tuned / "stdout").read_text()


def test_the_report_holds_the_run(tuned: Path) -> None:
    (page,) = tuned.glob("results/*/attention-b1-h2-s64-d16-fp32/report.html")
    found = read_run(page.parent)
    assert found.command.endswith(" ".join(("tune", *SIZE, *FAST, "--json", "first.json")))
    assert 1 <= len(found.rows) <= 6 and {"derive", "price", "time", "finals"} <= set(found.stages)
    space = found.space
    assert sum(space["left_out"].values()) + space["kept"] == space["candidates"]
    assert found.winner["seconds"] > 0 and found.peers["sdpa"]["status"] == "ok"
    assert {r["status"] for r in found.rows} <= {"ok", "wrong"}
    data = json.loads((tuned / "first.json").read_text())["result"]
    assert data["cached"] is False and data["winner"]["key"] == found.winner["key"]


def test_a_second_call_answers_from_the_cache(tuned: Path) -> None:
    begun = time.monotonic()
    done = run(tuned, "--json", "second.json")
    seconds = time.monotonic() - begun
    assert done.returncode == 0
    assert "from the cache, nothing was measured" in done.stdout
    assert all(line.lstrip()[:1].isdigit() for line in done.stderr.splitlines()), "progress alone"
    assert json.loads((tuned / "second.json").read_text())["result"]["cached"] is True
    assert seconds < 30, "well under 5 s on an idle machine"


def test_a_program_runs_the_stored_winner(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tuned / "cache"))
    (entry,) = Cache(shipped=None).entries()
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 64, 16, generator=generator) for _ in range(3))
    # Which of the two is faster at this size is the machine's to say.
    with caplog.at_level("DEBUG", logger="eintune"), eintune.configure(policy="own"):
        got = eintune.attention(q, k, v)
    torch.testing.assert_close(got, torch.nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=1e-5)
    assert any(entry.key.file_name in m and "stored winner" in m for m in caplog.messages), caplog.messages


def test_the_result_is_seen_before_its_report_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = []

    def drawn(run: Run, folder: Path) -> Path:
        seen.append(capsys.readouterr().out)
        return folder / "page.html"

    monkeypatch.setattr("eintune.search.report.report.write_report", drawn)
    assert main(["tune", *SIZE, "--trials", "1", "--cache", "cache"]) == 0
    (result,) = seen
    assert all(word in result for word in ("predicted", "winner", "stored", "results: "))
    assert capsys.readouterr().out.split()[0::2] == ["report"]


def test_a_reader_that_goes_away_costs_no_report(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*command("--trials", "1"), "--quiet"],
        cwd=tmp_path,
        env=os.environ | {"EINTUNE_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(120) == 0 and b"Error" not in err
    assert list(tmp_path.glob("results/*/*/report.html"))


def test_a_lost_record_is_found_again_from_the_journal(tuned: Path, tmp_path: Path) -> None:
    """Everything was measured already, so only the finals run."""
    copy = copied(tuned, tmp_path)
    for path in (copy / "cache" / "records").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    done = run(copy)
    assert done.returncode == 0
    assert "is not used: input data was truncated" in done.stderr and "going on: " in done.stderr
    assert "1/6" not in done.stderr
    (entry,) = Cache(copy / "cache", shipped=None).entries()
    assert entry.record.seconds > 0


def test_a_damaged_journal_is_one_line_and_leaves_the_cache_alone(tuned: Path, tmp_path: Path) -> None:
    copy = copied(tuned, tmp_path)
    (record,) = (copy / "cache" / "records").glob("*.json")
    before = record.read_bytes()
    (journal,) = (copy / "cache" / "journals").glob("*.jsonl")
    journal.write_bytes(b"\x00" * 50 + b"\n" + journal.read_bytes())
    record.rename(record.with_suffix(".old"))
    done = run(copy, "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("eintune: error: journal ") and "line 1 is damaged" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert record.with_suffix(".old").read_bytes() == before
    again = run(copy, "--quiet", "--retune")
    assert again.returncode == 0, again.stderr


def test_a_full_disk_is_one_line_and_leaves_the_cache_alone(tuned: Path, tmp_path: Path) -> None:
    copy = copied(tuned, tmp_path)
    (record,) = (copy / "cache" / "records").glob("*.json")
    before = record.read_bytes()

    def no_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = run(copy, "--quiet", "--retune", preexec_fn=no_space)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and "File too large" in done.stderr
    assert record.read_bytes() == before


def test_a_report_that_cannot_be_written_keeps_the_winner(tuned: Path, tmp_path: Path) -> None:
    copy = copied(tuned, tmp_path)
    (copy / "other").mkdir()
    for machine in (tuned / "results").iterdir():  # nothing can be made below what is a file
        (copy / "other" / machine.name).write_text("")
    done = run(copy, "--quiet", "--retune", "--results", str(copy / "other"))
    assert done.returncode == 1
    assert "the report cannot be written" in done.stderr and "the winner is stored" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "winner" in done.stdout


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    environment = os.environ | {"EINTUNE_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command(), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if " 1/6 " in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait(60)
    assert not (tmp_path / "cache" / "records").exists()
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "going on: " in done.stderr
    (page,) = tmp_path.glob("results/*/*/report.html")
    rows = read_run(page.parent).rows
    assert len({r["key"] for r in rows}) == len(rows) <= 6


def test_causal_and_grouped_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--heads", "4", "--kv-heads", "2", "--causal", "--kv-seq", "48", "--trials", "3", "--quiet")
    code = main(["tune", *SIZE, *options, "--cache", str(tmp_path / "cache"), "--results", str(tmp_path / "results")])
    out = capsys.readouterr().out
    assert code == 0 and "2 kv heads" in out and "causal" in out
    (page,) = (tmp_path / "results").glob("*/attention-b1-h4kv2-s64k48-d16-fp32-causal/report.html")
    assert all(r["status"] == "ok" for r in read_run(page.parent).rows)


def copied(tuned: Path, folder: Path) -> Path:
    import shutil

    shutil.copytree(tuned / "cache", folder / "cache")
    return folder
