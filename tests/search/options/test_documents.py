"""One envelope for all commands' JSON, and places that cannot be written told before anything is done."""

from __future__ import annotations

import argparse
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eintune import __version__
from eintune.search.cli.main import COMMANDS, main
from eintune.search.options import command as command_module
from eintune.search.options.documents import STDOUT

SIZE = ("--seq", "16", "--heads", "2", "--head-dim", "16")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("line", "name", "has"),
    [
        (("tune", *SIZE, "--plan-only", "--machine", "cpu", "--quiet"), "tune", "ranking"),
        (("space", "softmax", "--stored"), "space", "cascades"),
        (("passes", "softmax"), "passes", "passes"),
        (("tiles", "--top", "1"), "tiles", "cheapest"),
        (("cache", "list"), "cache list", "entries"),
        (("cache", "verify"), "cache verify", 0),
    ],
)
def test_every_command_gives_the_same_envelope(
    line: tuple[str, ...], name: str, has: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((*line, "--json", "-")) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)  # standard output is the document alone
    assert err.strip() and has in (data["result"] if isinstance(has, str) else range(len(data["result"])))
    head = {n: v for n, v in data.items() if n != "result"}
    words = head.pop("command_line")
    assert words.startswith(f"eintune {line[0]}") and words.endswith("--json -")
    assert head == {"schema": "eintune", "version": 1, "command": name, "eintune": __version__}
    assert main((*line, "--json", "out.json")) == 0
    assert capsys.readouterr().out.strip()
    kept = json.loads(Path("out.json").read_text())
    assert {n for n in kept if kept[n] != data[n]} <= {"command_line", "result"}


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                found |= options_of(sub)
        found |= dict.fromkeys(action.option_strings, action)
    return found


def test_one_option_is_spelt_and_taken_alike_by_all_commands() -> None:
    """Of one name are options of one type and one kind of value, wherever they stand."""
    taken: dict[str, dict[Any, set[str]]] = {}
    for command in COMMANDS:
        parser = argparse.ArgumentParser(add_help=False)
        command.options(parser)
        for name, action in options_of(parser).items():
            value = action.metavar or tuple(action.choices or ())
            kind = "a size" if getattr(action.type, "__name__", "") in ("positive", "several_sizes") else action.type
            taken.setdefault(name, {}).setdefault((kind, value, action.nargs), set()).add(command.name)
    assert taken["--seq"] and taken["--heads"] and "--num-heads" not in taken and "--seq-lengths" not in taken
    assert {n: found for n, found in taken.items() if len(found) > 1 and n not in OF_TWO_MEANINGS} == {}


OF_TWO_MEANINGS = {
    "--dtype": "of a tile, or of a problem's inputs",
    "--machine": "a description to price for; of `cache`, some text in the names of machines",
    "--workload": "one of those that can be posed; of stored things, whatever name they have",
    "--rows": "of a workload, or of a tile",
    "--width": "of a workload, or of a tile",
    "--batch": "sequences, or points that are measured together",
    "--seed": "a whole number, which may be 0",
}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("tune", *SIZE, "--json", "file/x.json", "--plan-only", "--machine", "cpu"), "--json: cannot write to file/x"),
        (("tune", *SIZE, "--json", "folder", "--device", "cpu"), "--json: cannot write to folder: Is a directory"),
        (("tune", *SIZE, "--results", "file", "--device", "cpu"), "--results: cannot write to file: "),
        (("tune", *SIZE, "--results", "file/a/b", "--device", "cpu"), "--results: cannot write to file/a/b: "),
        (("bench", "--seq", "16", "--results", "file", "--device", "cpu"), "--results: cannot write to file: "),
        (("record", *SIZE, "--out", "file", "--device", "cpu"), "--out: cannot write to file: "),
        (("tune", "--seq", "16,32", "--heads", "2", "--cache", "file", "--device", "cpu"), "--cache: cannot write to "),
        (("growth", "--csv", "file/x.csv"), "--csv: cannot write to file/x.csv: "),
        (("definitions", "--markdown", "folder"), "--markdown: cannot write to folder: Is a directory"),
        (("space", "softmax", "--svg", "file"), "--svg: cannot write to file: "),
        (("cache", "export", "folder"), "--file: cannot write to folder: Is a directory"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_search(
    line: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    Path("folder").mkdir()
    assert main((*line, "--quiet") if line[0] in ("tune", "bench", "record") else line) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"eintune: error: {says}") and len(err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_another_is_said_before_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    Path("closed").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    assert main(["tune", *SIZE, "--results", "closed/a", "--device", "cpu", "--quiet"]) == 1
    assert "--results: cannot write to closed/a: Permission denied" in capsys.readouterr().err


def test_what_is_not_asked_for_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["tiles", "--top", "1"]) == 0 and not list(Path().glob("*.json"))
    assert Path("-") == STDOUT and not STDOUT.exists()
    made: Callable[[str], Path] = command_module.path
    assert made("-") == STDOUT


def helped(capsys: pytest.CaptureFixture[str], *line: str) -> str:
    with pytest.raises(SystemExit):
        main([*line, "--help"])
    return capsys.readouterr().out


def test_help_is_on_the_options_that_apply(capsys: pytest.CaptureFixture[str]) -> None:
    whole, other = helped(capsys, "tune"), helped(capsys, "tune", "--workload", "layernorm")
    assert "--kv-heads" in whole and "--cols N" not in whole and "--trials" in whole
    assert "--cols N" in other and "--kv-heads N" not in other and "--trials" in other
    assert "--cols" in helped(capsys, "space", "layernorm") and "--kv-heads" in helped(capsys, "space")
    assert "--cols" in helped(capsys, "cache", "explain", "--workload=layernorm")
    assert "query heads; default: 32" in helped(capsys, "bench")


def test_a_plan_of_a_training_step_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    line = ("tune", *SIZE, "--backward", "--plan-only", "--machine", "cpu", "--quiet", "--json", "-")
    assert main(line) == 0
    kernels = json.loads(capsys.readouterr().out)["result"]["kernels"]
    assert len(kernels) > 1 and all(k["gives"] and k["ranking"] for k in kernels)
