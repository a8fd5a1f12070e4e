"""`eintune tiles`: the bytes of two products, programs of one's own, and wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eintune.search.cli.main import main

TWO_WAYS = """
(tile A 64 64 fp32)
(tile B 64 64 fp32)
(let S (WGMMA (LDR (LDS A)) (LDS B)))
(result (STG (STS (Elementwise scale S))))
"""


def test_the_rearranged_form_moves_less(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiles"]) == 0
    told = capsys.readouterr().out
    assert "1,196,032 bytes" in told
    assert "1,081,344 bytes, 2 ways" in told
    assert told.splitlines()[-1].split() == ["total", "1,081,344"]


def test_an_operand_is_loaded_once_below_what_is_not_linear(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["tiles", "--print"]) == 0
    (tmp_path / "exp.tiles").write_text(capsys.readouterr().out.replace("scale", "exp"))
    assert main(["tiles", str(tmp_path / "exp.tiles")]) == 0
    told = capsys.readouterr().out
    assert "as written       1,196,032 bytes" in told
    assert "1,081,344 bytes, 1 way" in told


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        (["--result", "once"], 737_280, 622_592),
        (["--iterations", "1"], 163_840, 163_840),
        (["--dtype", "fp32"], 1_867_776, 1_638_400),
    ],
)
def test_sizes_and_dtypes_are_arguments(
    options: list[str], before: int, after: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tiles", "--json", "-", *options]) == 0
    data = json.loads(capsys.readouterr().out)["result"]
    assert data["written_bytes"] == before
    assert {way["bytes"] for way in data["cheapest"]} == {after}
    for way in data["cheapest"]:
        assert sum(n["bytes"] for n in way["nodes"].values()) == after
        assert sum(m["bytes"] for m in way["moves"]) == after


def test_every_cheapest_way_is_listed_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "two.tiles").write_text(TWO_WAYS)
    assert main(["tiles", str(tmp_path / "two.tiles"), "--json", "-"]) == 0
    ways = json.loads(capsys.readouterr().out)["result"]["cheapest"]
    assert len(ways) == 2
    assert ways[0]["bytes"] == ways[1]["bytes"]
    assert ways[0]["nodes"] != ways[1]["nodes"]
    assert main(["tiles", str(tmp_path / "two.tiles"), "--json", "-", "--top", "1"]) == 0
    assert len(json.loads(capsys.readouterr().out)["result"]["cheapest"]) == 1


def test_the_program_is_printed_and_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["tiles", "--print", "--rows", "32"]) == 0
    program = capsys.readouterr().out
    (tmp_path / "mine.tiles").write_text(program)
    assert main(["tiles", "--rows", "32"]) == 0
    direct = capsys.readouterr().out
    assert main(["tiles", str(tmp_path / "mine.tiles"), "--svg", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == direct
    assert {p.stem for p in tmp_path.iterdir()} == {"mine", "mine-costs"}
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["none.tiles"], "there is none at 'none.tiles'"),
        (["--rows", "0"], "but got '0'"),
        (["--rows", "99999999"], "whole numbers from 1 to 1048576"),
        (["--dtype", "int3"], "invalid choice: 'int3'"),
        ([__file__, "--rows", "3"], "--rows is of the program without FILE"),
        ([__file__], "expected (tile NAME"),
    ],
)
def test_wrong_use(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiles", *options]) == 2
    _, err = capsys.readouterr()
    assert says in err
    assert len(err.splitlines()) == 1
