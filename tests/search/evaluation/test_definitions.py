"""The table of definitions: each has the passes that the page says, and both emitters run it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eintune.search.cli.main import main
from eintune.search.evaluation.definitions import FILE, Definition, Measured, definitions, measured, to_markdown
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.timing import passes
from eintune.space.derivation.derive import derive
from eintune.space.laws.laws import NAMES
from eintune.space.operators.passes import analyse

PAGE = Path(__file__).parents[3] / "docs" / "definitions.md"
ALL = {d.name: d for d in definitions()}
SHORT_OF: dict[str, int] = {}
"""Definitions whose best form has more passes than one could have, which `definitions.edge` says why."""
OFTEN = (
    *("differential attention", "cross-entropy with soft labels", "KL distillation"),
    *("soft-argmax over an image", "LayerNorm and a projection", "rectified softmax", "weighted variance"),
    *("attentive statistics", "covariance over two ranks", "attention over an image"),
    *("FuseMax, Cascade 3: built iteratively", "FuseMax, Cascade 4: attention as EDGE writes it"),
    "FuseMax, Cascade 5: FlashAttention-2, iterative",
)
"""What every run derives and runs; the others are on the page, and a soak derives them all again."""


def rows() -> dict[str, list[str]]:
    """The page's table by name."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")][2:]
    return {cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip("|").split("|")] for line in lines)}


def test_the_page_has_every_definition_with_its_passes() -> None:
    table = rows()
    assert list(table) == list(ALL)
    for name, (_, wanted, got, every, *_) in table.items():
        assert int(wanted) == ALL[name].passes
        assert int(got) == SHORT_OF.get(name, ALL[name].passes)
        assert every.split(", ")[0] == got
    assert len(ALL) - len([n for n in ALL if n.startswith("built in")]) >= 30


def test_the_page_says_what_it_takes_and_that_kernels_run() -> None:
    table = rows()
    seconds = sorted(float(r[7]) for r in table.values())
    assert seconds[len(seconds) // 2] < 1.0
    assert seconds[-1] < 5.0
    for name, row in table.items():
        assert float(row[8]) < 1e-9, name
        for error in row[9:]:
            assert float(error) < 2e-4, name


def check(row: Measured) -> None:
    name = row.definition.name
    assert row.passes == SHORT_OF.get(name, row.definition.passes), name
    assert row.error < 1e-9, name
    assert row.runs, (name, row.kernels)
    assert row.seconds < 20.0, name  # measured below 5, on a machine that others use


@pytest.mark.interpreter
def test_definitions_have_their_passes_and_run() -> None:
    for row in measured([ALL[name] for name in OFTEN]):
        check(row)


@pytest.mark.soak
@pytest.mark.interpreter
def test_every_definition_has_its_passes_and_runs() -> None:
    for row in measured(list(ALL.values())):
        check(row)


def test_the_papers_attentions_have_forms_of_one_two_and_three_passes() -> None:
    """Whether they are written in three passes, in two with local maxima, or in one, iteratively."""
    found = {name: every for name, (_, _, _, every, *_) in rows().items() if "FuseMax" in name or "seed 003" in name}
    attention = [n for n in found if any(w in n for w in ("local maxima", "Cascade 4", "Cascade 5", "chunks"))]
    assert len(attention) == 5
    assert {found[n] for n in attention} == {"1, 2, 3"}


def test_each_needs_the_composite_fold() -> None:
    for name in ("differential attention", "cross-entropy with soft labels", "soft nearest neighbours"):
        assert min(d.passes for d in derive(ALL[name].cascade, without=frozenset({"composite-fold"})).cascades) == 2


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("differential attention", "linearity"),
        ("cosine attention", "exponential"),
        ("soft nearest neighbours", "negation"),
        ("soft-argmax over an image", "two-ranks"),
        ("covariance over two ranks", "two-ranks"),
        ("cross-covariance", "comoments"),
        ("weighted variance", "comoments"),
        ("attentive statistics", "comoments"),
        ("rectified softmax", "differences"),
        ("attention to base two", "base"),
        ("FuseMax, two passes with local maxima", "unsplit"),
        ("attention through the log-sum-exp", "exponential"),
    ],
)
def test_what_a_law_is_there_for(name: str, law: str) -> None:
    assert law in NAMES
    kept = frozenset({law})
    assert min(d.passes for d in derive(ALL[name].cascade, without=kept).cascades) > ALL[name].passes


def test_a_row_says_why_and_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert all(d.why for d in ALL.values())
    bad = tmp_path / "bad.edge"
    bad.write_text("== one | few | because\nYp = Xp\n")
    monkeypatch.setattr("eintune.search.evaluation.definitions.FILE", bad)
    with pytest.raises(ValueError, match=r"a section must start with `== name \| passes \| why`, but got 'one \| few"):
        definitions()
    assert FILE.name == "definitions.edge"


def test_markdown_has_a_line_a_row_and_says_where_nothing_runs() -> None:
    one = Definition("one", 1, "it is so", Cascade.parse("Yp = Xp"))
    row = Measured(one, 1, 2, (2, 3), 1, 2, 2, 0.5, 0.0, {"torch": 1e-7, "triton": "ValueError: none"})
    text = to_markdown([row], "a machine")
    assert "| one | 1 | 1 | 2 | 2, 3 | 1 | 2 | 2 | 0.50 | 0e+00 | 1e-07 | none |" in text
    assert "1 definitions; 0 have the passes that they should have; 0 run by" in text
    assert not row.runs


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["definitions", "--only", "no such"]) == 2
    assert "--only must be part of a definition's name" in capsys.readouterr().err


def test_a_definition_and_its_forms_have_one_count_of_passes() -> None:
    for one in ALL.values():
        assert passes(one.cascade.roots().values()) == analyse(one.cascade).passes, one.name
    for name in ("InfoNCE", "talking heads", "softmax router", "FuseMax, local maxima, divided last"):
        for form in derive(ALL[name].cascade).cascades:
            assert form.passes == analyse(form.cascade).passes, (name, str(form))
            over = re.findall(r"(\d+) pass\w* over (\w+)", form.description)
            assert {rank: analyse(form.cascade, rank).passes for _, rank in over} == {r: int(n) for n, r in over}
            assert form.signature.streams[0].passes == form.passes
