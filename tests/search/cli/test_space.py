"""`eintune space`: what is said of each cascade, in words, as data and in pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eintune.search.cli.main import main
from eintune.search.tune.derivations import short_label
from eintune.space.cascade.signature import Feature, Signature, StreamSignature


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_each_cascade_says_what_it_moves_and_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", "attention", "--sizes", "b=1,h=2,p=8,m=16,e=4,f=3"]) == 0
    told = capsys.readouterr().out
    first, last = told.index("1. 1-pass"), told.index("3-pass")
    assert first < last
    assert "moves b·h·(e·m + e·p + f·m + f·p) = 336 elements: reads Q K V once; writes AV" in told[first:last]
    assert "holds b·h·p·(f + 2) = 80" in told[first:last]
    assert "3 passes over m" in told[last:]
    assert "reads Q V once, K 3 times" in told[last:]
    assert "computes again QK S SN, else holds b·h·m·p = 256 too" in told[last:]
    assert "laws by matches: " in told
    assert "saturation " in told


def test_what_a_gradient_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["space", "attention", "--causal", "--backward", "--seq", "16", "--heads", "2", "--json", "g.json"]) == 0
    )
    told = capsys.readouterr().out
    assert "to its gradient the forward hands over GM[b,h,p], R[b,h,p]\n" in told
    for title in ("gradient 1 of 3: RA:", "gradient 2 of 3: DQ:", "gradient 3 of 3: DK, DV:"):
        assert f"attention, {title}" in told
    assert "reads DAV V Q GM R RA once, K twice; writes DQ" in told
    found = json.loads((tmp_path / "g.json").read_text())["result"]["backward"]
    assert found["residuals"] == {"GM": ["b", "h", "p"], "R": ["b", "h", "p"]}
    assert len(found["stages"]) == 3 and all(stage["cascades"] for stage in found["stages"])


def test_a_definition_without_a_gradient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.edge").write_text("input Tm : int\nZm = Tm > index(m)\n")
    assert main(["space", "g.edge", "--backward"]) == 2
    assert "a gradient is of floating inputs, but T is int" in capsys.readouterr().err


def test_modifiers_and_sizes_of_a_workload_are_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--seq", "16", "--heads", "4", "--kv-heads", "2", "--head-dim", "8", "--causal", "--softcap", "30")
    assert main(["space", "attention", *options]) == 0
    told = capsys.readouterr().out
    assert "where(m <= p" in told
    assert "tanh(" in told
    assert "elements: reads Q K V once" in told
    assert "b·h·(" in told and " = " in told[: told.index("elements")]
    assert main(["passes", "attention", "--window", "4", "--json", "-"]) == 0
    assert "M_where" in capsys.readouterr().out
    assert main(["graph", "attention", "--alibi"]) == 0
    assert "index(m)" in capsys.readouterr().out


def test_options_of_another_workload_and_of_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", "softmax", "--window", "4"]) == 2
    assert "softmax takes no --window" in capsys.readouterr().err
    (tmp_path / "g.edge").write_text("Zm,n = Ak,m * Bk,n")
    assert main(["passes", "g.edge", "--window", "4"]) == 2
    assert "a file is the whole definition, but got --window too" in capsys.readouterr().err


def test_forms_that_fail_their_check_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.edge"
    path.write_text("Sp,m = Xp,m + -inf\nNp,m = exp(min[m](Sp,m) - Sp,m)\nYp,f = Np,m * Vm,f\n")
    assert main(["space", str(path)]) == 0
    text = capsys.readouterr().out
    assert "left out: fails its check against the definition (twice)" in text


def test_raw_moments_of_a_file_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "raw.edge"
    path.write_text("MUp = Xp,m / |m|\nMSp = Xp,m * Xp,m / |m|\nYp = 3 * MSp - MUp * MUp\n")
    assert main(["space", str(path)]) == 0
    assert "kept although it is unsafe, as the definition has no other form: M_sub" in capsys.readouterr().out


def test_labels_say_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def labels(*arguments: str) -> list[str]:
        assert main(["space", *arguments, "--json", "-"]) == 0
        return [c["label"] for c in json.loads(capsys.readouterr().out)["result"]["cascades"]]

    assert labels("linear_attention") == ["1-pass", "1-pass, reassociated"]
    assert labels("linear_attention", "--stored") == ["1-pass", "1-pass, reassociated"]
    assert labels("variance", "--allow", "cancellation") == ["1-pass, 1 fold", "1-pass, no fold", "2-pass"]
    chain = tmp_path / "chain.edge"
    chain.write_text("Zp,s = Ap,q * Bq,r * Cr,s\n")
    found = labels(str(chain))
    assert len(set(found)) == len(found) and {"1-pass, reassociated, over q", "1-pass, reassociated, over r"} <= set(
        found
    )
    assert not any("(" in label for label in found)


def test_the_laws_of_each_cascade(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", "softmax", "--laws", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)["result"]
    assert [(c["passes"], c["laws"]) for c in data["cascades"]] == [(2, ["composite-fold"]), (3, [])]
    assert data["cascades"][0]["traffic"] == {"formula": "3·m·p", "elements": None}
    assert "without composite-fold" in err
    assert main(["space", "softmax", "--laws"]) == 0
    told = capsys.readouterr().out
    assert "is not found without composite-fold" in told
    assert "is the definition" in told


def test_pictures_are_drawn_or_kept_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", "softmax", "--stored", "--svg", str(tmp_path / "pictures")]) == 0
    names = {p.stem for p in (tmp_path / "pictures").iterdir()}
    assert names == {
        "softmax-definition",
        "softmax-1-2-pass",
        "softmax-2-3-pass",
        "softmax-egraph",
        "softmax-egraph-costs",
    }
    assert len(capsys.readouterr().err.splitlines()) == len(names)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ("m", "such as b=1,h=32, but got 'm'"),
        ("m=0", "sizes from 1 to"),
        ("M=3", "but got 'M=3'"),
        ("m=99999999999", "but got 'm=99999999999'"),
        ("m=1,m=2", "rank m must have one size, but got two"),
    ],
)
def test_sizes_that_are_none(sizes: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", "softmax", "--sizes", sizes]) == 2
    assert says in capsys.readouterr().err


def test_labels_of_forms_with_several_streams() -> None:
    folds, inside = Feature("fold", "scale", "whole", 2), Feature("division", "", "inside", 1)
    after = Feature("division", "", "after", 1)
    several = Signature((StreamSignature(2, (folds,)), StreamSignature(2, (inside,))))
    assert short_label(2, several) == "2-pass, 2 folds"
    assert str(several) == "2:fold.scale.whole*2|2:division.inside"
    assert short_label(1, Signature((StreamSignature(1, (after, folds)),))) == "1-pass, deferred division"
