"""Drawn command lines over every command: a right answer or one line, no traceback, no hang, no memory without end.

What is drawn is read off the parsers, so that a new command or option is attacked without being named here. A line
takes values that suit an option, values that do not, and mistakes of its own (options twice, unknown, cut short, out of
place). Most lines run in this process; some as a shell would run them, with streams that are closed, cut or ASCII.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from eintune.search.cli.main import COMMANDS, main

SECONDS = 10.0
"""Of processors, for a line: of this process and its children."""
STANDSTILL = 300.0
"""By the clock, for a line that waits for what does not come: a machine may be shared by many."""
MOST_BYTES = 2 * 2**30

EDGE = "Zm,n = Ak,m * Bk,n\n"
SOFTMAX = "Gm = Xm,k :: \\/k max\nEm,k = e^(Xm,k - Gm)\nSm = Em,k\nZm,k = Em,k / Sm\n"
EGG = '(let z (Sum "k" (Mul (Input "A" "k" "m") (Input "B" "k" "n"))))\n'
MODS = "def tilted(score, b, h, p, m): return score + (m - p)\ndef near(b, h, p, m): return m <= p\nnumber = 3\n"
NUMBERS = ("1", "2", "7", "16", "64")
SETS = ("16,64", "8:32", "7:7", "1,1,1", "2,16:64")
"""Several sizes as one."""
BAD_NUMBERS = (
    *("0", "-1", "-0", "1.5", "1e3", "nan", "inf", "", " ", "x", "0x10", "1_0", "٣", "²", "9" * 40, "2147483648", "+2"),
    *(
        "1,2",
        "2147483647",
        "\x00"[:0],
        "1\n2",
        "8:4",
        ":",
        "1:",
        "1,",
        "1:99999999999",
        "0:4",
        "1:2:3",
        "--",
        "-",
        "1;2",
        "$(id)",
        "%s",
        "{}",
        "1\t",
    ),
)
BAD_TEXTS = (
    *(
        "",
        " ",
        "\x1b[31mred\x1b[0m",
        "\udcff",
        "a\nb",
        "\u202egnp",
        "x" * 5000,
        "-",
        "--",
        "'",
        '"',
        "\\",
        "%(prog)s",
        "%",
    ),
    *("{0}", "$HOME", "../../../etc/passwd", "\x07", "\r", "NaN", "None", "[]", "é", "日本", "attention ", "🜁"),
)
PLACES = (
    *("gemm.edge", "softmax.edge", "z.egg", "mods.py", "empty", "binary", "deep.edge", "long.edge", "folder", "fifo"),
    *(
        "none",
        "loop",
        "unreadable/x",
        "gemm.edge/x",
        "/dev/null",
        "/dev/full",
        "/dev/zero",
        "/proc/self/mem",
        "~nosuchuser/x",
    ),
    *("~", ".", "..", "", " ", "x" * 300, "b\udcffd", "a\nb.edge", "\x1b[2J", "socket"),
)
SLOW = {
    "tune": ("--plan-only", "--machine", "cpu", "--top", "2", "--quiet"),
    "bench": ("--seq", "16", "--heads", "1", "--head-dim", "8", "--peers", "sdpa", "--no-tune", "--iters", "2"),
    "record": ("--count", "1", "--quiet", "--workload", "softmax", "--rows", "16", "--cols", "16", "--device", "cpu"),
    "warm": ("--workload", "cross_entropy"),
    "growth": ("--only", "nothing like it"),
    "definitions": ("--only", "nothing like it"),
}
"""What keeps a command short that does much by itself."""
KINDS = ("positive", "seconds", "number", "several_sizes")
"""Of options that take numbers."""
LONG = frozenset({"suite", "variants", "case", "kinds", "cool", "hot", "laws"})
"""Options that ask for minutes of work, by where they are kept."""
PROGRESS = re.compile(r" *\d+\.\d s  \w+ ")
"""How a line of progress begins: a command may find out after a moment that it was given what it cannot take."""
RARE = {
    "bench": 0.15,
    "record": 0.15,
    "doctor": 0.1,
    "growth": 0.5,
    "definitions": 0.5,
    "judge": 0.7,
    "replay": 0.5,
    "report": 0.5,
}
"""How often a command is drawn, against 1 for the others."""


@dataclass
class Drawn:
    """One command line; shell: redirections and variables, where it runs as a process of its own."""

    words: list[str]
    shell: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def places(folder: Path) -> None:
    """Files and what is none, in a folder."""
    for name, text in (
        ("gemm.edge", EDGE),
        ("softmax.edge", SOFTMAX),
        ("z.egg", EGG),
        ("mods.py", MODS),
        ("empty", ""),
    ):
        (folder / name).write_text(text)
    (folder / "binary").write_bytes(bytes(range(256)) * 8)
    (folder / "deep.edge").write_text("Zm = " + "(" * 3000 + "Am" + ")" * 3000 + "\n")
    (folder / "long.edge").write_text("".join(f"Z{i}m = Am + {i}\n" for i in range(3000)))
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "unreadable").mkdir(mode=0)


# ---- drawing


class Drawing:
    """Draws lines from a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.parsers: dict[str, argparse.ArgumentParser] = {}
        for command in COMMANDS:
            self.parsers[command.name] = argparse.ArgumentParser(prog=command.name, add_help=False)
            command.options(self.parsers[command.name])

    def line(self) -> list[str]:
        names = list(self.parsers)
        if self.draw.random() < 0.03:
            return [
                self.draw.choice((*BAD_TEXTS, "--help", "--version", "tun", "TUNE"))
                for _ in range(self.draw.randint(0, 3))
            ]
        name = self.draw.choices(names, [RARE.get(n, 1.0) for n in names])[0]
        # one line in three is as it should be, the others have a value or two that are not
        self.mistakes = self.draw.choice((0, 1, 2))
        return [*self.broken([name, *self.options(name, self.parsers[name])]), *SLOW.get(name, ())]

    def options(self, name: str, parser: argparse.ArgumentParser) -> list[str]:
        words: list[str] = []
        silent = (argparse._HelpAction, argparse._VersionAction)
        actions = [a for a in parser._actions if not isinstance(a, silent) and a.dest not in LONG]
        positional = [a for a in actions if not a.option_strings]
        optional = [a for a in actions if a.option_strings]
        for action in positional:
            if isinstance(action, argparse._SubParsersAction):
                verb = self.draw.choice(list(action.choices))
                words += [verb, *self.options(f"{name} {verb}", action.choices[verb])]
            elif action.nargs not in ("?", "*") or self.draw.random() < 0.5:
                words.append(self.value(action))
        of_problem = {a.dest: a for a in optional if a.dest.startswith("of_")}
        if of_problem and self.draw.random() < 0.7:
            words += self.problem(of_problem)
            optional = [a for a in optional if a.dest not in of_problem]
        for action in self.draw.sample(optional, min(len(optional), self.draw.randint(0, 3))):
            words += self.option(action)
        return words

    def problem(self, actions: dict[str, argparse.Action]) -> list[str]:
        """Attention of a small size with a few modifiers, or what else there is."""
        words = []
        for dest in ("of_seq", "of_heads", "of_head_dim"):
            if dest in actions:
                words += self.option(actions[dest])
        for action in self.draw.sample(list(actions.values()), self.draw.randint(0, 2)):
            words += self.option(action)
        return words

    def option(self, action: argparse.Action) -> list[str]:
        flag = self.draw.choice(action.option_strings)
        if action.nargs == 0:
            return [flag]
        if action.nargs == "?" and self.draw.random() < 0.6:
            return [flag]
        value = self.value(action)
        return [f"{flag}={value}"] if self.draw.random() < 0.2 else [flag, value]

    def value(self, action: argparse.Action) -> str:
        wrong = self.mistakes > 0 and self.draw.random() < 0.3
        self.mistakes -= wrong
        kind = getattr(action.type, "__name__", "text")
        if wrong:
            pool = PLACES if kind == "path" else BAD_NUMBERS if kind in KINDS else BAD_TEXTS
            return self.draw.choice(self.draw.choice((pool, pool, BAD_TEXTS, BAD_NUMBERS)))
        if action.choices:
            return self.draw.choice(list(action.choices))
        match kind:
            case "several_sizes":
                return self.draw.choice((*NUMBERS, *NUMBERS, *SETS))
            case "positive" | "int" | "_count" | "lengths":
                return self.draw.choice(NUMBERS)
            case "seconds" | "number":
                return self.draw.choice(("1", "0.5", "2e0"))
            case "path":
                return self.draw.choice((*PLACES[:3], "made", "made/too"))
            case "sizes":
                return "k=8,m=16,n=8"
            case "_params":
                return "scale=0.5"
            case "function_in":
                return self.draw.choice(("mods.py:tilted", "mods.py:near", "mods.py:none", "none.py:f", "mods.py"))
        return self.text(action.dest)

    def text(self, dest: str) -> str:
        match dest:
            case "machine":
                return self.draw.choice(("cpu", "h200", "a100", "wormhole"))
            case "file" | "graph" | "workload":
                return self.draw.choice(("attention", "softmax", "gemm.edge", "softmax.edge", "z.egg", "gelu"))
            case "sampler":
                return self.draw.choice(("mixed", "model"))
            case "peers":
                return "sdpa"
        return self.draw.choice(("m", "k", "softmax", "1-pass", "attention", "Z", "m,k"))

    def broken(self, words: list[str]) -> list[str]:
        if self.mistakes <= 0 or self.draw.random() < 0.5:
            return words
        at = self.draw.randrange(1, len(words) + 1)
        match self.draw.randrange(6):
            case 0:
                return [*words[:at], self.draw.choice(BAD_TEXTS), *words[at:]]
            case 1:
                return words[:at]
            case 2:
                return [*words, *words[1:]]
            case 3:
                return [
                    *words[:at],
                    self.draw.choice(("--nonsense", "--se", "--he=3", "-x", "--quiet=1", "@gemm.edge")),
                ]
            case 4:
                return [*words[:1], *self.draw.sample(words[1:], len(words) - 1)]
            case _:
                return [w[: self.draw.randrange(len(w) + 1)] if i == at - 1 and i else w for i, w in enumerate(words)]

    def process(self) -> Drawn:
        shell = self.draw.choice(
            (">&-", "2>&-", "<&- >&- 2>&-", "| head -c 10", "2>&1 | true", ">/dev/full", "</dev/full", "")
        )
        encoding = self.draw.choice(("ascii", "ascii:strict", "utf-8", "latin-1:strict"))
        other = self.draw.choice(
            ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"EINTUNE_CACHE": "~no/x"})
        )
        return Drawn(self.line(), shell, {"PYTHONIOENCODING": encoding, **other})


# ---- running


class Hung(BaseException):
    """A line that takes too long."""


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raises Hung after SECONDS of this process, or STANDSTILL by the clock."""

    def over(number: int, frame: FrameType | None) -> None:
        raise Hung(f"signal {number}")

    before = [signal.signal(s, over) for s in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, STANDSTILL)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def inside(words: Sequence[str]) -> tuple[int, str, str]:
    """Run a line in this process: its exit code and what it wrote."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), watched():
        try:
            code = main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, *(stream.buffer.getvalue().decode("utf-8") for stream in (out, err))  # type: ignore[attr-defined]


def fault(code: int, out: str, err: str) -> str:
    """What is wrong with an answer, or ""."""
    if "Traceback" in err or "Exception ignored" in err:
        return "a traceback"
    if any(not c.isprintable() for c in (out + err).replace("\n", "").replace("\t", "")):
        return "control characters"
    words = [line for line in err.splitlines() if not PROGRESS.match(line)]
    said = [line for line in words if ": error: " in line.split("'")[0][:40]]
    if code == 0:
        return "an error and code 0" if said else "" if out or err else "no answer"
    if code not in (1, 2):
        return f"exit code {code}"
    if code == 2 and (len(said), len(words)) != (1, 1):
        return "not one line"
    return "" if len(said) == 1 or out else "neither an answer nor one line"


def attack(seed: int, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], list[str]]:
    """Run so many lines; what came of them, and the faults."""
    places(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EINTUNE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HOME", str(folder))
    drawing, faults = Drawing(seed), list[str]()
    came: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(count):
        words, begun = drawing.line(), spent()
        try:
            code, out, err = inside(words)
            wrong = fault(code, out, err)
            came[f"exit code {code}"] += 1
        except Hung as hung:
            wrong, err = f"hung ({hung})", ""
        except Exception as error:
            wrong, err = f"{type(error).__name__}: {error}", ""
        os.chdir(folder)
        seconds = spent() - begun
        slowest = max(slowest, seconds)
        if not wrong and seconds > SECONDS:
            wrong = f"{seconds:.0f} s"
        if wrong:
            faults.append(f"{words!r}: {wrong[:300]} {err[-200:]}")
            print(faults[-1], flush=True)
    came["slowest, ms"] = round(slowest * 1e3)
    return came, faults


def spent() -> float:
    """Seconds of processors that this process and its children have used."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def peak() -> int:
    """The most bytes that this process, or one of its children, had at once."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def outside(drawn: Drawn, folder: Path) -> str:
    """Run a line as a process of its own, as a shell does; what is wrong with it, or ""."""
    script = '{ "$@"; echo $? >code; } ' + drawn.shell if "|" in drawn.shell else f'"$@" {drawn.shell}; echo $? >code'
    words = [sys.executable, "-P", "-m", "eintune", *drawn.words]
    begun = time.monotonic()
    try:
        done = subprocess.run(
            ["sh", "-c", script, "sh", *words],
            cwd=folder,
            env=os.environ | drawn.environment,
            capture_output=True,
            timeout=STANDSTILL,
        )
    except subprocess.TimeoutExpired:
        return f"hung ({time.monotonic() - begun:.0f} s)"
    err, code = done.stderr.decode(errors="surrogateescape"), (folder / "code").read_text().strip()
    if any(word in err for word in ("Traceback", "Exception ignored")) or code not in ("0", "1", "2"):
        return f"exit code {code}: {err[-400:]}"
    return "" if code == "0" or "2>" in drawn.shell or err or done.stdout else "code without a word"


# ---- the tests


def test_some_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came, faults = attack(1, 25, tmp_path, monkeypatch)
    assert not faults, "\n".join(faults)
    assert came["exit code 0"] and came["exit code 2"]


def test_what_an_option_takes_is_drawn_for_it() -> None:
    """A kind of option that drawing does not know is given words, and all its lines are refused."""
    drawing = Drawing(5)
    drawing.mistakes = 0
    numbers = [a for p in drawing.parsers.values() for a in p._actions if a.metavar == "N" and a.type is not None]
    assert len(numbers) > 20
    for action in numbers:
        assert action.type(drawing.value(action)), action  # type: ignore[operator]


def test_some_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path / "cache"))
    places(tmp_path)
    drawing = Drawing(2)
    faults = [(d, wrong) for d in (drawing.process() for _ in range(3)) if (wrong := outside(d, tmp_path))]
    assert not faults, faults


@pytest.mark.soak
def test_all_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 lines, 900 of them in this process."""
    came, faults = attack(int(os.environ.get("ATTACK_SEED", "3")), 900, tmp_path, monkeypatch)
    drawing = Drawing(4)
    for drawn in (drawing.process() for _ in range(100)):
        wrong = outside(drawn, tmp_path)
        came["processes"] += 1
        if wrong:
            faults.append(f"{drawn}: {wrong}")
            print(faults[-1], flush=True)
    came["peak, MiB"] = peak() >> 20
    print(dict(came))
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults)
    assert peak() < MOST_BYTES


def test_a_hang_is_found() -> None:
    def forever() -> Any:
        with watched():
            signal.setitimer(signal.ITIMER_PROF, 0.05)
            while True:
                pass

    with pytest.raises(Hung):
        forever()
