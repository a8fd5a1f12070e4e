"""The report's page: one self-contained HTML file, pictures inside it, no script, readable wide and narrow.

What is on it stands in `templates`. Jinja escapes every text that is put into one, but for what another of them made
(`Markup`): a part that somebody joins by hand shows its tags, and does nothing worse.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eintune.host.printable import printable


def _shown(value: Any) -> Any:
    """A text with what cannot be printed made visible, as everywhere; lines stay lines."""
    return printable(value, "\n") if isinstance(value, str) and not isinstance(value, Markup) else value


_TEMPLATES = Environment(
    loader=PackageLoader("eintune.search.report"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    keep_trailing_newline=True,
)
_PARTS: Any = _TEMPLATES.get_template("parts.html").module
"""Its macros: each returns Markup."""
NOTHING = Markup()
"""A part of which there is nothing to show."""


def page(title: str, parts: Iterable[Markup]) -> str:
    """A whole HTML document around its parts."""
    return _TEMPLATES.get_template("page.html").render(title=title, parts=list(parts))


def heading(title: str, sub: str) -> Markup:
    return Markup(_PARTS.heading(title, sub))


def section(title: str, *parts: Markup) -> Markup:
    """A titled section; nothing where it would be empty."""
    there = [p for p in parts if p]
    return Markup(_PARTS.section(title, there)) if there else NOTHING


def lead(text: str) -> Markup:
    return Markup(_PARTS.lead(text))


def tiles(items: Mapping[str, str]) -> Markup:
    """The few numbers that matter, large."""
    return Markup(_PARTS.tiles(items))


def pictures(items: Iterable[tuple[bytes, str, str]]) -> Markup:
    """Pictures side by side where there is room: (PNG bytes, alternative text, caption)."""
    shown = [(base64.b64encode(png).decode(), alt, caption) for png, alt, caption in items]
    return Markup(_PARTS.pictures(shown)) if shown else NOTHING


def items(lines: Iterable[str]) -> Markup:
    """A list."""
    shown = list(lines)
    return Markup(_PARTS.items(shown)) if shown else NOTHING


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Iterable[int] = (),
    win: int | None = None,
    texts: Iterable[int] = (),
) -> Markup:
    """A table that scrolls sideways on a narrow screen, with a shade where more of it is hidden. `numbers`:
    right-aligned columns; `texts`: columns that may be wrapped; `win`: bold row."""
    shown = list(rows)
    aligned = {**dict.fromkeys(numbers, Markup(" class=n")), **dict.fromkeys(texts, Markup(" class=w"))}
    kinds = [aligned.get(i, "") for i in range(max(map(len, [header, *shown])))]
    return Markup(_PARTS.table(header, shown, kinds, win)) if shown else NOTHING


def code(text: str) -> Markup:
    return Markup(_PARTS.code(text))


def folded(title: str, *parts: Markup) -> Markup:
    """Hidden until clicked."""
    return Markup(_PARTS.folded(title, parts))
