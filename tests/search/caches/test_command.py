"""`eintune cache`: what is stored is told, handed around and checked; what is wrong is one line and exit code 1."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from eintune.kernels.store import portfolio
from eintune.kernels.store.cache import SHIPPED, Cache, read_entry
from eintune.search.caches.command import _tell
from eintune.search.cli.main import main
from eintune.search.text import tables

RECORD = next(p for p in sorted(SHIPPED.glob("attention-*.json")) if '"w": 1024' in p.read_text())
PORTFOLIO = next(p for p in sorted(portfolio.SHIPPED.glob("attention-*.json")) if "SLOPE" in p.read_text())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, with a record and a portfolio."""
    folder = tmp_path / "cache"
    for path, kind in ((RECORD, "records"), (PORTFOLIO, "portfolios")):
        (folder / kind).mkdir(parents=True)
        shutil.copy(path, folder / kind)
    monkeypatch.setenv("EINTUNE_CACHE", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(("cache", *arguments)) == code
    out, err = capsys.readouterr()
    assert (not err) if code != 2 else err.startswith("eintune: error: ")
    return out or err


def test_a_list_says_what_each_is(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "list").splitlines()
    entry = read_entry(RECORD)
    assert entry is not None
    assert lines[0].startswith("NVIDIA H200, 132 processors; emitter 8, torch 2.11.0")
    line = next(line for line in lines if line.startswith(RECORD.stem[:20]))
    assert "--causal --window 1024" in line and "m2048 p2048 w1024" in line and entry.record.created[:10] in line
    line = next(line for line in lines if line.startswith(PORTFOLIO.stem[:20]))
    assert "--causal --alibi" in line and "p512:8192" in line and "2 kernels, 3 points" in line and "yours" in line
    assert any(line.endswith("shipped") for line in lines)


@pytest.mark.parametrize("columns", [60, 140])
def test_a_list_fits_its_terminal(
    columns: int, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_width", lambda: columns)
    table = [line for line in said(capsys, "list").splitlines() if not line.startswith("NVIDIA")]
    assert len(table) > 40 and max(map(len, table)) <= columns


def test_out_and_in_again(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "export", "a.zip") == "a.zip: 1 record, 1 portfolio, 0 kept derivations\n"
    listed = said(capsys, "list", "a.zip")
    assert RECORD.stem[:20] in listed and PORTFOLIO.stem[:20] in listed and "shipped" not in listed
    other = str(tmp_path / "other")
    assert "imported 1 record, 1 portfolio, 0 kept derivations; 0 there already" in said(
        capsys, "import", "a.zip", "--cache", other
    )
    assert "imported 0 records, 0 portfolios, 0 kept derivations; 2 there already" in said(
        capsys, "import", "a.zip", str(cache), "--cache", other
    )
    assert said(capsys, "verify", "--cache", other).endswith("0 kept derivations; 0 faults\n")
    assert (
        said(capsys, "merge", "a.zip", other, "--file", "b.zip") == "b.zip: 1 record, 1 portfolio, 0 kept derivations\n"
    )
    assert Path("a.zip").read_bytes() == Path("b.zip").read_bytes()


def test_a_part_of_it(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(next(SHIPPED.glob("softmax-*.json")), cache / "records")
    assert "2 records, 1 portfolio" in said(capsys, "export", "a.zip", "--machine", "h200")
    assert "1 record, 0 portfolios" in said(capsys, "export", "a.zip", "--workload", "softmax")
    line = said(capsys, "export", "b.zip", "--workload", "softmix", code=2)
    assert "softmax on NVIDIA H200" in line and not Path("b.zip").exists()


def test_faults_are_told_and_exit_code_1(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "export", "a.zip")
    kept = cache / "records" / RECORD.name
    data = json.loads(kept.read_text())
    data["record"]["digest"] = "0" * 64
    kept.write_text(json.dumps(data))
    (cache / "portfolios" / PORTFOLIO.name).write_text("{")
    lines = said(capsys, "verify", code=1).splitlines()
    assert len(lines) == 3 and lines[-1].endswith("1 record, 0 portfolios, 0 kept derivations; 2 faults")
    assert any("now, and 000000000000 was measured" in line for line in lines)
    assert any(PORTFOLIO.name in line and "truncated" in line for line in lines)
    with zipfile.ZipFile("a.zip", "a") as file:
        file.writestr("records/more.json", "{}")
    other = Path("other")
    told = said(capsys, "import", "a.zip", "--cache", str(other), code=1)
    assert "not used: records/more.json: is not in the manifest" in told and "imported 1 record, 1 portfolio" in told
    assert len(Cache(other, None, ()).entries()) == 1


def test_of_one_file_that_is_none_nothing_is_taken(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "export", "a.zip")
    Path("b.zip").write_text("no zip")
    assert main(("cache", "import", "a.zip", "b.zip", "--cache", "other")) == 1
    assert "b.zip: is no exported cache" in capsys.readouterr().err and not Path("other").exists()
    assert "there is nothing at 'c.zip'" in said(capsys, "verify", "c.zip", code=2)
    assert main(("cache", "export", "d.zip", "--cache", "nowhere")) == 1
    assert "nowhere has no records" in capsys.readouterr().err and not Path("d.zip").exists()


def test_doctor_counts_yours_the_named_and_the_shipped_apart(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from eintune.search.cli import doctor

    monkeypatch.setattr(doctor, "findings", lambda names: iter(()))
    (tmp_path / "model" / "records").mkdir(parents=True)
    monkeypatch.setenv("EINTUNE_SHIPPED", str(tmp_path / "model"))
    shutil.copy(RECORD, tmp_path / "model" / "records")
    assert main(["doctor"]) == 0
    lines = dict(line[5:].split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["cache"] == f"{cache}, 1 record, 1 portfolio"
    assert lines["named"] == f"{tmp_path / 'model'}, 1 record, 0 portfolios, read only"
    shipped = (len(list(SHIPPED.glob("*.json"))), len(list(portfolio.SHIPPED.glob("*.json"))))
    assert lines["shipped"] == f"{shipped[0]} records, {shipped[1]} portfolios"
    monkeypatch.setenv("EINTUNE_SHIPPED", os.pathsep.join([str(tmp_path / "model"), "nowhere"]))
    assert main(["doctor"]) == 1
    assert "FAIL named         nowhere: EINTUNE_SHIPPED names it, but it is no directory" in capsys.readouterr().out


def test_many_things_that_are_not_used_for_one_reason_are_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    _tell([*(f"derived/{n}.json: is old" for n in range(100)), "records/a.json: is no record"])
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == [f"not used: derived/{n}.json: is old" for n in range(3)]
    assert told[3:] == ["not used: 97 more: is old", "not used: records/a.json: is no record"]
