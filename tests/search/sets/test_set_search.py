"""Tuning a set on this CPU, from the command line to a program that is served by what was found."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import eintune
from eintune.costmodel.machines.machine import load_machine
from eintune.host.notices import logger
from eintune.host.recent import Recent
from eintune.kernels.emit.kernel import Kernel
from eintune.kernels.launch.compiled_cache import TRITON_VARIABLE, compiled_folder
from eintune.kernels.launch.offline import CompileError
from eintune.kernels.serve import priced
from eintune.kernels.serve import warm as warm_module
from eintune.kernels.store.cache import Key
from eintune.kernels.store.portfolio import read_portfolios
from eintune.search.cli.main import main
from eintune.search.sets import command

COMMON = ("tune", "--heads", "2", "--head-dim", "16", "--device", "cpu", "--quiet")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_a_range_becomes_a_portfolio_that_serves(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line = (*COMMON, "--seq", "48,64:160", "--trials", "12", "--budget", "90", "--json", "out.json")
    assert main(line) == 0
    out = capsys.readouterr().out
    ((path, portfolio),) = read_portfolios(cache / "portfolios").items()
    assert [dict(p.sizes)["m"] for p in portfolio.points] == [48, 64, 128, 160]
    written = json.loads(Path("out.json").read_text())["result"]
    assert written["machine"] and written["versions"]["torch"]
    (found,) = written["sets"]
    assert found["portfolio"] == path.name and len(found["kept"]) == len(portfolio.kernels) <= 4
    for p in found["points"]:
        kept = [s for n, s in p["seconds"].items() if int(n) in found["kept"]]
        assert min(kept) <= 1.0301 * min(p["seconds"].values()) and p["peers"]["sdpa"]["status"] == "ok"
    assert "against it" in out and path.name in out
    # again: nothing is measured
    assert main(line) == 0
    assert "all 4 points are stored already" in capsys.readouterr().out
    assert json.loads(Path("out.json").read_text())["result"]["sets"][0]["portfolio"] == path.name
    # a length that was not measured is served by a kernel that was, and nothing is planned for it
    monkeypatch.setattr(priced, "_picks", lambda *_: pytest.fail("the model was asked for a pick"))
    caplog.set_level("INFO", logger.name)
    q, k, v = (torch.randn(1, 2, 100, 16) for _ in range(3))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    with eintune.configure(policy="own"):  # whether a library is faster at the points is the machine's to say
        torch.testing.assert_close(eintune.attention(q, k, v), wanted, rtol=1e-4, atol=1e-5)
    assert any("is served by a kernel of a portfolio" in r.getMessage() for r in caplog.records)


def test_who_waited_for_a_set_reads_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = (*COMMON, "--seq", "32,48", "--trials", "4", "--budget", "60")
    alone = command.only_search

    @contextmanager
    def after_another(cache: Path, key: Key, waiting: Callable[[str], None]) -> Iterator[bool]:
        monkeypatch.setattr(command, "only_search", alone)
        assert main(line) == 0
        monkeypatch.setattr(command, "tune_set", lambda *_, **__: pytest.fail("it is searched for again"))
        yield True

    monkeypatch.setattr(command, "only_search", after_another)
    assert main(line) == 0
    assert "all 2 points are stored already" in capsys.readouterr().out


def test_a_point_that_is_too_large_leaves_the_others(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One does not fit into memory (it is the first, which processes get ready for), another takes hours."""
    begun = time.monotonic()
    assert main((*COMMON, "--seq", "1000000000,400000,40", "--trials", "2", "--budget", "20")) == 0
    out = capsys.readouterr().out
    ((_, portfolio),) = read_portfolios(cache / "portfolios").items()
    assert [dict(p.sizes)["m"] for p in portfolio.points] == [40]
    assert main(("cache", "explain", *COMMON[1:-1], "--seq", "40")) == 0  # a point is no miss
    assert "a point of a portfolio" in capsys.readouterr().out
    assert main(("cache", "explain", *COMMON[1:-1], "--seq", "41")) == 1
    assert re.search(r"m=1000000000: checking kernels of this size takes [\d.]+ TiB", out)
    assert re.search(r"m=400000: the fastest candidate is expected to take \d+ s a run, but the budget of this", out)
    assert "for 1 point;" in out and time.monotonic() - begun < 120
    assert main((*COMMON, "--seq", "400000,800000", "--budget", "20")) == 1
    assert "at any point of the set: the fastest candidate" in capsys.readouterr().err


def test_a_suites_cases_are_tuned_by_definition(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = ["--seq 32,64 --heads 2 --head-dim 16", "--seq 32 --heads 2 --head-dim 16 --causal"]
    Path("mine.toml").write_text(f"cases = {json.dumps(cases)}\n")
    assert main(("tune", "--set", "mine.toml", "--device", "cpu", "--quiet", "--trials", "6", "--budget", "60")) == 0
    assert len(read_portfolios(cache / "portfolios")) == 2 and "set 2 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seq", "64:32"), "begins with its least size"),
        (("--seq", "64,x"), "whole number"),
        (("--seq", "64,,128"), "whole number"),
        (("--seq", "64:"), "whole number"),
        (("--seq", ",".join(map(str, range(1, 300)))), "at most 256 sizes"),
        (("--seq", "1:65536", "--batch", "1:65536"), "at most 256 points"),
        (("--seq", "64,128", "--plan-only"), "--plan-only"),
        (("--seq", "64", "--set", "attention"), "--set states its cases itself"),
        (("--set", "nowhere.toml"), "--set states its cases itself"),
    ],
)
def test_wrong_usage(options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main((*COMMON, *options)) == 2
    assert says in capsys.readouterr().err


def test_other_commands_take_one_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("plan", "--seq", "64,128", "--heads", "2", "--machine", "h200")) == 2
    assert "whole number" in capsys.readouterr().err


# ---- warm


@pytest.mark.parametrize("workload", ["rmsnorm", pytest.param(None, marks=pytest.mark.soak)])
def test_what_ships_is_compiled_for_a_machine_that_is_not_here(
    workload: str | None, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(TRITON_VARIABLE, raising=False)
    first = eintune.warm(workload, machine="h200")
    assert first.compiled > 0 and not first.failed and first.architecture == "sm_90"
    folder = compiled_folder()
    assert folder is not None and folder == first.folder and folder.parent == cache / "compiled"
    made = sorted(folder.rglob("*.cubin"))
    assert len(made) >= first.compiled
    # a later process finds all of it: nothing is compiled again
    of = ("--workload", workload) if workload else ()
    assert main(("warm", "--machine", "h200", "--quiet", *of)) == 0
    assert f"{first.compiled} kernels compiled for sm_90" in capsys.readouterr().out
    assert sorted(folder.rglob("*.cubin")) == made


def test_what_is_compiled_is_loaded_where_the_machine_is_here(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Kernel] = []

    def load(kernel: Kernel, architecture: str, device: int, folder: Path | None) -> None:
        if not loaded:
            loaded.append(kernel)
            raise CompileError("out of resources")
        loaded.append(kernel)

    monkeypatch.delenv(TRITON_VARIABLE, raising=False)
    monkeypatch.setattr(warm_module, "_present_as", lambda machine: torch.device("cuda", 0))
    monkeypatch.setattr(warm_module, "preload", load)
    monkeypatch.setattr(priced, "machine_of", lambda device: load_machine("h200"))
    monkeypatch.setattr(priced, "_at_points", Recent(64))
    made = eintune.warm("softmax", machine="h200")
    assert len(loaded) == made.compiled == made.loaded + 1 and made.failed == ("not loaded: out of resources",)
    assert len(priced._at_points) > 1  # what a first call has to know


def test_a_warm_cache_may_be_moved(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled again at another path, and what was cut off is."""
    monkeypatch.delenv(TRITON_VARIABLE, raising=False)
    made = eintune.warm("rmsnorm", machine="h200", cache=cache / "here")
    (cache / "here").rename(cache / "there")
    cubins = sorted((cache / "there").rglob("*.cubin"))
    times = [p.stat().st_mtime_ns for p in cubins]
    assert eintune.warm("rmsnorm", machine="h200", cache=cache / "there").compiled == made.compiled == len(cubins)
    assert [p.stat().st_mtime_ns for p in cubins] == times
    for path in (cache / "there").rglob("*.json"):
        path.write_text("")
    again = eintune.warm("rmsnorm", machine="h200", cache=cache / "there")
    assert again.compiled == made.compiled and not again.failed
    assert [p.stat().st_mtime_ns for p in cubins] != times


def test_warm_without_a_gpu_or_a_machine_says_what_to_name(capsys: pytest.CaptureFixture[str]) -> None:
    for options in ((), ("--machine", "cpu"), ("--machine", "h201")):
        if options or not torch.cuda.is_available():
            assert main(("warm", *options)) == 2
            assert "machine" in capsys.readouterr().err
    assert main(("warm", "--workload", "nothing", "--machine", "h200")) == 2
    assert "--workload must be one of" in capsys.readouterr().err
    assert eintune.warm("attention", machine="b200").compiled == 0


def test_compiled_kernels_are_nobody_elses(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that others may write to, or that another user's key named, is not used."""
    monkeypatch.delenv(TRITON_VARIABLE, raising=False)
    folder = compiled_folder()
    assert folder is not None and folder.stat().st_mode & 0o077 == 0 and folder.parent.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("EINTUNE_CACHE", str(cache / "open"))
    (cache / "open" / "compiled").mkdir(parents=True)
    (cache / "open" / "compiled").chmod(0o777)
    assert compiled_folder() is None
    monkeypatch.setenv(TRITON_VARIABLE, "elsewhere")
    monkeypatch.setenv("EINTUNE_CACHE", str(cache))
    assert compiled_folder() is None
