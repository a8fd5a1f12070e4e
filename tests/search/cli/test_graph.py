"""`eintune graph`, `passes` and `kernel` on files: every notation in and out, kernels that are run and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eintune.search.cli.main import main
from eintune.space.cascade.cascade import Cascade
from eintune.space.operators.assignments import read_operators
from eintune.space.operators.egglog_programs import read_egg

TESTS = Path(__file__).resolve().parents[2]
OPERATORS = TESTS / "operators"
TWO_PASS = str(OPERATORS / "attention_2pass_deferred.txt")
SIZES = "e=16,p=32,m=64,f=16"
UNRANKED = '(let $Z (R_add_m (M_mul_mp (Input "A") (Input "B"))))\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert code == 0 or len(err.splitlines()) == 1, err
    return err if code else out


# ---- graph


def test_a_graph_in_every_notation(capsys: pytest.CaptureFixture[str]) -> None:
    graph = read_operators(Path(TWO_PASS).read_text())
    assert read_egg(said(capsys, "graph", TWO_PASS, "--as", "egg")).operations
    assert read_operators(said(capsys, "graph", TWO_PASS, "--as", "operators")) == graph
    edge = Cascade.parse(said(capsys, "graph", TWO_PASS))
    assert Cascade.parse(said(capsys, "graph", TWO_PASS, "--as", "unicode")) == edge
    assert "pass 2 over m" in said(capsys, "graph", TWO_PASS, "--as", "dot")


def test_a_definition_and_an_iteration(capsys: pytest.CaptureFixture[str]) -> None:
    assert "M_exp" in said(capsys, "graph", "softmax", "--as", "operators")
    iteration = str(TESTS / "cascades" / "attention_1pass_iterative.edge")
    assert "until" in said(capsys, "graph", iteration)
    assert "digraph" in said(capsys, "graph", iteration, "--as", "dot")
    assert "RDp = fold_scale[m1](LMm1,p, " in said(capsys, "graph", iteration, "--as", "solved")
    assert "(F_scale_m1 " in said(capsys, "graph", iteration, "--as", "egg")
    assert "BQKb,m1,m0,p" in said(capsys, "graph", iteration, "--over", "b")
    told = said(capsys, "kernel", iteration, "--sizes", SIZES, "--check", "--device", "cpu")
    assert told.splitlines()[-1] == "right"


def test_another_iteration_space_is_refused_by_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong.txt").write_text("X = M_exp_m(A_{m,p})\n")
    for command in (("passes",), ("graph",), ("kernel", "--sizes", "m=4,p=4")):
        told = said(capsys, command[0], "wrong.txt", *command[1:], code=2)
        assert "X = M_exp_m iterates ['m'], but its operands have ['m', 'p']" in told


def test_a_splits_constant_is_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiles.txt").write_text("X = T_split_m_m1m0(A_{m}, 3)\nY = R_max_m0(X)\nZ = R_max_m1(Y)\n")
    told = said(capsys, "kernel", "tiles.txt", "--sizes", "m=9", "--check", "--device", "cpu")
    assert told.splitlines()[-1] == "right"
    for sizes, says in (
        ("m=10", "X = T_split_m_m1m0: |m| must be a multiple of |m1|, but 10 is none of 3"),
        ("m=9,m1=9", "rank m1 must have one size, but the graph says 3 and 9 is given"),
    ):
        assert says in said(capsys, "kernel", "tiles.txt", "--sizes", sizes, code=2)


def test_a_picture_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "graph", TWO_PASS, "--svg", str(tmp_path)) == ""
    assert list(tmp_path.glob("attention_2pass_deferred.*"))


def test_new_axes_stand_first(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "graph", TWO_PASS, "--over", "b,h")
    assert "BQKb,h,m1,m0,p = Qb,h,e,p * BKb,h,e,m1,m0" in text
    assert "new ranks are" in said(capsys, "graph", TWO_PASS, "--over", "m", code=2)


def test_ranks_that_a_file_does_not_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "z.egg"
    path.write_text(UNRANKED)
    assert "Z = R_add_m(t1)" in said(capsys, "graph", str(path))
    assert "the ranks of A, B are not written" in said(capsys, "graph", str(path), "--as", "edge", code=2)
    text = said(capsys, "graph", str(path), "--ranks", "A=m,p", "--ranks", "B=m")
    assert text == "Zp = Am,p * Bm\n"
    assert "must be a name with its ranks" in said(capsys, "graph", str(path), "--ranks", "A", code=2)
    assert "moves an unknown number" in said(capsys, "passes", str(path))


def test_a_file_with_sizes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    three, two = (str(OPERATORS / f"{name}.egg") for name in ("attention_fused", "attention_2pass_fused"))
    assert "BKe,m1,m0 = split[m -> m1,m0](Ke,m)" in said(capsys, "graph", two)
    assert "moves 2·e·m + e·p + f·m + f·p = 327,680 elements" in said(capsys, "passes", two)
    assert "QK = R_add_e(QK_temp)" in said(capsys, "graph", three)
    assert "3 sync levels, 3 memory passes" in said(capsys, "passes", three)
    assert "the operators leave Q e,m or e,p" in said(capsys, "kernel", three, code=2)
    plan = said(capsys, "plan", two, "--machine", "h200").splitlines()
    assert plan[0].startswith("attention_2pass_fused: f=64, p=1024, e=64, m=1024")
    assert plan[1].startswith("2-pass tiled corrected;")
    assert sum(line.startswith("loop m") for line in plan) == 2
    assert "p=512" in said(capsys, "plan", three, "--ranks", "Q=e,p", "--sizes", "p=512").splitlines()[0]


# ---- passes


def test_passes_say_what_is_moved_and_held(capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "passes", TWO_PASS)
    assert "Pass Analysis: 3 sync levels, 2 memory passes" in told
    assert "M_div_fp [POST_LOOP]" in told
    assert "reads Q V once, K twice; writes AV" in told
    assert "holds p·(f + 2·m1 + 2)" in told


def test_passes_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(said(capsys, "passes", TWO_PASS, "--json", "-"))["result"]
    assert (data["passes"], data["sync_levels"], data["stream"]) == (2, 3, "m")
    assert [s["place"] for s in data["stages"]] == ["pass", "pass", "after"]
    assert [s["loads"] for s in data["stages"]] == [["K"], ["K", "V"], []]
    barriers = [o["output"] for s in data["stages"] for o in s["operations"] if o["barrier"]]
    assert barriers == ["GM", "NV", "GD"]
    assert data["holds"]["formula"] == "p·(f + 2·m1 + 2)"


# ---- kernels


@pytest.mark.parametrize("name", sorted(p.stem for p in OPERATORS.glob("*.txt")))
def test_the_kernel_of_a_graph_is_run_and_checked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "kernel", str(OPERATORS / f"{name}.txt"), "--sizes", SIZES, "--check", "--device", "cpu")
    assert told.splitlines()[-1] == "right"
    assert "AV: rms error" in told


@pytest.mark.interpreter
def test_triton_without_a_gpu_is_checked_by_its_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = f"{SIZES},b=1,h=2"
    arguments = ("--sizes", sizes, "--over", "b,h", "--machine", "h200", "--dtype", "fp16", "--check")
    assert "right" in said(capsys, "kernel", TWO_PASS, *arguments).splitlines()[-1]


def test_the_plan_and_the_derived_forms_of_a_graph(capsys: pytest.CaptureFixture[str]) -> None:
    three = str(OPERATORS / "attention_3pass.txt")
    plan = said(capsys, "plan", three, "--sizes", SIZES, "--machine", "h200")
    assert "3-pass" in plan.splitlines()[1]
    derived = said(capsys, "plan", three, "--sizes", SIZES, "--machine", "h200", "--derive", "--form", "1-pass")
    assert "1-pass" in derived.splitlines()[1]


def test_scalars_of_a_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.edge").write_text("Sp,m = Ap,e * Bm,e * scale")
    arguments = ("kernel", "s.edge", "--sizes", "p=8,m=8,e=8", "--device", "cpu")
    assert "0.25" in said(capsys, *arguments, "--params", "scale=0.25")
    assert "`params` must give a number for each of ['scale']" in said(capsys, *arguments, code=2)
    assert "such as scale=0.125, but got 'scale'" in said(capsys, *arguments, "--params", "scale", code=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("kernel",), "are required: --seq, --heads"),
        (("kernel", "none.egg", "--sizes", "m=4"), "must be a file or one of"),
        (("kernel", TWO_PASS), "`sizes` must give every rank"),
        (("kernel", TWO_PASS, "--sizes", "e=4"), "`sizes` must give every rank"),
        (("graph", "none.egg"), "must be a file or one of"),
        (("graph", TWO_PASS, "--as", "latex"), "invalid choice: 'latex'"),
        (("kernel", "fibonacci.edge", "--sizes", "m=4"), "B: cannot be solved"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("fibonacci.edge").write_text("A0 = 0\nB0 = 1\nBm+1 = Bm + Am * Xm\nAm+1 = Bm + Xm\nZ = B|m|\nuntil m >= |m|")
    assert says in said(capsys, *arguments, code=2)


@pytest.mark.interpreter
def test_a_kernel_in_bf16_with_scalars_is_checked_by_the_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    """Triton's interpreter alone can do neither."""
    workload = ("--workload", "rmsnorm_matmul", "--rows", "3", "--cols", "4096", "--outputs", "64")
    told = said(capsys, "kernel", *workload, "--dtype", "bf16", "--machine", "h200", "--check")
    assert "Y: rms error" in told and told.splitlines()[-1].startswith("right")


def test_a_check_draws_integers_from_all_that_they_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    """Lengths up to all keys and any page, not the zeros and ones that a cache of one key would do with."""
    paged = ("--workload", "paged_attention", "--heads", "2", "--kv-seq", "90", "--page", "16", "--batch", "2")
    arguments = ("kernel", *paged, "--head-dim", "16", "--device", "cpu")
    text = said(capsys, *arguments)
    assert "DRAWN = {'BT': (0, 12, False), 'L': (1, 91, False)}" in text
    assert said(capsys, *arguments, "--check").splitlines()[-1] == "right"


def test_a_files_name_is_text_in_the_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ('x""";open("made","w");""".edge', "x\\.edge", "x\nimport os.edge", "x\udcff\x1b.edge"):
        (tmp_path / name).write_text("Zm,n = Ak,m * Bk,n\n")
        told = said(capsys, "kernel", name, "--sizes", "k=8,m=8,n=8", "--check", "--device", "cpu")
        assert told.splitlines()[-1] == "right"
        assert not (tmp_path / "made").exists()
        said(capsys, "kernel", name, "--sizes", "k=8,m=8,n=8", "--device", "cpu").encode()


def test_tensors_may_be_called_as_what_python_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "range[m,n] = torch[k,m] * if[k,n]\nmin_[m] = range[m,n] * float[n]\nexact[m] = e^(min_[m] * len[m])\n"
    (tmp_path / "words.edge").write_text(f"{text}results: exact[], range[]\n")
    told = said(capsys, "kernel", "words.edge", "--sizes", "k=8,m=8,n=8", "--check", "--device", "cpu")
    assert told.splitlines()[-1] == "right"
