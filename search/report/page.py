"""The report's page: one self-contained HTML file, pictures inside it, no script, readable wide and narrow."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from eintune.host.quoting import html

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1.2rem; color: #1a1a1a; background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.12rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
.sub { color: #555; margin: 0 0 1rem; overflow-wrap: anywhere; }
.lead { max-width: 75ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1rem 0; }
.tile { border: 1px solid #ddd; border-radius: .4rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.15rem; white-space: nowrap; } .tile span { color: #555; font-size: .85rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid #e4e4e4; border-radius: .4rem; padding: .5rem; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: #444; font-size: .88rem; padding: .3rem .2rem 0; }
.scroll { overflow-x: auto; margin: .8rem 0;
  background: linear-gradient(to left, #fff 30%, #fff0) right / 2.5rem 100% no-repeat local,
    linear-gradient(to left, #0003, #fff0) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid #e4e4e4; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #bbb; } td.n, th.n { text-align: right; }
td.w { white-space: normal; min-width: 14rem; }
tr.win td { font-weight: 600; background: #f2f8f2; }
pre { background: #f6f6f6; border: 1px solid #e4e4e4; border-radius: .4rem; padding: .7rem; overflow-x: auto;
  font-size: .85rem; line-height: 1.4; }
details summary { cursor: pointer; } code { overflow-wrap: anywhere; }
@media (max-width: 620px) {
  body { padding: .8rem; font-size: 15px; } figure { padding: .2rem; }
  table { font-size: .78rem; } th, td { padding: .22rem .4rem; } td.w { min-width: 11rem; }
  th { white-space: normal; vertical-align: bottom; }
}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML document around its parts."""
    body = "\n".join(p for p in parts if p)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def heading(title: str, sub: str) -> str:
    return f'<h1>{html(title)}</h1>\n<p class="sub">{html(sub)}</p>'


def section(title: str, *parts: str) -> str:
    """A titled section; nothing where it would be empty."""
    body = "\n".join(p for p in parts if p)
    return f"<h2>{html(title)}</h2>\n{body}" if body else ""


def lead(text: str) -> str:
    return f'<p class="lead">{html(text)}</p>'


def tiles(items: Mapping[str, str]) -> str:
    """The few numbers that matter, large."""
    inner = "".join(f'<div class="tile"><b>{html(v)}</b><span>{html(k)}</span></div>' for k, v in items.items())
    return f'<div class="tiles">{inner}</div>'


def pictures(items: Iterable[tuple[bytes, str, str]]) -> str:
    """Pictures side by side where there is room: (PNG bytes, alternative text, caption)."""
    inner = "\n".join(
        f'<figure><img alt="{html(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{html(caption)}</figcaption></figure>"
        for png, alt, caption in items
    )
    return f'<div class="pictures">{inner}</div>' if inner else ""


def items(lines: Iterable[str]) -> str:
    """A list."""
    inner = "".join(f"<li>{html(line)}</li>" for line in lines)
    return f'<ul class="lead">{inner}</ul>' if inner else ""


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Iterable[int] = (),
    win: int | None = None,
    texts: Iterable[int] = (),
) -> str:
    """A table that scrolls sideways on a narrow screen, with a shade where more of it is hidden. `numbers`:
    right-aligned columns; `texts`: columns that may be wrapped; `win`: bold row."""
    kinds = {**dict.fromkeys(numbers, " class=n"), **dict.fromkeys(texts, " class=w")}

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(f"<{tag}{kinds.get(i, '')}>{html(value)}</{tag}>" for i, value in enumerate(values))

    body = "\n".join(f"<tr{' class=win' if i == win else ''}>{cells('td', row)}</tr>" for i, row in enumerate(rows))
    return f'<div class="scroll"><table><tr>{cells("th", header)}</tr>\n{body}</table></div>' if body else ""


def code(text: str) -> str:
    return f"<pre>{html(text)}</pre>"


def folded(title: str, *parts: str) -> str:
    """Hidden until clicked."""
    return f"<details><summary>{html(title)}</summary>\n{''.join(parts)}\n</details>"
