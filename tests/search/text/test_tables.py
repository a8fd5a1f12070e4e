"""Tables and running text fit the terminal that they are printed on, and nothing of them is lost."""

from __future__ import annotations

import pytest

from eintune.search.text import tables
from eintune.search.text.tables import UNBOUNDED, text_table, wrapped

HEADER = ["", "cascade", "schedule", "predicted", "limiter", "shared", "regs"]
ROWS = [
    ["1", "1-pass tiled, deferred division", "grid b h p:64, loop m:128, specialised warps", "0.01235 ms", "launch"],
    ["2", "3-pass", "grid b h p:64", "12.35 ms", ""],
]
ROWS = [[*row, f"{i}76 KiB", "240"] for i, row in enumerate(ROWS)]


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    monkeypatch.setattr(tables, "_width", lambda: request.param)
    return int(request.param)


@pytest.mark.parametrize("columns", [60, 80, 100, 140], indirect=True)
def test_a_table_fits_and_has_every_word(columns: int) -> None:
    text = text_table(HEADER, ROWS, right=(0, 3, 5, 6), widest={1: 22, 2: 30})
    assert max(map(len, text.splitlines())) <= columns and "…" not in text
    words = text.replace("\n", " ").split()
    assert all(word in words for row in ROWS for cell in row for word in cell.split())


@pytest.mark.parametrize("columns", [60], indirect=True)
def test_what_has_no_room_for_its_words_stands_below_each_other(columns: int) -> None:
    assert text_table(HEADER, ROWS, right=(0, 3, 5, 6)).splitlines()[-3:] == [
        "  2",
        "    cascade 3-pass  schedule grid b h p:64",
        "    predicted 12.35 ms  shared 176 KiB  regs 240",
    ]
    assert text_table(["a", "b"], [["1", "2"]]).splitlines()[0].split() == ["a", "b"]


@pytest.mark.parametrize("columns", [60], indirect=True)
def test_running_text_is_wrapped_beside_its_head_and_no_word_is_broken(columns: int) -> None:
    path = "/a/" + "long-name/" * 9
    lines = wrapped(f"{'some words ' * 8}{path}", "stored    ")
    assert lines[0].startswith("stored    some") and all(line.startswith(" " * 10) for line in lines[1:])
    assert all(len(line) <= columns for line in lines if path not in line) and path in lines[-1]


@pytest.mark.parametrize("columns", [UNBOUNDED], indirect=True)
def test_a_file_has_lines_of_its_own_width(columns: int) -> None:
    assert max(map(len, wrapped("word " * 100))) <= tables.TEXT_WIDTH
    assert len(wrapped("word " * 100, most=UNBOUNDED)) == 1
