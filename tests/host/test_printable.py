"""Nothing that a text of others holds reaches a terminal as an order."""

from __future__ import annotations

import pytest

from eintune.host.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ünïcode · ∨ 漢", "Ünïcode · ∨ 漢"),
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("bell\x07 back\x08 return\r csi\x9b", "bell\\x07 back\\x08 return\\r csi\\x9b"),
        ("one\ntwo", "one\\ntwo"),
        ("lone \ud800 and \udcff", "lone \\ud800 and \\udcff"),
        ("turned \u202e hidden \u200b\u2028", "turned \\u202e hidden \\u200b\\u2028"),
    ],
)
def test_what_is_not_printed_as_itself_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()


def test_lines_may_stay() -> None:
    assert printable("one\n\ttwo\r", keep="\n\t") == "one\n\ttwo\\r"
