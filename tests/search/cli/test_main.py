"""The command line: help, and every bad input with its exit code, on one line, without a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eintune.host.worker import Child
from eintune.search.cli import tune as cli_tune
from eintune.search.cli.main import COMMANDS, main, tune_main

SIZE = ("--seq", "16", "--heads", "2", "--head-dim", "16")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


Complaint = Callable[..., str]


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str], cache: Path) -> Complaint:
    """Runs `eintune` with arguments, expects an exit code, and gives its one line on stderr."""

    def run(*arguments: str, code: int) -> str:
        assert main(arguments) == code
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if not line.lstrip()[:1].isdigit()]  # progress begins with a time
        assert len(lines) == 1, err
        assert lines[0].startswith("eintune: error: ")
        assert "Traceback" not in out + err
        return lines[0]

    return run


# ---- usage


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "--seq, --heads"),
        (("--seq", "0", "--heads", "2"), "whole number from 1 to 2147483648, but got '0'"),
        (("--seq", "-5", "--heads", "2"), "but got '-5'"),
        (("--seq", "many", "--heads", "2"), "but got 'many'"),
        (("--seq", "1.5", "--heads", "2"), "but got '1.5'"),
        (("--seq", "9" * 30, "--heads", "2"), "whole number from 1 to"),
        (("--seq", "2000000000", "--heads", "2000000000"), "at most 2**36 elements"),
        (("--seq", "16", "--heads", "6", "--kv-heads", "4"), "(heads=6, kv_heads=4); for 6 heads `kv_heads` may be"),
        (("--seq", "16", "--heads", "2", "--head-dim", "513"), "`head_dim` must be at most 512, but got 513"),
        (("--seq", "16", "--heads", "2", "--head-dim", "0"), "but got '0'"),
        ((*SIZE, "--dtype", "int4"), "invalid choice: 'int4'"),
        ((*SIZE, "--device", "tpu"), "invalid choice: 'tpu'"),
        ((*SIZE, "--machine", "h900"), "h100, h200"),
        ((*SIZE, "--scale", "nan"), "must be a finite number, but got 'nan'"),
        ((*SIZE, "--trials", "0"), "but got '0'"),
        ((*SIZE, "--budget", "-1"), "must be a number of seconds above 0, but got '-1'"),
        ((*SIZE, "--sampler", "best"), "['mixed', 'model', 'random', 'tpe'], but got 'best'"),
        ((*SIZE, "--colour", "red"), "unrecognized arguments: --colour red"),
    ],
)
def test_wrong_usage_of_tune_starts_nothing(
    complaint: Complaint, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], says: str
) -> None:
    monkeypatch.setattr(Child, "start", lambda self: pytest.fail("a process was started"))
    monkeypatch.setattr(cli_tune, "device_of", lambda chosen: pytest.fail("PyTorch was loaded"))
    assert says in complaint("tune", *options, code=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_cuda_where_there_is_none(complaint: Complaint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Child, "start", lambda self: pytest.fail("a process was started"))
    line = complaint("tune", *SIZE, "--device", "cuda", code=2)
    assert "--device must be auto or cpu" in line and "but got cuda" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_measuring_for_a_machine_that_is_not_here(complaint: Complaint) -> None:
    assert "add --plan-only" in complaint("tune", *SIZE, "--machine", "h200", code=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("space", "nonsense"), "WORKLOAD must be a file or one of attention"),
        (("space", "softmax", "--causal"), "softmax takes no --causal"),
        (("passes", "missing.edge"), "WORKLOAD must be a file or one of"),
        (("cache", "forget"), "invalid choice: 'forget'"),
        (("cache", "show", "nothing"), "see `eintune cache list`"),
        (("kernel", *SIZE, "--form", "zero-pass"), "--form must be part of one of: 1-pass"),
        (("plan", "--workload", "softmax", "--seq", "3"), "softmax takes no --seq; it has [--rows 4096] [--cols 4096]"),
        (("plan", *SIZE, "--rows", "3"), "attention takes no --rows; it has --seq N --heads N"),
        (("plan", *SIZE, "--params", "eps=1"), "--params must name one of ['scale'], but got eps"),
        (("plan", *SIZE, "--params", "1=eps"), "must be names with values, such as scale=0.125, but got '1=eps'"),
        (("plan", *SIZE, "--sizes", "m=3"), "--sizes are of --cascade"),
        (("plan", *SIZE, "--cascade", "none.edge"), "--cascade stands instead of a workload, but got --"),
        (("plan", "--cascade", "none.edge"), "--cascade must be a file, but got 'none.edge'"),
        (("plan", *SIZE, "--bias", "mp"), "over some of the axes bhpm, in that order, but got 'mp'"),
        (("plan", *SIZE, "--window-both"), "`window_both` needs a `window`"),
        (("plan", *SIZE, "--sigmoid", "--sinks"), "need weights by softmax"),
        (("plan", *SIZE, "--causal", "up"), "invalid choice: 'up'"),
    ],
)
def test_wrong_usage_of_other_commands(complaint: Complaint, arguments: tuple[str, ...], says: str) -> None:
    assert says in complaint(*arguments, code=2)


def test_a_cascade_of_ones_own_has_sizes(complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "mine.edge").write_text("Zm,n = Ak,m * Bk,n * alpha\n")
    plan = ("plan", "--cascade", "mine.edge", "--machine", "h200")
    assert "a number for each of ['alpha']" in complaint(*plan, code=2)
    given = (*plan, "--params", "alpha=0.5", "--sizes")
    assert "but k have none" in complaint(*given, "m=64,n=64", code=2)
    assert main([*given, "m=64,n=64,k=32"]) == 0


@pytest.mark.parametrize(
    "options",
    [
        (*SIZE, "--causal", "--window", "8", "--softcap", "30", "--alibi", "--documents", "--sinks", "--lse"),
        (*SIZE, "--bias", "hpm", "--mask", "--kv-heads", "1", "--value-dim", "32", "--head-scale"),
        (*SIZE, "--relative-bias", "--kv-seq", "100", "--window", "8", "--causal", "lower_right"),
        ("--workload", "layernorm", "--rows", "64", "--cols", "100"),
        ("--workload", "linear", "--rows", "64", "--inner", "32", "--cols", "64", "--activation", "silu"),
    ],
)
def test_any_workload_is_planned(options: tuple[str, ...], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *options, "--machine", "h200"]) == 0
    assert "\nstore " in capsys.readouterr().out.replace("  ", "")


MODS = """
import torch
slopes = torch.rand(2)
def tilted(score, b, h, p, m): return score + slopes[h] * (m - p)
table = torch.rand(2, 300)
def tabled(score, b, h, p, m): return score + table[h, torch.clamp(p - m, min=-100, max=100) + 100]
def beyond(score, b, h, p, m): return score + table[h, p - m]
def near(b, h, p, m): return (m <= p) & (p - m < 9)
def wrong(score, b, h, p, m): return score if score > 0 else -score
number = 3
"""


def test_functions_in_a_file(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mods.py").write_text(MODS)
    plan = ("plan", *SIZE, "--machine", "h200", "--score-mod", "mods.py:tilted", "--mask-mod", "mods.py:near")
    assert main(plan) == 0
    out = capsys.readouterr().out
    assert "score_mod tilted, mask_mod near" in out and "where(m <= p" in out and "load USSLOPES" in out
    assert main([*plan[:-3], "mods.py:tabled"]) == 0
    assert "load USTABLE[h total" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("mods.py", "must be a Python file and a function's name, FILE.py:NAME, but got 'mods.py'"),
        ("none.py:f", "none.py is no file"),
        ("mods.py:none", "mods.py has no function none"),
        ("mods.py:number", "mods.py has no function number"),
        ("broken.py:f", "broken.py cannot be run: ZeroDivisionError"),
        ("mods.py:wrong", "use where"),
    ],
)
def test_functions_that_cannot_be_used(complaint: Complaint, tmp_path: Path, value: str, says: str) -> None:
    (tmp_path / "mods.py").write_text(MODS)
    (tmp_path / "broken.py").write_text("1 / 0")
    assert says in complaint("plan", *SIZE, "--score-mod", value, code=2)


def test_the_list_of_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--list-workloads"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "cross_entropy\n  L = log sum exp X" in out and "[--vocab 128256]" in out and "--seq N --heads N" in out


def test_dtypes_and_machines_that_do_not_go_together(complaint: Complaint) -> None:
    options = ("tune", *SIZE, "--plan-only", "--quiet")
    assert "one of bf16, fp16, fp32" in complaint(*options, "--machine", "h200", "--dtype", "fp64", code=2)
    assert "no kernels are emitted for a machine of cores" in complaint("plan", *SIZE, "--machine", "wormhole", code=2)


def test_a_cascade_with_a_mistake_names_it(complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "wrong.edge").write_text("Zm,n = Ak,m * (Bk,n\n")
    assert "line 1" in complaint("space", str(tmp_path / "wrong.edge"), code=2)
    (tmp_path / "binary.edge").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in complaint("space", str(tmp_path / "binary.edge"), code=1)


# ---- failures


def test_a_folder_that_is_no_report(complaint: Complaint, tmp_path: Path) -> None:
    assert "lacks summary.json" in complaint("report", str(tmp_path), code=1)
    assert "lacks summary.json" in complaint("replay", str(tmp_path), code=1)


def test_a_cache_that_is_a_file(complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = complaint("tune", *SIZE, "--quiet", "--cache", str(tmp_path / "file"), code=1)
    assert "file" in line and "Not a directory" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_space_for_the_results() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "eintune.search.cli.main", "cache", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "eintune: error: No space left on device\n"


# ---- help


@pytest.mark.parametrize("name", [c.name for c in COMMANDS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"eintune {name}" in text and len(text.splitlines()) > 5


def test_tune_and_eintune_tune_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for run, arguments in ((tune_main, ["--help"]), (main, ["tune", "--help"])):
        with pytest.raises(SystemExit):
            run(arguments)
        text = capsys.readouterr().out
        texts.append("".join(text.replace("eintune tune", "tune").split()))
    assert texts[0] == texts[1]
    assert tune_main(["--seq", "0", "--heads", "2"]) == 2
    assert capsys.readouterr().err.startswith("tune: error: ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from eintune import __version__

    for run in (main, tune_main):
        with pytest.raises(SystemExit) as stopped:
            run(["--version"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out == f"eintune {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom eintune.search.cli.main import main\n"
        "try:\n    main(['tune', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'optuna', 'pandas', 'egglog', 'pulp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (
            "host.worker, eintune.search.tune.deriver, eintune.kernels.launch.compile_pool",
            "torch triton optuna pandas",
        ),
        (
            "search.measure.measurer, eintune.search.tune.tune, eintune.search.report.tune_text",
            "pandas seaborn matplotlib triton pulp",
        ),
    ],
    ids=["before PyTorch is loaded", "before anything is measured"],
)
def test_what_is_needed_later_is_imported_later(modules: str, heavy: str) -> None:
    code = f"import sys, eintune.{modules}\nprint([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_collects_garbage_rarely() -> None:
    code = (
        "import atexit, gc\natexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"
        "from eintune.search.cli.main import main\nprint(main(['cache', 'list']), gc.get_threshold()[0] > 10000)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0 True", "True"]


# ---- commands that only look


def test_an_empty_cache(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "list"]) == 0
    listed = capsys.readouterr().out
    assert "no records" in listed or "shipped" in listed
    assert main(["cache", "clear"]) == 0
    assert "removed 0 records" in capsys.readouterr().out
    assert main(["cache", "explain", *SIZE, "--device", "cpu"]) == 1
    assert "not stored" in capsys.readouterr().out


def test_passes_of_a_workload_and_a_file(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", "attention"]) == 0
    whole = capsys.readouterr().out
    assert "3" in whole
    (tmp_path / "gemm.edge").write_text("Zm,n = Ak,m * Bk,n\n")
    assert main(["passes", str(tmp_path / "gemm.edge")]) == 0
    assert capsys.readouterr().out != whole


def test_space_as_json(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", "attention", "--stored", "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)["result"]
    assert {1, 2, 3} <= {c["passes"] for c in data["cascades"]}
    assert all({"passes", "signature", "cascade"} <= set(c) for c in data["cascades"])


def test_plan_and_kernel_of_the_models_first(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--seq", "100", "--heads", "2", "--head-dim", "16", "--machine", "h200", "--causal"]) == 0
    plan = capsys.readouterr().out
    assert "1-pass" in plan and "loop m" in plan and "segment" in plan
    assert main(["kernel", *SIZE, "--machine", "cpu"]) == 0
    path = tmp_path / "k.py"
    path.write_text(capsys.readouterr().out)
    done = subprocess.run([sys.executable, "-P", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_plan_only_ranks_and_counts(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (*SIZE, "--plan-only", "--machine", "cpu", "--quiet", "--json", str(tmp_path / "plan.json"))
    assert main(["tune", *options]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "priced and not measured" in out and "left out" in out
    assert max(map(len, out.splitlines())) <= 100
    data = json.loads((tmp_path / "plan.json").read_text())["result"]
    times = [r["estimate"]["seconds"] for r in data["ranking"]]
    assert times == sorted(times) and data["space"]["candidates"] >= len(times)
    assert sum(data["space"]["left_out"].values()) + data["space"]["kept"] == data["space"]["candidates"]
    assert not (cache / "records").exists()


@pytest.mark.offline
def test_plan_only_compiles_for_a_gpu_that_is_not_here(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--seq", "64", "--heads", "2", "--head-dim", "16", "--plan-only", "--machine", "h200", "--top", "2")
    assert main(["tune", *options, "--quiet", "--json", str(tmp_path / "plan.json")]) == 0
    assert "as compiled for sm_90" in capsys.readouterr().out
    for row in json.loads((tmp_path / "plan.json").read_text())["result"]["ranking"]:
        assert row["compiled"]["exact"] and row["compiled"]["registers_per_thread"] > 16


# ---- signals and pipes


def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "eintune.search.cli.main",
            "tune",
            *SIZE,
            "--device",
            "cpu",
        ],
        env=os.environ | {"EINTUNE_CACHE": str(tmp_path / "cache")},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    journals = tmp_path / "cache" / "journals"
    deadline = time.monotonic() + 120
    while not list(journals.glob("*.jsonl")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and err.splitlines()[-1].startswith("eintune: interrupted")
    (journal,) = journals.glob("*.jsonl")
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_reader_that_goes_away_is_no_error(cache: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "eintune.search.cli.main", "space", "attention", "--stored"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(60)


def test_space_shows_unsafe_forms_to_who_asks(
    cache: Path, capsys: pytest.CaptureFixture[str], complaint: Complaint
) -> None:
    assert main(["space", "variance"]) == 0
    safe = capsys.readouterr().out
    assert main(["space", "variance", "--allow", "cancellation"]) == 0
    assert "3 cascades" in capsys.readouterr().out and "2 cascades" in safe
    assert "must name hazards of" in complaint("space", "variance", "--allow", "noise", code=2)
    assert "leave --allow or --laws out" in complaint("space", "variance", "--allow", "zero", "--laws", code=2)
