"""Judging: a right model is found right, a wrong one is said to be, and the space left out is left out."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from recorded_spaces import MACHINE, at_random, by_the_model, small, space

from eintune.search.cli.main import main
from eintune.search.evaluation.judging import Judgement, NamedSpace, by_passes, judge, near_best, read_spaces
from eintune.search.evaluation.judging_report import CANDIDATES, PAGE, paragraph, text, write_judgement
from eintune.search.evaluation.recorded_space import SpaceError, save

SIZES = {"a": 256, "b": 512, "c": 1024}


@pytest.fixture(scope="module")
def spaces() -> list[NamedSpace]:
    return [NamedSpace(name, space(small(seq), by_the_model(0.02))) for name, seq in SIZES.items()]


@pytest.fixture(scope="module")
def judged(spaces: list[NamedSpace]) -> Judgement:
    return judge(spaces, MACHINE)


def test_a_machine_that_is_as_the_model_says_is_predicted(judged: Judgement) -> None:
    assert [v.name for v in judged.verdicts] == list(SIZES)
    assert all(v.spearman > 0.95 and v.error < 0.1 and v.top8 < 0.03 for v in judged.verdicts)
    assert all(value >= target.least for target, value in judged.reached())
    assert "MISSED" not in text(judged)


def test_times_that_nothing_explains_fall_short() -> None:
    wrong = [NamedSpace(n, space(small(seq), at_random(seq))) for n, seq in SIZES.items()]
    found = judge(wrong, MACHINE)
    assert any("median rank correlation" in line for line in found.short())
    assert "MISSED" in text(found) and "falls short" in text(found)


def test_a_space_is_not_fitted_to_its_own_times(spaces: list[NamedSpace], judged: Judgement) -> None:
    slower = NamedSpace("c", space(small(SIZES["c"]), lambda c: 3 * by_the_model()(c)))
    again = judge([*spaces[:2], slower], MACHINE)

    def predicted(j: Judgement) -> list[float]:
        return j.rows[j.rows["space"] == "c"]["predicted"].to_list()

    assert predicted(again) == pytest.approx(predicted(judged))
    assert again.verdicts[2].bias == pytest.approx(3 * judged.verdicts[2].bias, rel=0.05)


def test_failures_are_rows_that_are_not_judged(spaces: list[NamedSpace]) -> None:
    rule, count = by_the_model(), iter(range(100))
    failing = NamedSpace("f", space(small(256), lambda c: math.nan if next(count) < 3 else rule(c)))
    found = judge([*spaces[1:], failing], MACHINE)
    assert found.verdicts[2].count == 13
    assert (found.rows["status"] == "timeout").sum() == 3


def test_near_the_best_and_by_passes_by_hand() -> None:
    rows = pd.DataFrame(
        [
            ("x", 1, "ok", 1.0, 1.1),
            ("x", 1, "ok", 1.9, 1.0),
            ("x", 2, "ok", 2.0, 3.0),
            ("x", 2, "timeout", math.nan, 0.1),
            ("x", 3, "ok", 5.0, 4.0),
        ],
        columns=["space", "passes", "status", "seconds", "predicted"],
    )
    assert near_best(rows)["seconds"].to_list() == [1.0, 1.9]
    table = by_passes(rows)
    assert table["measured"].to_list() == [1.0, 2.0, 5.0]
    assert table["predicted"].to_list() == [1.0, 3.0, 4.0]


def test_the_files_hold_what_was_judged(spaces: list[NamedSpace], judged: Judgement, tmp_path: Path) -> None:
    written = write_judgement(judged, spaces, tmp_path / "out")
    rows = pd.read_csv(tmp_path / "out" / CANDIDATES)
    assert len(rows) == sum(len(s.space.entries) for s in spaces)
    pictures = sorted(p.name for p in written.parent.glob("*.png"))
    assert len(pictures) == 6 and all(p.startswith("judged-") for p in pictures)
    page = written.read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "http" not in page.replace("http-equiv", "")
    HTMLParser().feed(page)
    assert "Whether fewer passes win" in page and f"of the {MACHINE.title}" in page
    for name in SIZES:
        assert f"<td>{name}</td><td>1 pass</td>" in page


def test_the_paragraph_says_the_figures(judged: Judgement) -> None:
    words = paragraph(judged)
    assert words.startswith("48 kernels of 3 problems ran and were right.")
    assert "nan" not in words


def test_the_command(spaces: list[NamedSpace], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for s in spaces[:2]:
        save(s.space, tmp_path / "spaces" / f"{s.name}.json.gz")
    assert main(["judge", str(tmp_path / "spaces")]) == 0
    assert "left out" in capsys.readouterr().out
    assert (tmp_path / PAGE).exists()


def test_what_cannot_be_judged_is_refused(spaces: list[NamedSpace], tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="at least 2 recorded spaces"):
        read_spaces([tmp_path])
    save(spaces[0].space, tmp_path / "a.json.gz")
    assert main(["judge", str(tmp_path / "a.json.gz")]) == 1
    assert main(["judge", str(tmp_path / "missing.json.gz")]) == 1
