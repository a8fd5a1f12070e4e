"""A text's notation is told from the text."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.iterative import IterativeCascade
from eintune.space.ir.einsum import CascadeError
from eintune.space.operators.assignments import read_operators
from eintune.space.operators.egglog_programs import read_egg, write_egg
from eintune.space.operators.formats import read_computation
from eintune.space.operators.graph import OperatorGraph
from eintune.space.operators.passes import analyse

TESTS = Path(__file__).resolve().parents[2]
PROGRAM = '; a program\n(let X (Tensor "X" "m"))\n(let Z (R_add_m X))'
E_GRAPH = {
    "nodes": {
        "n": {"op": '"X"', "children": [], "eclass": "n"},
        "r": {"op": '"m"', "children": [], "eclass": "r"},
        "x": {"op": "Tensor", "children": ["n", "r"], "eclass": "x"},
        "z": {"op": "R_add_m", "children": ["x"], "eclass": "z"},
    }
}


@pytest.mark.parametrize("path", sorted((TESTS / "cascades").glob("*.edge")), ids=lambda p: p.stem)
def test_edge_files(path: Path) -> None:
    read = read_computation(path.read_text())
    assert isinstance(read, IterativeCascade if "iterative" in path.stem else Cascade)
    assert read == type(read).parse(path.read_text())


@pytest.mark.parametrize("path", sorted((TESTS / "operators").glob("*.txt")), ids=lambda p: p.stem)
def test_operator_files_and_their_programs(path: Path) -> None:
    graph = read_operators(path.read_text())
    assert read_computation(path.read_text()) == graph
    assert read_computation(write_egg(graph)) == graph


def test_programs_and_e_graphs() -> None:
    assert read_computation(PROGRAM) == read_egg(PROGRAM)
    graph = read_computation(json.dumps(E_GRAPH))
    assert isinstance(graph, OperatorGraph)
    assert [str(o.operator) for o in graph.operations] == ["R_add_m"]


@pytest.mark.parametrize(
    "text",
    ["", " " * 50_000, ";" * 50_000, "; \n" * 20_000, "\n" * 50_000, "= " * 50_000, "(" * 50_000, "{" * 50_000],
    ids=["empty", "blanks", "semicolons", "comments", "lines", "equals", "brackets", "braces"],
)
def test_text_that_says_nothing_is_refused_quickly(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(CascadeError):
        read_computation(text)
    assert time.monotonic() - began < 5


SOURCES = [
    (TESTS / "cascades" / "attention_1pass_iterative.edge").read_text(),
    (TESTS / "operators" / "attention_2pass.txt").read_text(),
    write_egg(read_operators((TESTS / "operators" / "attention_2pass.txt").read_text())),
    json.dumps(E_GRAPH),
]


@pytest.mark.parametrize("source", SOURCES, ids=["iteration", "operators", "program", "e-graph"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_text_is_refused_and_nothing_else_happens(source: str, data: st.DataObject) -> None:
    text = source
    for _ in range(data.draw(st.integers(1, 3))):
        at, cut = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 3))
        text = text[:at] + data.draw(st.text('ABme0,=+-*/^()[]|&:<·∨∪ \n{}_;$"', max_size=3)) + text[at + cut :]
    try:
        report = analyse(read_computation(text))
    except CascadeError:
        return
    assert str(report).startswith("Pass Analysis: ")
