"""Hostile texts in every notation, by a seed: valid ones with something changed, drawn ones, large ones."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

from eintune.space.operators.assignments import read_operators, write_operators
from eintune.space.operators.cascades import from_cascade
from eintune.space.operators.egglog_programs import write_egg
from eintune.space.tile_ir.text import two_products
from eintune.space.workloads.builtin import WORKLOADS

ROOT = Path(__file__).parents[2]
_NUMBERS = "0 -0 1e999 1e-999 5e-324 1.8e308 inf -inf nan 0x10 1_000 １２ ٣ 1e . 1..2 --1 2147483648 1e-30 3"
NUMBERS = (*_NUMBERS.split(), "1" + "0" * 400, "9" * 19, "0." + "0" * 400 + "1", str(2**63))
_NAMES = (
    "if None lambda class exec __import__ torch tl range kernel num_warps T Op let datatype run void int sum max where "
    "inf param input results until e _ TA Q m0 m1 x1234567 Ａ é K Å"
)
NAMES = (*_NAMES.split(), "A" * 300, "a" * 300, "A\u0301", "m\u200d")
_SCRAPS = (
    '∨ ∧ " \' """ \\ \\" ` $(id) ${HOME} # /* */ // :: -> <- & ( ) [ ] { } | , : = == + - * / % ^ e^( <script> '
    "|m| M_mul_emp( R_add_m( T_split_m_m1m0( sum[m]( A[B[m],m//2] "
    "÷ ÷(←) σ( 𝟙 _{ S_i S_{i+1} RY_{i:i=0} K_{e,m1×M0+m0} Ak:k≤i \\frac{ \\bigvee_{m} \\text{max} \\infty sub-then-exp("
)
SCRAPS = (
    *_SCRAPS.split(),
    *("\x00", "\x1b[2J", "\r", "\x0c", "\x85", "\u2028", "\u202e", "\ufeff", "\ud800", "\udcff", "\t", "\n\n", "🧨"),
    *("; import os", "=cmd|x!A1", "\\/m max", "/\\k *(&)", "where(m <= p, ", "split[m -> m1,m0](", " else 0]", ": int"),
    *('(Param "x")', "(let $x ", '(include "/etc/passwd")'),
)
FUNCTIONS = ("e^", "log", "tanh", "sqrt", "floor", "abs", "sigmoid", "max", "nothing")
TOKEN = re.compile(r"\w+|\s+|[^\w\s]")


@cache
def seeds() -> tuple[str, ...]:
    """Valid texts: of the tests, the documentation, the package, and every workload in each notation."""
    texts = [p.read_text() for p in sorted((ROOT / "tests" / "cascades").glob("*.edge"))]
    texts += [p.read_text() for p in sorted((ROOT / "tests" / "operators").glob("*.txt"))]
    for page in sorted((ROOT / "docs").glob("*.md")):
        texts += re.findall(r"^```(?:text|edge)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        texts += re.findall(r'parse\("""\n?(.*?)"""', page.read_text().replace("\n... ", "\n"), re.DOTALL)
    for workload in WORKLOADS.values():
        cascade = workload()
        texts.append(str(cascade))
        try:
            graph = from_cascade(cascade)
            texts += [write_operators(graph), write_egg(graph)]
        except ValueError:  # what the notation cannot say
            continue
    egg = write_egg(read_operators((ROOT / "tests" / "operators" / "attention_2pass.txt").read_text()))
    return (*texts, egg, _serialised(), two_products(), two_products(stored="once"))


def _serialised() -> str:
    leaf = {"children": [], "cost": 1}
    nodes = {
        "n": {"op": '"A"', "eclass": "n", **leaf},
        "r": {"op": '"m,p"', "eclass": "r", **leaf},
        "s": {"op": '"scale"', "eclass": "s", **leaf},
        "a": {"op": "Tensor", "children": ["n", "r"], "eclass": "a", "cost": 1},
        "k": {"op": "Param", "children": ["s"], "eclass": "k", "cost": 1},
        "x": {"op": "M_mul_mp", "children": ["a", "k"], "eclass": "x", "cost": 2},
        "y": {"op": "R_add_m", "children": ["x"], "eclass": "y", "cost": 3},
    }
    return json.dumps({"nodes": nodes, "root_eclasses": ["y"], "class_data": {"y": {"let": "Z"}}})


# ---- changed


def mutated(draw: random.Random) -> str:
    """A valid text with one to six places changed."""
    text = draw.choice(seeds())
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        text = draw.choice(CHANGES)(text, draw)[:200_000]
    return text


def _tokens(text: str) -> list[str]:
    return TOKEN.findall(text) or [""]


def _replace(text: str, draw: random.Random) -> str:
    tokens = _tokens(text)
    i = draw.randrange(len(tokens))
    if tokens[i][:1].isdigit():
        tokens[i] = draw.choice(NUMBERS)
    elif tokens[i].isidentifier():
        tokens[i] = draw.choice((*NAMES, draw.choice(tokens)))
    else:
        tokens[i] = draw.choice(SCRAPS)
    return "".join(tokens)


def _everywhere(text: str, draw: random.Random) -> str:
    """One word, wherever it stands, as another."""
    words = [t for t in _tokens(text) if t.isidentifier()] or ["x"]
    return (
        re.sub(rf"\b{re.escape(draw.choice(words))}\b", lambda _: chosen, text)
        if (chosen := draw.choice(NAMES))
        else text
    )


def _insert(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice((*SCRAPS, *NUMBERS, *NAMES)) * draw.choice((1, 1, 1, 2, 40)) + text[at:]


def _delete(text: str, draw: random.Random) -> str:
    tokens = _tokens(text)
    i = draw.randrange(len(tokens))
    return "".join(tokens[:i] + tokens[i + draw.choice((1, 1, 2, 8)) :])


def _double(text: str, draw: random.Random) -> str:
    """A stretch again, up to hundreds of times."""
    tokens = _tokens(text)
    i = draw.randrange(len(tokens))
    j = min(len(tokens), i + draw.choice((1, 2, 5, 20)))
    return "".join(tokens[:j] + tokens[i:j] * draw.choice((1, 1, 3, 90, 700)) + tokens[j:])


def _swap(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return "\n".join(lines)


def _splice(text: str, draw: random.Random) -> str:
    other = draw.choice(seeds())
    return text[: draw.randrange(len(text) + 1)] + other[draw.randrange(len(other) + 1) :]


CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    *(_replace, _replace, _replace, _everywhere, _insert, _insert, _delete, _double, _swap, _splice),
)

# ---- drawn


def drawn(draw: random.Random) -> str:
    """EDGE lines of any shape that the grammar allows, and a few that it does not."""
    made: list[tuple[str, tuple[str, ...]]] = [("A", ("m", "p")), ("B", ("m",)), ("C", ()), ("D", ("p", "k"))]
    lines = []
    for i in range(draw.choice((1, 2, 3, 5, 9))):
        name = f"T{chr(65 + i)}"
        ranks = tuple(draw.sample("mpk", draw.randrange(4)))
        action = f" :: \\/{draw.choice('mpk')} {draw.choice(('+', '*', 'max', 'min'))}" if draw.random() < 0.3 else ""
        lines.append(f"{name}{','.join(ranks)} = {_expression(draw, made, draw.choice((1, 2, 3, 6)))}{action}")
        made.append((name, ranks))
    return "\n".join(lines)


def _expression(draw: random.Random, made: list[tuple[str, tuple[str, ...]]], depth: int) -> str:
    def go() -> str:
        return _expression(draw, made, depth - 1 - draw.randrange(2))

    if depth <= 0:
        name, ranks = draw.choice(made)
        read = f"{name}{','.join(ranks)}"
        return draw.choice((read, read, draw.choice(NUMBERS), "scale", "|m|", "index(p)"))
    r, s = draw.sample("mpk", 2)
    filters = (f"{r} <= {s}", f"{r} < 3", f"2*{r} + {s} >= |{r}| - 1", f"{r} <= {draw.choice(NUMBERS)}")
    return draw.choice(
        (
            lambda: f"{go()} {draw.choice('+-*/')} {go()}",
            lambda: f"({go()} {draw.choice(('<=', '==', '!=', '>', '&', '|'))} {go()})",
            lambda: f"-({go()})",
            lambda: f"{draw.choice(('sum', 'max', 'min', 'prod'))}[{r}]({go()})",
            lambda: f"fold_{draw.choice(('scale', 'translate'))}[{r}]({go()}, {go()})",
            lambda: f"where({draw.choice(filters)} & {draw.choice(filters)}, {go()}, {draw.choice(NUMBERS)})",
            lambda: f"select({go()}, {go()}, {go()})",
            lambda: f"{draw.choice(FUNCTIONS)}({go()})",
            lambda: f"split[{r} -> {r}1,{r}0]({go()})",
            lambda: f"E[{r}+{s}-1 else 0]",
        )
    )()


# ---- large


def large(draw: random.Random) -> str:
    """Long, deep and wide: something legal, very often."""
    n = draw.choice((60, 100, 101, 400, 999, 1001, 3000))
    x = draw.choice(("Am", "Am * 2", "e^(Am)", "sum[p](Bp * Am)", "where(m <= 3, Am, 0)", "max(Am, 1)"))
    called = ["T" + "".join(chr(65 + i // 26**k % 26) for k in (2, 1, 0)) for i in range(n)]
    below = list(pairwise(called))
    step = draw.choice(
        ("{0}m + {0}m", "{0}m * 2", "1 - {0}m", "e^({0}m - 1)", "sum[p](Bp * {0}m)", "{0}m * {0}m", "{0}p")
    )
    kind = draw.choice(("left", "left", "right", "-"))
    return draw.choice(
        (
            lambda: f"Zm = {draw.choice((' + ', ' * ', ' - ', ' / ')).join([x] * n)}",
            lambda: f"Zm = {'(' * n}{x}{')' * n}",
            lambda: f"Zm = {('-(' if kind == '-' else 'tanh(') * n}{x}{')' * n}",
            lambda: "\n".join([f"{called[0]}m = {x}", *(f"{b}m = {step.format(a)}" for a, b in below)]),
            lambda: f"Zm = where({' & '.join(f'm <= {i}' for i in range(n))}, {x}, 0)",
            lambda: f"input I{n}[m] : int\ninput E[r]\nZm = E[" + f"I{n}[" * n + "m" + "]" * (n + 1),
            lambda: f"input E[r]\nZm = E[{'+'.join(['m'] * n)} else 0] * Bm",
            lambda: "Z = " + " * ".join(f"A{chr(97 + i % 26)}{i // 26}" for i in range(n)),
            lambda: "\n".join(f"{b} = M_add_m({a}, {a})" for a, b in zip(["Q_{m}", *called], called, strict=False)),
            lambda: "".join(f"(let ${b} (M_mul_m ${a} ${a}))" for a, b in below),
            lambda: "(let $S " + "(M_exp_m " * n + '(Tensor "Q" "m")' + ")" * (n + 1),
            lambda: "(tile A 8 8 fp16)(result (STG (STS " + "(Elementwise scale " * n + "(LDR (LDS A" + ")" * (n + 5),
            lambda: json.dumps(_deep_graph(n)),
            lambda: f"{'A' * n * 40}m = B{'m,' * n}p",
        )
    )()


def _deep_graph(n: int) -> dict[str, object]:
    nodes: dict[str, object] = {"t": {"op": "Q", "children": [], "eclass": "t", "cost": 1}}
    for i in range(n):
        nodes[f"n{i}"] = {"op": "M_exp_m", "children": [f"n{i - 1}" if i else "t"], "eclass": f"c{i}", "cost": 1}
    return {"nodes": nodes, "root_eclasses": [f"c{n - 1}"]}


def text_of(seed: int) -> tuple[str, str]:
    """(how it was made, the text)."""
    draw = random.Random(f"text {seed}")
    make = draw.choice((mutated, mutated, mutated, drawn, drawn, large))
    return make.__name__, make(draw)
