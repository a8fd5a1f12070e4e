"""What is put on a page is text there, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from eintune.host.printable import printable
from eintune.search.report import page

HOSTILE = (
    "</pre><script>alert(1)</script>", "' onerror='x", '" onerror="x', "a=b onerror=x", "&lt;", "&amp", "a\nb", "a\rb",
    "\x00", "\x1b[2J", "\u202eabc", "\udcff", "{{ 7 * 7 }}", "{% include 'page.css' %}", "</style>", "]]>", "é ∨ 𝔸",
)  # fmt: skip
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=()), max_size=30))
PARTS: dict[str, Callable[[str], str]] = {
    "page": lambda x: page.page(x, []),
    "heading": lambda x: page.heading(x, x),
    "section": lambda x: page.section(x, page.lead(x)),
    "tiles": lambda x: page.tiles({x: x}),
    "pictures": lambda x: page.pictures([(b"png", x, x)]),
    "items": lambda x: page.items([x, x]),
    "table": lambda x: page.table([x, x], [[x, x], [x, x]], numbers=(0,), texts=(1,), win=1),
    "code": page.code,
    "folded": lambda x: page.folded(x, page.code(x)),
}


class Read(HTMLParser):
    """The tags of a page with their attributes, and the texts between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a page has no comments")


@pytest.mark.parametrize("part", PARTS)
@given(text=TEXTS)
def test_a_text_is_a_text(part: str, text: str) -> None:
    shown = printable(text, "\n")
    plain, read = Read(PARTS[part]("WORD")), Read(PARTS[part](text))
    assert read.tags == [(t, [(k, v and v.replace("WORD", shown)) for k, v in a]) for t, a in plain.tags]
    assert "".join(read.texts) == "".join(plain.texts).replace("WORD", shown)


def test_what_was_joined_by_hand_shows_its_tags() -> None:
    by_hand = "".join([page.lead("a"), page.lead("b")])
    assert "&lt;p class=" in page.section("title", by_hand)  # type: ignore[arg-type]
    assert page.section("title", Markup("<p>")) == "<h2>title</h2>\n<p>"


def test_what_is_empty_is_left_out() -> None:
    for nothing in (page.section("title", page.table(["a"], [])), page.items([]), page.pictures([])):
        assert nothing == page.NOTHING == ""
