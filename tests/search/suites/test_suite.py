"""Suites of benchmark cases: stated as data, each case kept when it is there, a failure is a row and not the end."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eintune.costmodel.machines.machine import load_machine
from eintune.search.bench.case import WINNER, Case, Found, Options, Row
from eintune.search.cli.main import main
from eintune.search.measure.inputs import draw_inputs
from eintune.search.measure.measurement import Measurement
from eintune.search.options.command import Usage
from eintune.search.peers.copy_ceiling import COPY, copying, least_bytes
from eintune.search.peers.peers import PEERS
from eintune.search.suites import run as suite_bench
from eintune.search.suites.files import read, to_json, write
from eintune.search.suites.plots import picture
from eintune.search.suites.run import SuiteResult, run_suite
from eintune.search.suites.suite import Suite, built_in, load_suite, parse_suite, stated
from eintune.search.suites.text import comparison, geometric, means, short_names, suite_text
from eintune.search.text.progress import Progress
from eintune.search.tune.provenance import describe

ONE = "--batch 1 --heads 2 --seq 16 --head-dim 16"
TWO = f"{ONE} --causal"
OPTIONS = Options(("interleaved",), ("sdpa", "sdpa-math"), warmup=0, iters=2, handful=0, effort=None)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache, a lock and a directory of one's own."""
    locks = tmp_path / "locks"
    locks.mkdir()
    monkeypatch.setenv("TMPDIR", str(locks))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


# ---- stated as data


@pytest.mark.parametrize("name", built_in())
def test_the_suites_that_come_with_the_package(name: str) -> None:
    suite = load_suite(name)
    cases = stated(suite.cases, "bf16")
    assert len({c.name for c in cases}) == len(suite.cases) > 0
    assert set(suite.peers) <= set(PEERS) and set(suite.against) <= set(suite.peers) and suite.title != name


def test_the_nine_cases_of_attention() -> None:
    sizes = [(c.problem.sizes, bool(c.about.modifiers)) for c in stated(load_suite("attention").cases, "bf16")]
    shapes = {(s["b"], s["h"] * s.get("g", 1), s["h"], s["p"], s["e"], causal) for s, causal in sizes}
    square = [(1, 2048, 128), (4, 2048, 128), (4, 2048, 64), (1, 8192, 128)]
    wanted = {(b, 32, 32, s, d, causal) for b, s, d in square for causal in (False, True)}
    assert shapes == wanted | {(4, 32, 8, 4096, 128, True)}


def test_the_variants_of_attention() -> None:
    cases = stated(load_suite("variants").cases, "bf16")
    kinds = {(c.problem.sizes["h"], c.problem.sizes["p"], c.about.words) for c in cases}
    words = ("causal, window 1024", "softcap 30, causal", "ALiBi, causal", "causal, documents", "causal, sinks")
    assert kinds == {(h, p, w) for h, p in ((32, 2048), (8, 4096)) for w in words}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cases = []", "at least one case"),
        ("case = ['--seq 1']", "has the keys title, peers, against, copy, states, cases, but got 'case'"),
        ("cases = 'x'", "`cases`: expected `array`, got `str`"),
        ("cases = ['x']\nstates = ['warm']", "`states[0]`: invalid enum value 'warm'"),
        ("cases = ['x']\ncopy = 'yes'", "`copy`: expected `bool`, got `str`"),
        ("cases = [", "not TOML"),
    ],
)
def test_a_suite_states_its_rules(text: str, says: str) -> None:
    with pytest.raises(Usage) as raised:
        parse_suite("mine", text.encode(), "mine.toml: ")
    assert says in str(raised.value) and str(raised.value).startswith("mine.toml: ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--suite", "fastest"), "must be a TOML file or one of attention, "),
        (("--case", "--heads 2"), "case '--heads 2': the following arguments are required: --seq"),
        (("--case", "--workload tea"), "case '--workload tea': "),
        (("--case", f"{ONE} --window 0"), "but got '0'"),
        (("--case", f"{ONE} --sigmoid --sinks"), "need weights by softmax"),
        (("--case", "--workload softmax --heads 2"), "softmax takes no --heads"),
        (("--case", f"{ONE} --kv-heads 3"), "must be a multiple of `kv_heads`"),
        (("--case", ONE, "--case", f"{ONE} --batch 1"), "cases must differ"),
        (("--case", ONE, "--peers", "fastest"), "but got 'fastest'"),
        (("--case", ONE, "--suite", "attention", "--json", "x.json"), "--json needs one suite, but got 2"),
        (("--case", ONE, "--limit", "0"), "a number of seconds above 0"),
        (("--case", ONE, "--heads", "2"), "a suite's cases state their problems themselves, but got --heads too"),
        (("--unseen", "2", "--dtype", "fp32"), "state their problems themselves, but got --dtype too"),
        (("--case", ONE, "--seed", "1"), "--seed is of --unseen, but got no --unseen"),
    ],
)
def test_wrong_usage(options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *options, "--device", "cpu", "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and len(err.splitlines()) == 1


# ---- made-up measurements


def row(variant: str, seconds: float, *, state: str = "interleaved", status: str = "ok", ours: bool = False) -> Row:
    good = status == "ok"
    m = Measurement(variant, status, *(3 * (seconds,) if good else ()), message="" if good else "no such thing")
    return Row(16, variant, ours or variant == WINNER, state, m, math.nan, ceiling=variant == COPY)  # type: ignore[arg-type]


def begun(*texts: str, **more: Any) -> tuple[tuple[Any, ...], SuiteResult]:
    suite = Suite("made", "Made up", texts, OPTIONS.peers, **more)
    cases = stated(texts, "fp32")
    machine = describe(load_machine("cpu"), cases[0].problem)
    return cases, SuiteResult(suite, machine, {"torch": "2"}, {"iters": 2}, "eintune bench", "now")


def run(answers: list[Any], monkeypatch: pytest.MonkeyPatch, *texts: str, **more: Any) -> SuiteResult:
    """A suite whose cases come to `answers`: rows, or an error."""
    waiting = iter(answers)

    def measure(case: Case, *rest: object) -> Found:
        answer = next(waiting)
        if isinstance(answer, Exception):
            raise answer
        return Found(tuple(answer), "stored by tune")

    monkeypatch.setattr(suite_bench, "measure_case", measure)
    cases, empty = begun(*texts, **more)
    return run_suite(cases, empty, OPTIONS, load_machine("cpu"), "cpu", Path("cache"), progress=Progress())


def test_ratios_to_the_best_peer_and_to_the_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        [row(WINNER, 2e-3), row("sdpa", 1e-3), row("flex", 4e-3), row("flex2", 3e-3), row(COPY, 1e-3)],
        [row(WINNER, 2e-3), row("sdpa", 4e-3), row("flex", 8e-3), row("flex2", 1, status="wrong"), row(COPY, 5e-4)],
    ]
    result = run(answers, monkeypatch, ONE, TWO, against=("flex", "flex2"))
    table = comparison(result)
    assert list(table["ratio"]) == [0.5, 2.0] and list(table["against_ratio"]) == [1.5, 4.0]
    assert list(table["against"]) == ["flex2", "flex"] and list(table["share_of_copy"]) == [0.5, 0.25]
    average = means(table)["interleaved"]
    assert average["ratio"] == pytest.approx(1.0) and average["against_ratio"] == pytest.approx(math.sqrt(6))
    text = suite_text(result)
    assert "geometric mean" in text and "1.00x" in text and "2.45x" in text and "flex2 at attention" in text
    assert max(map(len, text.splitlines())) <= 100
    assert not result.wrong
    assert len(picture(result).axes) == 1


def test_a_copy_is_never_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run([[row(WINNER, 2e-3), row("sdpa", 3e-3), row(COPY, 1e-3)]], monkeypatch, ONE)
    (line,) = comparison(result).to_dict("records")
    assert line["best_peer"] == "sdpa" and line["ratio"] == 1.5
    (copied,) = (r for r in result.cases[0].rows if r["variant"] == COPY)
    assert copied["by"] == "ceiling" and copied["gbytes_per_second"] == pytest.approx(4 * 2 * 16 * 16 * 4 / 1e-3 / 1e9)


def test_states_are_never_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    cool = [row(WINNER, 1e-3, state="cool"), row("sdpa", 2e-3, state="cool")]
    hot = [row(WINNER, 4e-3, state="hot"), row("sdpa", 1e-3, state="hot")]
    table = comparison(run([[*cool, *hot]], monkeypatch, ONE))
    assert dict(zip(table["state"], table["ratio"], strict=True)) == {"cool": 2.0, "hot": 0.25}


def test_a_case_that_fails_is_a_row_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [RuntimeError("the device\nhas gone"), [row(WINNER, 1e-3), row("sdpa", 2e-3)]]
    result = run(answers, monkeypatch, ONE, TWO)
    lost, good = result.cases
    assert [r["status"] for r in lost.rows] == ["run-error"] and "RuntimeError: the device" in lost.rows[0]["message"]
    assert lost.note.startswith("not measured: ") and len(good.rows) == 2
    assert result.wrong and list(comparison(result)["ratio"].dropna()) == [2.0]
    assert "run-error: RuntimeError: the" in suite_text(result)
    json.dumps(to_json(result), allow_nan=False)


def test_a_case_without_a_kernel_of_ours_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run([[row("sdpa", 1e-3)]], monkeypatch, ONE)
    assert result.wrong and result.cases[0].rows[-1]["variant"] == WINNER


def test_short_names_stay_different() -> None:
    assert list(short_names(["a-b-c", "a-b", "a-b-d-e"]).values()) == ["b-c", "b", "b-d-e"]
    assert short_names(["a-b"]) == {"a-b": "a-b"}


def test_geometric_means_leave_out_what_is_not_there() -> None:
    assert geometric([2.0, 8.0, math.nan]) == pytest.approx(4.0) and math.isnan(geometric([math.nan]))


# ---- kept, and gone on with


def test_each_case_is_kept_at_once_and_a_later_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(case: Case, *rest: object) -> Found:
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(case.problem.cascade)
        return Found((row(WINNER, 1e-3), row("sdpa", 2e-3), row("flex", 1, status="crashed")), "stored", {"cool": 1700})

    monkeypatch.setattr(suite_bench, "measure_case", measure)
    cases, empty = begun(ONE, TWO)

    def go(start: SuiteResult) -> SuiteResult:
        return run_suite(
            cases, start, OPTIONS, load_machine("cpu"), "cpu", tmp_path, progress=Progress(), keep=lambda r: _write(r)
        )

    def _write(result: SuiteResult) -> None:
        names = {p.name for p in write(result, tmp_path / "kept")}
        assert names == {f"benchmark_made{end}" for end in (".csv", "_ratios.csv", ".json", ".png")}

    with pytest.raises(KeyboardInterrupt):
        go(empty)
    before = read(tmp_path / "kept", empty.suite)
    assert before is not None and [c.name for c in before.cases] == [cases[0].name] and empty.agrees(before)
    assert before.cases[0].clocks == {"cool": 1700}
    measured.clear()
    whole = go(before)
    assert [c.name for c in whole.cases] == [c.name for c in cases] and len(measured) == 1
    assert list(comparison(whole)["ratio"]) == [2.0, 2.0]
    assert not replace(empty, versions={"torch": "3"}).agrees(before)
    assert read(tmp_path, empty.suite) is None
    (tmp_path / "kept" / "benchmark_made.json").write_text('{"format": 7}')
    with pytest.raises(Usage, match="must be of format 1"):
        read(tmp_path / "kept", empty.suite)


def test_no_case_starts_after_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 60))
    monkeypatch.setattr(suite_bench.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(suite_bench, "measure_case", lambda *a: Found((row(WINNER, 1e-3),), ""))
    cases, empty = begun(ONE, TWO)
    result = run_suite(cases, empty, OPTIONS, load_machine("cpu"), "cpu", tmp_path, progress=Progress(), limit=100.0)
    assert [c.name for c in result.cases] == [cases[0].name]


# ---- for real


def test_a_copy_moves_the_bytes_of_the_problem() -> None:
    (case,) = stated([ONE], "fp32")
    assert least_bytes(case.problem) == 4 * 4 * 2 * 16 * 16
    assert copying(case.problem, draw_inputs(case.problem, "cpu"))() == {}


def test_the_whole_command_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text(
        f'title = "Mine"\npeers = ["sdpa", "sdpa-cudnn", "sdpa-math"]\nagainst = ["sdpa-math"]\ncopy = true\n'
        f'states = ["cool", "hot"]\ncases = ["{ONE}"]\n'
    )
    options = ("--suite", "mine.toml", "--iters", "2", "--warmup", "0", "--trials", "1", "--device", "cpu")
    assert main(["bench", *options, "--machine", "cpu", "--json", "out.json"]) == 0
    out, err = capsys.readouterr()
    assert out.index("VERIFYING CORRECTNESS") < out.index("PASS") < out.index("MINE") < out.index("geometric mean")
    assert "not compared" in out and "sdpa-cudnn: needs a CUDA GPU" in out and "case 1 of 1" in err
    data = json.loads(Path("out.json").read_text())["result"]
    assert data["versions"]["torch"] and data["machine"]["title"] and data["command"].startswith("eintune bench")
    (case,) = data["cases"]
    assert {r["variant"]: r["by"] for r in case["rows"]} == {
        WINNER: "eintune",
        "sdpa": "peer",
        "sdpa-math": "peer",
        COPY: "ceiling",
    }
    assert {r["state"] for r in case["rows"]} == {"interleaved"} and all(r["status"] == "ok" for r in case["rows"])
    assert data["ratios"][0]["against"] == "sdpa-math" and data["geometric_means"]["interleaved"]["ratio"] > 0
    assert main(["bench", *options, "--machine", "cpu", "--resume"]) == 0
    out, err = capsys.readouterr()
    assert "kept from an earlier run" in err and "geometric mean" in out
