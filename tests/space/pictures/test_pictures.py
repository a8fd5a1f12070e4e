"""Pictures: everything is in the DOT text, and a missing `dot` is a file and one line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eintune.host.quoting import dot as dot_string
from eintune.space.cascade.cascade import Cascade
from eintune.space.derivation.derive import Derivation, class_names, derive
from eintune.space.operators.assignments import read_operators
from eintune.space.pictures.cascades import cascade_dot, operators_dot
from eintune.space.pictures.derivations import draw_derivation, pictures
from eintune.space.pictures.egraphs import egraph_dot
from eintune.space.pictures.svg import BARRIER, CHOSEN, CHOSEN_EDGE, LEFT, draw
from eintune.space.workloads.builtin import WORKLOADS, attention, logsumexp, softmax

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's `dot` is not installed")
OPERATORS = Path(__file__).resolve().parents[2] / "operators"


@pytest.fixture(scope="module")
def derived() -> Derivation:
    return derive(attention())


def frames(dot: str) -> dict[str, list[str]]:
    """The boxes in each frame, by the frame's label."""
    found = re.findall(r'subgraph cluster_\d+ \{ label="([^"]*)".*?\n  \}', dot, re.DOTALL)
    bodies = re.findall(r"subgraph cluster_\d+ \{(.*?)\n  \}", dot, re.DOTALL)
    return {
        label: re.findall(r'^    "(\w+)" \[label', body, re.MULTILINE)
        for label, body in zip(found, bodies, strict=True)
    }


# ---- cascades and operator graphs


def test_a_cascade_shows_what_reads_what_and_in_which_pass() -> None:
    text = cascade_dot(softmax(), "softmax")
    assert '"X" -> "GM"' in text
    assert "max[m](Xp,m)" in text
    assert frames(text) == {"pass 1 over m": ["GM"], "pass 2 over m": ["SN", "SD"], "pass 3 over m": ["Y"]}
    assert text.count(BARRIER) == 4  # two rows each of GM and SD


def test_what_is_computed_again_is_dashed_and_what_is_held_is_not() -> None:
    lines = cascade_dot(softmax()).splitlines()
    assert '  "SN" -> "Y" [style=dashed];' in lines
    assert '  "SD" -> "Y";' in lines


def test_an_einsum_that_reduces_within_stands_in_the_pass_of_its_reduction() -> None:
    text = cascade_dot(Cascade.parse("MUp = sum[m](Xp,m) / |m|\nYp,m = Xp,m - MUp"))
    assert frames(text) == {"pass 1 over m": ["MU"], "pass 2 over m": ["Y"]}


def test_ranks_that_everything_has_are_left_out() -> None:
    text = cascade_dot(attention())
    assert "sum[e](Qp,e * Km,e)" in text
    assert "b,h" not in text
    assert ">p,m<" in cascade_dot(softmax())  # with one input nothing is left out


def test_an_operator_graph_shows_its_operations_as_they_are_written() -> None:
    graph = read_operators((OPERATORS / "attention_2pass.txt").read_text())
    text = operators_dot(graph)
    assert "T_split_m_m1m0(4)" in text
    assert '"LM" -> "GM";' in text
    boxes = frames(text)
    assert boxes["between the loops"] == ["LM_GM_diff", "PRM", "CD", "GD"]
    assert {x for names in boxes.values() for x in names} == {o.output for o in graph.operations}


def test_an_input_without_ranks_has_a_box() -> None:
    text = operators_dot(read_operators("SN_{m,p}\nA = M_sub_mp(SN, GM)"))
    assert '"GM" -> "A";' in text


# ---- e-graphs


def test_an_egraph_shows_what_the_forms_use_and_counts_the_rest(derived: Derivation) -> None:
    graph = derived.graph
    choices = [f.choice for f in derived.forms]
    text = egraph_dot(graph, choices, names=class_names(derived.definition, graph))
    used = {c for choice in choices for c in choice}
    boxes = set(re.findall(r'^  "([^"]+)" \[label', text, re.MULTILINE))
    assert boxes < used
    assert "x1 / SD" in text
    assert "sum over m of 1, scaled to max S" in text
    assert "max over m0 of BS" in text
    assert "b,h" not in text
    (root,) = graph.roots
    rows = {n for choice in choices for n in [choice[root]]}
    assert f"and {len(graph.classes[root]) - len(rows)} more" in text


def test_with_costs_the_best_form_is_green_and_all_else_grey(derived: Derivation) -> None:
    choices = [f.choice for f in derived.forms]
    plain = egraph_dot(derived.safe, choices)
    assert CHOSEN not in plain
    assert CHOSEN_EDGE not in plain
    priced = egraph_dot(derived.safe, choices, cost=lambda c, n: 7.0, green=True)
    drawn = {c for c in choices[0] if f'  "{c}" [' in priced}
    rows = re.findall(r'<TD ALIGN="LEFT" BGCOLOR="([^"]+)">', priced)  # rows with a cost; names span both columns
    inputs = set(derived.definition.inputs)
    assert rows.count(CHOSEN) == len(drawn) - len(inputs)
    assert set(rows) == {CHOSEN, LEFT}


def test_a_row_costs_what_is_written_into_it(derived: Derivation) -> None:
    choices = [f.choice for f in derived.forms]
    text = egraph_dot(derived.safe, choices[:1], cost=lambda c, n: float(bool(n.children)), green=True)
    (cost,) = re.findall(r">sum over e of (?:Q × K|K × Q)</TD>\s*<TD[^>]*>([^<]*)<", text)
    assert cost == "2"  # the product and its sum


def test_a_small_graph_is_drawn_whole() -> None:
    d = derive(Cascade.parse("Zm = Am * Bm + Cm"))
    text = egraph_dot(d.graph, [f.choice for f in d.forms])
    assert "x1 + C" in text or "(A × B) + C" in text
    assert "more" in text  # the mirrored spellings


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_every_workload_has_its_pictures(name: str) -> None:
    d = derive(WORKLOADS[name]())
    found = pictures(name, d)
    assert len(found) == len(d.cascades) + 3
    assert {f"{name}-definition", f"{name}-egraph", f"{name}-egraph-costs"} < set(found)
    assert all(text.startswith("digraph") and text.endswith("}\n") for text in found.values())


# ---- files


@needs_dot
def test_drawing_gives_svg_that_is_not_too_wide(tmp_path: Path, derived: Derivation) -> None:
    told = draw_derivation("attention", derived, tmp_path)
    assert len(told) == len(derived.cascades) + 3
    for line in told:
        root = ElementTree.parse(line).getroot()
        assert root.tag.endswith("svg")
        width, height = (float(root.attrib[a].removesuffix("pt")) for a in ("width", "height"))
        assert width < 1200, line
        assert height < 2000, line


@needs_dot
def test_any_text_is_drawn(tmp_path: Path) -> None:
    wild = 'a "quoted" \\\\ & <b> é\\n\nline'
    path, why = draw(f"digraph {{ x [label={dot_string(wild)}]; }}", tmp_path / "wild.svg")
    assert why is None
    assert 'a "quoted"' in "".join(ElementTree.parse(path).getroot().itertext())


def test_without_graphviz_there_is_the_text_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    text = cascade_dot(logsumexp())
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
