"""`tune --plan-only` on a machine of cores: the ranking, what fits and why, as text and as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eintune.costmodel.machines.machine import load_machine
from eintune.search.cli.main import main
from eintune.search.tune.core_plans import core_plans
from eintune.search.tune.derivations import written
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem

SIZE = ("--seq", "256", "--heads", "8", "--head-dim", "64", "--plan-only", "--machine", "wormhole", "--quiet")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_attention_is_ranked_and_what_does_not_fit_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", *SIZE, "--json", str(tmp_path / "plans.json")]) == 0
    told = capsys.readouterr().out
    assert "8x10 cores, each with 16 destination slots for tiles of 32x32 and 1,464 KiB of L1" in told
    assert "p 2 x f 2 x m 2  40 no      4 fits" in told
    assert "unblocked takes 18 at its fullest: " in told
    assert "needs more destination slots than a core has, with unblocked intermediates" in told
    data = json.loads((tmp_path / "plans.json").read_text())["result"]
    times = [row["seconds"] for row in data["ranking"]]
    assert times == sorted(times)
    assert "1-pass" in data["ranking"][0]["label"]
    assert all(row["destination_tiles"] <= 16 for row in data["ranking"])
    assert data["fitting"] + data["left_out"].popitem()[1] == data["considered"]
    two = next(f for f in data["fits"] if f["tiles"] == {"p": 2, "f": 2, "m": 2} and "1-pass" in f["label"])
    assert two["unblocked"] > 16 >= two["sub-blocked"]


def test_other_computations_are_planned_too(capsys: pytest.CaptureFixture[str]) -> None:
    (chain := Path("chain.edge")).write_text("Sp,m = Qp,e * Km,e\nZp,f = e^(Sp,m) * Vf,m\n")
    sizes = ("--sizes", "p=512,e=64,m=512,f=64")
    assert main(["tune", "--cascade", str(chain), *sizes, "--plan-only", "--machine", "wormhole", "--quiet"]) == 0
    assert "tiles a core" in capsys.readouterr().out


def test_equal_plans_take_the_smaller_grid() -> None:
    cascade = Cascade.parse("Zm,n = Am,k * Bk,n")
    sizes = {"m": 64, "n": 64, "k": 64}
    problem = Problem("gemm", str(cascade), sizes, dict.fromkeys("ABZ", "bf16"))
    plans = core_plans([written(cascade)], problem, load_machine("wormhole"))
    assert plans.kept
    for p in plans.kept:
        programs = 1
        for _, n in p.work.grid:
            programs *= n
        assert p.estimate.rows * p.estimate.columns <= programs


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tune", *SIZE[:6], "--machine", "wormhole"), "add --plan-only"),
        (("plan", *SIZE[:6], "--machine", "wormhole"), "no kernels are emitted for a machine of cores"),
        (("tune", *SIZE, "--dtype", "fp64"), "no matrix rate for dtype 'fp64'"),
    ],
)
def test_what_a_machine_of_cores_cannot(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
