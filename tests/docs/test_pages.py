"""What the pages show is what happens: every block of code of README.md, CONTRIBUTING.md and docs/*.md runs.

A page's blocks run in their order, in one folder and with one cache: `python` with prompts is a doctest, `python`
without is a program in a process of its own, `sh` runs in a shell. `console` is what needs a GPU or minutes: its
options are parsed.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eintune.search.cli.main import main, whole_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
SHOWN = {"text", "json"}
"""What is not run: what something else printed."""
LEAST = {
    "README.md": {"program": 1, "console": 2},
    "docs/gradients.md": {"example": 3, "program": 1},
    "docs/graphs.md": {"example": 25, "shell": 9},
    "docs/index.md": {"example": 4, "shell": 2},
    "docs/notation.md": {"example": 45},
    "docs/operators.md": {"program": 3},
    "docs/programs.md": {"example": 33},
    "docs/read_the_report.md": {"shell": 2},
    "docs/ship_a_cache.md": {"shell": 9},
    "docs/tune_a_set.md": {"shell": 3, "console": 2},
    "docs/varying_lengths.md": {"example": 7, "console": 2},
    "docs/workloads.md": {"example": 8},
    "docs/your_own_cascade.md": {"example": 11, "shell": 3},
    "docs/your_own_mask.md": {"example": 25, "shell": 2},
}
"""How many of each kind a page has at least: examples and lines of commands that were run, so that none is lost to how
it is written. Every page with code is here."""
CODE = re.compile(r"^(>>>|import |from \w+ import|eintune |tune |python )", re.MULTILINE)
NAMED = re.compile(r"`((?:space|costmodel|kernels|search|tests|docs|examples|src)/[\w/]+\.(?:py|md|toml))`")
LINKED = re.compile(r"\]\((?!https?:)([^)#\s]+)")
SHELL = """
set -euo pipefail
eintune() { "$PYTHON" -m eintune "$@"; }
tune() { eintune tune "$@"; }
python() { "$PYTHON" "$@"; }
"""
SHELL_SECONDS, PROGRAM_SECONDS = 400, 300


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    found = re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2))) for m in found]


def commands(text: str) -> list[str]:
    """The lines of a shell's text that call a command of ours or Python; files that it writes in place left out."""
    text = re.sub(r"<<'(\w+)'\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line for line in text.splitlines() if re.match(r"(eintune|tune|python) ", line)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", LEAST)
def test_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.delenv("EINTUNE_SHIPPED", raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    ran: Counter[str] = Counter()
    known: dict[str, Any] = {}
    for number, block in enumerate(blocks(PAGES[page].read_text())):
        match block.language:
            case "python" if block.text.startswith(">>>"):
                ran["example"] += examples(page, block, known)
            case "python":
                ran["program"] += 1
                path = folder / f"program{number}.py"  # a file, as the compiler reads sources
                path.write_text(block.text)
                done_well([sys.executable, str(path)], PROGRAM_SECONDS)
            case "sh":
                ran["shell"] += len(commands(block.text))
                done_well(["bash", "-c", SHELL + block.text], SHELL_SECONDS)
            case "console":
                ran["console"] += sum(map(parsed, block.text.splitlines()))
            case other:
                assert other in SHOWN, f"{page}, line {block.line}: a block of code names no language that is run"
    assert all(ran[kind] >= least for kind, least in LEAST[page].items()), ran


def test_every_page_with_code_is_run() -> None:
    with_code = {page for page, path in PAGES.items() if any(b.language not in SHOWN for b in blocks(path.read_text()))}
    assert with_code == set(LEAST)


def test_what_is_shown_as_text_is_no_code() -> None:
    for page, path in PAGES.items():
        for block in blocks(path.read_text()):
            if block.language in SHOWN:
                assert not CODE.search(block.text), page


def examples(page: str, block: Block, known: dict[str, Any]) -> int:
    """Run a block of doctests among what those before it left; how many there were."""
    test = doctest.DocTestParser().get_doctest(block.text, known, page, page, block.line)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failed, attempted = runner.run(test, out=said.append, clear_globs=False)
    known.update(test.globs)
    assert not failed, "".join(said)
    return attempted


def done_well(command: list[str], seconds: float) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env={**os.environ})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def parsed(line: str) -> bool:
    """Whether a line is a command; that it is one that is taken."""
    words = shlex.split(line, comments=True)
    if not words:
        return False
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        return True
    arguments = words if words[0] == "tune" else words[1:]
    assert words[0] in ("tune", "eintune"), line
    whole_parser().parse_args(arguments)  # raises Usage
    return True


# ---- what the text names


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = PAGES[page].read_text()
    for name in NAMED.findall(text):
        assert (ROOT / name).is_file(), f"{page} names {name}, which is not there"
    for link in LINKED.findall(re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)):
        assert (PAGES[page].parent / link).exists(), f"{page} links {link}, which is not there"


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_a_page_names_are_taken(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole commands in the text, such as `tune --seq 2048 --heads 32`: each option is one of that command."""
    for command in re.findall(r"`((?:eintune|tune) [^`]+)`", PAGES[page].read_text()):
        words = command.split()
        if words[1] == "COMMAND":
            continue
        name, *options = words if words[0] == "tune" else words[1:]
        with pytest.raises(SystemExit) as ended:
            main([name, *(w for w in options[:1] if name == "cache"), "--help"])
        assert ended.value.code in (0, None), command
        shown = capsys.readouterr().out
        for option in (w.partition("=")[0].rstrip(",") for w in options if w.startswith("--")):
            assert option in shown, f"{page}: {command}: {option} is no option of {name}"
