"""Pictures: everything is in the DOT text, and a missing `dot` is a file and one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eintune.space.derive import derive
from eintune.space.pictures import CHOSEN, LEFT, cascade_dot, draw, draw_derivation, egraph_dot, pictures
from eintune.space.workloads import logsumexp, softmax

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's `dot` is not installed")


def test_a_cascade_shows_its_einsums_and_what_reads_what() -> None:
    text = cascade_dot(softmax(), "softmax")
    assert '"X" -> "GM"' in text
    assert '"GM" -> "SN"' in text
    assert "GMp = Xp,m :: \\\\/m max" in text
    assert text.count("->") == sum(line.count("->") for line in text.splitlines())


def test_an_egraph_with_costs_shows_what_was_chosen() -> None:
    d = derive(logsumexp())
    assert d.best is not None
    plain = egraph_dot(d.graph)
    assert plain.count("subgraph") == len(d.graph.classes)
    assert CHOSEN not in plain
    priced = egraph_dot(d.safe, cost=lambda c, n: 7.0, chosen=d.best.choice)
    assert priced.count(CHOSEN) == len(d.best.choice)
    assert priced.count(LEFT) == sum(map(len, d.safe.classes.values())) - len(d.best.choice)
    assert priced.count("\\n7") == sum(map(len, d.safe.classes.values()))
    names = pictures("lse", d)
    assert {"lse-definition", "lse-egraph", "lse-egraph-costs"} < set(names)


@needs_dot
def test_drawing_gives_svg(tmp_path: Path) -> None:
    told = draw_derivation("lse", logsumexp(), tmp_path)
    assert all(Path(line).suffix == ".svg" for line in told)
    for line in told:
        assert ElementTree.parse(line).getroot().tag.endswith("svg")


def test_without_graphviz_there_is_the_text_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    text = cascade_dot(softmax())
    path, why = draw(text, tmp_path / "softmax.svg")
    assert path == tmp_path / "softmax.dot"
    assert path.read_text() == text
    assert why is not None
    assert "`dot` is not installed" in why
    assert "\n" not in why


@needs_dot
def test_text_that_graphviz_refuses_is_kept(tmp_path: Path) -> None:
    path, why = draw("digraph {", tmp_path / "broken.svg")
    assert path.suffix == ".dot"
    assert why is not None
    assert "`dot` failed" in why
