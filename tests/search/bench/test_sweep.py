"""The benchmark: every variant is checked before it is timed, failures are results, ratios stay within a state."""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eintune.costmodel.machines.machine import load_machine
from eintune.search.bench.case import WINNER, Options, Row, best, reference_winner, verdict
from eintune.search.bench.files import frame_of, stem, to_json, write
from eintune.search.bench.plots import lines_of, picture
from eintune.search.bench.sweep import Result, Setting
from eintune.search.bench.text import correctness_text, times_text
from eintune.search.bench.variants import picks
from eintune.search.cli.main import main
from eintune.search.measure.measurement import Measurement
from eintune.search.measure.policy import PAUSES, Policy
from eintune.search.measure.timing import LONGEST_BURST, Sampler, in_turns
from eintune.search.peers.peers import PEERS
from eintune.search.tune.provenance import describe
from eintune.space.workloads.builtin import attention_problem

SIZE = ("--heads", "2", "--head-dim", "16", "--device", "cpu", "--machine", "cpu")
Complaint = Callable[..., str]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache, a lock and a directory of one's own."""
    locks = tmp_path / "locks"
    locks.mkdir()
    monkeypatch.setenv("TMPDIR", str(locks))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


# ---- the whole command


def test_the_whole_command_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--seq", "24,16", "--warmup", "1", "--iters", "3", "--peers", "sdpa,sdpa-cudnn,eager")
    extra = ("--skip-eager", "--causal", "--trials", "2", "--json", str(tmp_path / "out.json"), "--quiet")
    assert main(["bench", *SIZE, *options, *extra]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    checked, timed = out.index("VERIFYING CORRECTNESS"), out.index("TIMES")
    assert checked < out.index("PASS") < timed < out.index("milliseconds")
    assert "PASS" not in out[timed:] and "FAIL" not in out
    assert max(map(len, out.splitlines())) <= 100 + len(str(tmp_path))
    assert "sdpa-cudnn: needs a CUDA GPU" in out and "eager" not in out[timed:]
    for kind in (WINNER, "eintune 1-pass", "eintune 2-pass", "eintune 3-pass"):
        assert kind in out[:timed] and kind in out[timed:]

    data = json.loads((tmp_path / "out.json").read_text())["result"]
    rows = data["rows"]
    assert {r["seq"] for r in rows} == {16, 24} and {r["state"] for r in rows} == {"interleaved"}
    assert {r["by"] for r in rows if r["variant"] == "sdpa"} == {"peer"}
    for row in rows:
        assert row["status"] == "ok" and 0 < row["low_ms"] <= row["ms"] <= row["high_ms"]
        assert 0 < row["rms_error"] <= row["rms_budget"]
        assert row["tflops"] == pytest.approx(4 * 2 * 16 * row["seq"] * (row["seq"] + 1) / 2 / row["ms"] / 1e9)
    assert data["versions"]["torch"] and data["command"].startswith("eintune bench") and data["machine"]["title"]
    assert data["missing_peers"] == {"sdpa-cudnn": "needs a CUDA GPU"}
    assert all("small search" in origin for origin in data["winners"].values())

    (folder,) = (tmp_path / "results").iterdir()
    names = {p.name for p in folder.iterdir()}
    assert names == {f"kernel_benchmark_h2_d16_causal.{suffix}" for suffix in ("csv", "png", "json")}
    with (folder / "kernel_benchmark_h2_d16_causal.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert (folder / "kernel_benchmark_h2_d16_causal.png").read_bytes().startswith(b"\x89PNG")


def test_a_stored_winner_serves_and_none_is_searched_with_no_tune(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--seq", "16", "--iters", "2", "--warmup", "0", "--peers", "none", "--no-tune", "--quiet")
    assert main(["bench", *SIZE, *options]) == 0
    out = capsys.readouterr().out
    assert "none is stored, and --no-tune was given" in out and WINNER not in out
    tuned = ("tune", "--seq", "16", "--heads", "2", "--head-dim", "16", "--device", "cpu", "--machine", "cpu")
    assert main([*tuned, "--trials", "2", "--quiet"]) == 0
    capsys.readouterr()
    states = ("--cool", "--hot", "--json", str(tmp_path / "out.json"))
    assert main(["bench", *SIZE, *options, *states]) == 0
    out = capsys.readouterr().out
    assert "stored by tune" in " ".join(out.split()) and WINNER in out  # a long description is wrapped
    assert out.index("milliseconds, cool (idle for 0.25 s") < out.index("milliseconds, hot (the same kernel for 0.5 s")
    rows = json.loads((tmp_path / "out.json").read_text())["result"]["rows"]
    for name in {r["variant"] for r in rows}:
        timed = {r["state"]: (r["ms"], r["samples"]) for r in rows if r["variant"] == name}
        assert set(timed) == {"cool", "hot"} and len(set(timed.values())) == 2
    # without any peer there is nothing to be compared with
    assert "slower than" not in out and "geometric mean" not in out


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_each_kind_has_its_best_predicted_kernels(tmp_path: Path, kv_heads: int) -> None:
    size = {"batch": 1, "heads": 2, "kv_heads": kv_heads, "head_dim": 16, "dtype": "bf16"}
    problem = attention_problem(**size, seq=96, kv_seq=96)  # type: ignore[arg-type]
    found = picks(problem, load_machine("h200"), "cuda", tmp_path, 3)
    assert not found.lost and {kind.split()[1].strip(",") for kind in found.kinds} == {"1-pass", "2-pass", "3-pass"}
    for few in found.kinds.values():
        assert 1 <= len({c.kernel.digest for c in few}) == len(few) <= 3
        assert all(c.kernel.emitter in ("triton", "gluon") and "scaled_dot_product" not in c.kernel.source for c in few)
    tiny = replace(load_machine("h200"), shared_bytes_per_program=1024, shared_bytes_per_sm=1024)
    nothing = picks(problem, tiny, "cuda", tmp_path, 3)
    assert not nothing.kinds and all("shared memory" in reason for reason in nothing.lost.values())


# ---- wrong usage


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Complaint:
    def run(*arguments: str) -> str:
        assert main(["bench", *arguments, "--quiet"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and err.startswith("eintune: error: ")
        return err

    return run


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seq", ""), "whole number from 1 to 2147483648, but got ''"),
        (("--seq", "16,,32"), "but got ''"),
        (("--seq", "16,-1"), "but got '-1'"),
        (("--seq", "2000000000", "--heads", "2000000000"), "at most 2**36 elements"),
        (("--heads", "0"), "but got '0'"),
        (("--heads", "6", "--kv-heads", "4"), "(heads=6, kv_heads=4)"),
        (("--head-dim", "513"), "at most 512, but got 513"),
        (("--seq-lengths", "16"), "unrecognized arguments: --seq-lengths"),
        (("--kinds",), "--kinds is of --suite, --case, --variants and --unseen, but got none of these"),
        (("--resume",), "--resume is of --suite"),
        (("--dtype", "int4"), "invalid choice: 'int4'"),
        (("--peers", "sdpa,fastest"), "but got 'fastest'"),
        (("--peers", ""), "but got ''"),
        (("--peers", "all,sdpa"), "but got 'all'"),
        (("--iters", "0"), "but got '0'"),
        (("--warmup", "-1"), "but got '-1'"),
        (("--machine", "h900"), "h100, h200"),
        (("--budget", "0"), "must be a number of seconds above 0, but got '0'"),
    ],
)
def test_wrong_usage(complaint: Complaint, options: tuple[str, ...], says: str) -> None:
    assert says in complaint(*options, "--device", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_a_gpu_that_is_not_here(complaint: Complaint) -> None:
    assert "--device must be auto or cpu" in complaint("--device", "cuda")
    assert "kind (cpu), but h200 is a gpu" in complaint("--machine", "h200")


# ---- states of the device


class Noted(Sampler):
    """A sampler that notes what happens, with a clock of its own."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.heard: list[str] = []

    def sample(self, run: Callable[[], object], repeats: int) -> Callable[[], float]:
        self.heard.append(f"sample {run()}")
        return lambda: 1.0


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    slept: list[float] = []
    monkeypatch.setattr("eintune.search.measure.timing.time.sleep", slept.append)
    yield slept


def test_cool_idles_before_each_turn(asleep: list[float]) -> None:
    sampler = Noted()
    policy = Policy(rounds=(4, 4), burst=3, before="idle", contender=math.inf, effort=1e3)
    timings = in_turns(
        {"a": lambda: "a", "b": lambda: "b"}, {"a": 1e-4, "b": 1e-4}, policy, sampler, lambda label: None
    )
    assert asleep == [PAUSES["idle"]] * 8
    assert timings["a"].samples == timings["b"].samples == 12
    turns = [sampler.heard[i : i + 3] for i in range(0, 24, 3)]
    assert all(len(set(turn)) == 1 for turn in turns)


def test_hot_runs_the_same_kernel_before_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(x / 10 for x in range(10_000))
    monkeypatch.setattr("eintune.search.measure.timing.time.perf_counter", lambda: next(clock))
    ran: list[str] = []
    runs = {label: (lambda label=label: ran.append(label) or label) for label in "ab"}
    policy = Policy(rounds=(2, 2), burst=1, before="itself", contender=math.inf, effort=1e3)
    in_turns(runs, {"a": 1.0, "b": 1.0}, policy, Noted(), lambda label: None)
    # PAUSES says half a second, the clock ticks tenths: five runs or so, then the sample, by the same kernel
    turns = [label for i, label in enumerate(ran) if i == 0 or ran[i - 1] != label]
    assert len(ran) >= 4 * 4 and 2 <= len(turns) <= 4


def test_warmup_comes_first_and_a_burst_stays_short(asleep: list[float]) -> None:
    calls: list[str] = []
    policy = Policy(rounds=(1, 1), warmup=3, burst=50, contender=math.inf, effort=10.0)
    timings = in_turns({"slow": lambda: calls.append("x")}, {"slow": 0.01}, policy, Noted(), lambda label: None)
    assert timings["slow"].samples == int(LONGEST_BURST / 0.01)
    assert len(calls) == 3 + int(LONGEST_BURST / 0.01) and asleep == []


@pytest.mark.parametrize(("name", "value"), [("before", "lunch"), ("burst", 0), ("warmup", -1)])
def test_a_policy_states_its_rules(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must .*but got {value!r}"):
        Policy(**{name: value})  # type: ignore[arg-type]


def test_states_have_policies_of_their_own() -> None:
    options = Options(("cool", "hot"), (), warmup=10, iters=100, handful=4, effort=None)
    cool, hot, mixed = (options.policy(s) for s in ("cool", "hot", "interleaved"))
    assert (cool.before, hot.before, mixed.before) == ("idle", "itself", "others")
    assert cool.rounds[1] * cool.burst == 100 == mixed.rounds[1] * mixed.burst
    assert len({cool.id, hot.id, mixed.id}) == 3
    fewer = replace(options, turns=3)
    assert fewer.policy("hot").rounds == (3, 3) and fewer.policy("hot").burst == 34
    assert fewer.policy("interleaved") == mixed


# ---- tables from made-up rows

SETTING = Setting((256, 512), 4, 4, 64, 1, "bf16", False, "cuda")


def row(variant: str, seconds: float, *, length: int = 256, state: str = "cool", status: str = "ok") -> Row:
    ok = status == "ok"
    m = Measurement(variant, status, *(3 * (seconds,) if ok else ()), message="" if ok else "no such thing")
    return Row(length, variant, variant.startswith("eintune"), state, m, SETTING.flops(length))  # type: ignore[arg-type]


def result(*rows: Row) -> Result:
    states = tuple(dict.fromkeys(r.state for r in rows))
    options = Options(states, tuple(PEERS), 1, 10, 1, None)
    machine = describe(load_machine("h200"), SETTING.problem(256))
    absent = {"flash-attn-4": "not installed"}
    return Result(SETTING, options, machine, {}, "", "", rows, absent, dict.fromkeys(SETTING.lengths, "stored"))


def test_ratios_never_mix_states_or_lengths() -> None:
    made = result(
        row("sdpa", 1e-3),
        row(WINNER, 2e-3),
        row("sdpa", 8e-3, state="hot"),
        row(WINNER, 4e-3, state="hot"),
        row("sdpa", 5e-3, length=512),
        row(WINNER, 4e-3, length=512),
    )
    frame = frame_of(made)
    ratio = {(r.variant, r.state, r.seq): r.vs_best_peer for r in frame.itertuples()}
    assert ratio[WINNER, "cool", 256] == 0.5 and ratio[WINNER, "hot", 256] == 2.0
    assert ratio[WINNER, "cool", 512] == 1.25
    text = times_text(made)
    assert "geometric mean: 0.79x" in text and "2.00x as fast as sdpa" in text


def test_a_librarys_kernel_is_never_ours() -> None:
    rows = [row("sdpa", 1e-3), row("eintune 3-pass", 3e-3), row("eintune 1-pass", 2e-3)]
    mine, peer = best(rows, ours=True), best(rows, ours=False)
    assert mine and peer and (mine.variant, peer.variant) == ("eintune 1-pass", "sdpa")
    assert reference_winner(rows) == mine
    tuned = row(WINNER, 9e-3)
    assert reference_winner([*rows, tuned]) == tuned, "the tuned winner is the reference even where it is slower"


def test_failures_are_results() -> None:
    rows = [
        row("sdpa", 1e-3),
        row("sdpa-cudnn", 1, status="compile-error"),
        row("flex", 1, status="wrong"),
        row("eintune 1-pass", 1, status="compile-error"),
        row(WINNER, 1, status="crashed"),
    ]
    assert [verdict(r) for r in rows] == ["PASS", "cannot run", "FAIL", "FAIL", "FAIL"]
    made = result(*rows)
    assert [r.variant for r in made.wrong] == ["eintune 1-pass", WINNER]
    text = correctness_text("length 256", rows)
    assert text.count("FAIL") == 3 and f"{WINNER}: crashed: no such thing" in text
    text = times_text(made)
    assert "flash-attn-4: not installed" in text and "sdpa-cudnn at 256: no such thing" in text
    assert "none of ours ran" in text
    json.dumps(to_json(made), allow_nan=False)


def test_unsteady_times_are_marked() -> None:
    steady = row("sdpa", 1e-3)
    shaky = replace(steady, variant="flex", measurement=replace(steady.measurement, high=1.3e-3))
    text = times_text(result(steady, shaky))
    assert " ~1 " in text.replace("\n", " ") and text.count("~") == 2 and "varied by more than 25%" in text
    assert "~" not in times_text(result(steady))


def test_correctness_shows_the_worst_of_all_states() -> None:
    good, bad = row("eintune 1-pass", 1e-3), row("eintune 1-pass", 1, state="hot", status="wrong")
    for rows in ([good, bad], [bad, good]):
        text = correctness_text("length 256", rows)
        assert "FAIL" in text and "PASS" not in text


def test_flops_count_the_pairs_that_are_seen() -> None:
    whole = Setting((4,), 2, 1, 8, 3, "fp32", False, "cpu")
    assert whole.flops(4) == 4 * 3 * 2 * 8 * 16
    assert replace(whole, causal=True).flops(4) == 4 * 3 * 2 * 8 * 10


def test_names_of_files_tell_unusual_settings_apart() -> None:
    def name(states: tuple[str, ...] = ("cool", "hot"), **changes: object) -> str:
        rows = [row("sdpa", 1.0, state=s) for s in states]
        return stem(replace(result(*rows), setting=replace(SETTING, **changes)))  # type: ignore[arg-type]

    assert name(heads=32, kv_heads=32) == "kernel_benchmark_h32_d64"
    assert name(causal=True) == "kernel_benchmark_h4_d64_causal"
    assert name(kv_heads=2, batch=4, dtype="fp16") == "kernel_benchmark_h4_d64_kv2_b4_fp16"
    assert name(("hot",), causal=True) == "kernel_benchmark_h4_d64_causal_hot"
    assert name(("interleaved",), device="cpu", dtype="fp32") == "kernel_benchmark_h4_d64"


def test_the_picture_has_two_panels_a_state_and_only_what_ran(tmp_path: Path) -> None:
    made = result(
        row(WINNER, 2e-3),
        row(WINNER, 5e-3, length=512),
        row("eintune 2-pass, 1 fold", 3e-3),
        row("sdpa", 1e-3, state="hot"),
        row("flex", 1, status="wrong"),
    )
    frame = frame_of(made)
    assert set(lines_of(frame)) == {WINNER, "eintune 2-pass, 1 fold", "sdpa"}
    panels = picture(frame, made).axes
    assert len(panels) == 4 and panels[0].get_xscale() == panels[0].get_yscale() == "log"
    drawn = {line.get_label(): list(line.get_ydata()) for line in panels[0].get_lines()}
    assert drawn[WINNER] == [2.0, 5.0] and drawn["sdpa"] == []
    assert [p.suffix for p in write(made, tmp_path / "new")] == [".csv", ".png", ".json"]


def test_a_title_counts_one_head_as_one() -> None:
    assert Setting((4,), 1, 1, 8, 1, "fp32", False, "cpu").title == "Attention: batch 1, 1 head, head dim 8, fp32"
    assert "8 heads, 1 kv head, " in Setting((4,), 8, 1, 8, 1, "fp32", False, "cpu").title
