"""Text on its way into another language is text there and nothing more, whatever it holds."""

from __future__ import annotations

import ast
import csv as csv_module
import html.parser
import io
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eintune.host import quoting
from eintune.host.printable import printable
from eintune.space.cascade.cascade import Cascade
from eintune.space.ir.einsum import CascadeError, Einsum
from eintune.space.ir.expr import Access, Iota, Map, Param, Tensor
from eintune.space.notation.s_expressions import string_of
from eintune.space.operators.egglog_programs import read_egg, read_egglog_json, write_egg
from eintune.space.tile_ir.text import read_tiles
from eintune.space.tile_ir.tiles import TileError

HOSTILE = (
    '"""; import os; """', "'''", "\\", '\\"', "\\\\\"\"\"", "a\nb", "a\rb", "\x0c", "\x00", "\x1b[2J", "\u202eabc",
    "\u2028", "\udcff", "\ud800", "</pre><script>alert(1)</script>", "' onerror='x", '"] ; x [label="', "&lt;",
    "$(touch x)", "`touch x`", "; touch x", "'", "=1+1", "@SUM(A1)", "-2+3", "\t=1", "$\\frac$", "é ∨ 𝔸",
)  # fmt: skip
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=()), max_size=30))


@given(TEXTS)
def test_what_is_visible_is_one_printable_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and shown.encode("utf-8")[:1] == shown[:1].encode("utf-8")[:1]
    assert shown == text or not text.isprintable()
    assert len(printable(text, "\n").split("\n")) == len(text.split("\n"))


@given(TEXTS)
def test_python(text: str) -> None:
    (docstring,) = ast.parse(quoting.python_docstring(text)).body
    assert isinstance(docstring, ast.Expr) and ast.literal_eval(docstring.value) == printable(text, "\n")
    assert ast.parse(quoting.python_comment(text) + "\n").body == []


@given(TEXTS)
def test_egglog(text: str) -> None:
    assert string_of(quoting.egglog(text)) == printable(text)


def test_egglog_reads_it() -> None:
    from egglog import bindings

    for text in HOSTILE:
        graph = bindings.EGraph()
        graph.run_program(*graph.parse_program(f"(let $x {quoting.egglog(text)})"))


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_shell_words(words: list[str]) -> None:
    command = quoting.shell(words)
    assert command.isprintable()
    if all(w.isprintable() for w in words):
        assert shlex.split(command) == words


def test_a_shell_reads_the_same_words() -> None:
    for text in HOSTILE:
        if "\x00" in text or "\ud800" in text:  # which no argument can hold
            continue
        command = f"printf %s {quoting.shell([text])}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
        assert done.stdout == text.encode("utf-8", "surrogateescape"), command


class _Texts(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(TEXTS)
def test_html(text: str) -> None:
    page = _Texts()
    page.feed(f'<p title="{quoting.html(text)}">{quoting.html(text)}</p>')
    page.close()
    assert page.tags == [("p", [("title", printable(text, "\n"))])] and page.text == printable(text, "\n")


@given(TEXTS)
def test_dot_strings_end_where_they_should(text: str) -> None:
    inside = quoting.dot(text)[1:-1]
    assert not set(inside) & {"\n", "\r", "\x00"}
    assert '"' not in inside.replace("\\\\", "").replace('\\"', "")
    assert not inside.replace("\\\\", "").endswith("\\")


@given(TEXTS)
def test_no_cell_is_a_formula(text: str) -> None:
    cell = quoting.csv(text)
    assert isinstance(cell, str)
    out = io.StringIO(newline="")
    csv_module.writer(out).writerow([cell])
    ((read,),) = csv_module.reader(io.StringIO(out.getvalue(), newline=""))
    assert read == cell
    assert not read.startswith(quoting.FORMULA) or float(read) == float(text)


def test_numbers_are_no_formulas() -> None:
    assert [quoting.csv(x) for x in (-1.5, "-1.5", "+3", "-inf", None)] == [-1.5, "-1.5", "+3", "-inf", None]
    assert quoting.csv("-2+3") == "'-2+3"
    assert quoting.csv("\t1") == "'\\t1"


# ---- names are names


@pytest.mark.parametrize("name", [*(h for h in HOSTILE), "", "a b", "é", "ﬁ", "A" * 201])
def test_only_names_name_tensors_and_parameters(name: str) -> None:
    tensor, good = Tensor(name, ("m",)), Tensor("A", ("m",))
    read = Access(good, ("m",))
    for output, expr in ((tensor, read), (good, Access(tensor, ("m",))), (good, Map("mul", (Iota("m"), Param(name))))):
        with pytest.raises(CascadeError, match="a name has") as caught:
            Cascade((Einsum(output, expr),))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("rank", ["m n", "M", "m:1", '"', "1", "m\n", "mm", "ｍ", ""])
def test_only_ranks_are_ranks(rank: str) -> None:
    with pytest.raises(CascadeError, match="a rank is"):
        Cascade((Einsum(Tensor("Z", (rank,)), Access(Tensor("A", (rank,)), (rank,))),))


def test_no_parameter_writes_a_program() -> None:
    with pytest.raises(CascadeError, match="a parameter's name"):
        read_egg('(let $S (M_mul_p (Tensor "Q" "p") (Param "x\\")) (Tensor \\"y")))')
    nodes = {
        "p": {"op": '"x\\")) (Tensor \\"y"', "children": [], "eclass": "p", "cost": 1},
        "q": {"op": "Param", "children": ["p"], "eclass": "q", "cost": 1},
        "n": {"op": '"Q"', "children": [], "eclass": "n", "cost": 1},
        "r": {"op": '"m"', "children": [], "eclass": "r", "cost": 1},
        "t": {"op": "Tensor", "children": ["n", "r"], "eclass": "t", "cost": 1},
        "z": {"op": "M_mul_m", "children": ["t", "q"], "eclass": "z", "cost": 1},
    }
    import json

    with pytest.raises(CascadeError, match="a parameter's name"):
        read_egglog_json(json.dumps({"nodes": nodes}))
    nodes["p"]["op"] = '"scale"'
    assert '(Param "scale")' in write_egg(read_egglog_json(json.dumps({"nodes": nodes})))


def test_tiles_have_names() -> None:
    with pytest.raises(TileError, match="a tile's name"):
        read_tiles("(tile Q\x1b[2J 64 64 fp16)(result (LDS Q\x1b[2J))")
