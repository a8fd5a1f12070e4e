"""Terminals, pipes and signals: what is done and the exit code do not depend on who reads it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import eintune
from eintune.search.text import streams
from eintune.search.text.progress import Progress

MODULE = [sys.executable, "-P", "-m", "eintune"]
SIZE = ("--seq", "64", "--heads", "2", "--head-dim", "16", "--device", "cpu")
TUNE = [*MODULE, "tune", *SIZE, "--trials", "1"]


def shell(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script in which "$@" is a small `tune`, run in a folder that also has the cache."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *TUNE],
        cwd=folder,
        env=os.environ | {"EINTUNE_CACHE": str(folder / "cache")} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def stored(folder: Path) -> bool:
    return len(list((folder / "cache" / "records").glob("*.json"))) == 1 and bool(
        list(folder.glob("results/*/*/*.html"))
    )


def test_a_search_goes_on_though_nobody_reads_its_progress(tmp_path: Path) -> None:
    """Progress into a pipe without a reader, results to nowhere; the code in a file: a pipe ends with its reader's."""
    done = shell(tmp_path, '{ "$@" <&- >&-; echo $? >code; } 2>&1 | true')
    assert (tmp_path / "code").read_text() == "0\n" and stored(tmp_path), done.stderr


def test_no_name_turns_what_a_terminal_shows(tmp_path: Path) -> None:
    """A folder's, in a line of results."""
    line = [*MODULE, "cache", "clear", "--cache", "\u202egnp\x1b[31m"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"removed 0 records from {tmp_path}/\\u202egnp\\x1b[31m\n"), (
        done.stderr
    )


@pytest.mark.parametrize("lost", ["| true", "2>&1 | true", "2>&1 >/dev/null | true"])
def test_no_command_ends_where_its_reader_does(tmp_path: Path, lost: str) -> None:
    """What it prints may be flushed at any place: what comes after is done all the same."""
    code = """
import sys, time
from eintune.search.text import streams
streams.ready(); streams.ready()
time.sleep(0.5)
for stream in (sys.stdout, sys.stderr):
    print("lost" * 5000, file=stream, flush=True)
    print("lost", file=stream)
open("done", "w").close()
sys.exit(streams.settle() is not None)
"""
    script = '{ "$@"; echo $? >code; } ' + lost
    done = subprocess.run(["sh", "-c", script, "sh", sys.executable, "-P", "-c", code], cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "done").exists() and (tmp_path / "code").read_text() == "0\n"


def test_progress_without_a_reader_is_not_said() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        said = Progress(stream)
        os.close(reading)
        said.say("lost")
        said.say("lost too")
        assert said._stream is None


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "cp1252:strict", "utf-8:strict"])
def test_an_encoding_that_lacks_characters(tmp_path: Path, encoding: str) -> None:
    done = subprocess.run(
        [*MODULE, "cache", "explain", *SIZE, "--dtype", "\udcff…\x1b[31m"],
        env=os.environ | {"EINTUNE_CACHE": str(tmp_path), "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert b"Traceback" not in done.stderr and b"\x1b" not in done.stderr and b"\\udcff" in done.stderr


def test_what_ascii_lacks_is_spelt() -> None:
    streams.ready()
    text = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=streams.HANDLER)
    text.write("a ─ b × c … ∞ ü \udcff")
    text.flush()
    assert text.buffer.getvalue() == b"a - b x c ... inf \\xfc \\udcff"  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [("--help",), ("passes", "attention"), ("nonsense",)])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(arguments: tuple[str, ...], closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *MODULE, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (2 if arguments == ("nonsense",) else 0)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_ctrl_c_while_modules_are_imported() -> None:
    """Whenever it comes, from the first import of our own on."""
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
        code = (
            "import os, signal, sys, threading, time\n"
            "def later():\n"
            "    while 'eintune.search.cli.main' not in sys.modules: time.sleep(0.001)\n"
            f"    time.sleep({delay})\n    os.kill(os.getpid(), signal.SIGINT)\n"
            "threading.Thread(target=later).start()\n"
            "import eintune.__main__ as entry\n"
            f"sys.argv = ['eintune', 'tune', *{SIZE!r}, '--cache', '/nonexistent/cache']\n"
            "sys.exit(entry.main())"
        )
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr, (delay, done.stderr)
        assert done.returncode == 130, (delay, done.returncode, done.stderr)
        assert done.stderr.splitlines()[-1].startswith("eintune: interrupted")


def test_little_is_imported_before_a_ctrl_c_is_one_line() -> None:
    """What a command loads until it watches for one: an interrupt before that is a traceback of Python's own."""
    program = (
        "import sys; before = set(sys.modules); import eintune.__main__; from eintune.search.text import interrupts; "
        "print([m for m in ('typing', 'threading', 'pathlib', 'argparse') if m in set(sys.modules) - before])"
    )
    # Without `site` an editable installation is not found: where the package lies is said.
    places = [str(Path(p).parent) for p in eintune.__path__]
    command = [
        sys.executable,
        "-S",
        "-E",
        "-c",
        f"import sys; sys.path[:0] = {[*places, *filter(None, sys.path)]!r}; {program}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_ctrl_c_twice(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*MODULE, "tune", "--seq", "512", "--heads", "8", "--device", "cpu"],
        env=os.environ | {"EINTUNE_CACHE": str(tmp_path / "cache")},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.readline()  # something was said: modules are loaded
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    rest: Any = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in rest and "Exception" not in rest, rest


def test_an_interrupt_that_a_destructor_swallows_comes_again() -> None:
    code = """
import os, signal, sys, time
from eintune.search.text import interrupts
interrupts.watch()
class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
try:
    Dying()
    time.sleep(20)
except KeyboardInterrupt:
    print(interrupts.was_interrupted())
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")
