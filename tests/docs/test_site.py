"""The site: built as `make site` does it, strictly; whole, and read without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

import eintune
from eintune.search.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("-W", "--keep-going", "-q", "-c", str(ROOT / "docs"))
"""As the Makefile has them: a warning is an error."""
FETCHES = {"src", "srcset", "data", "poster", "href"}
"""Attributes by which a page is given something, but for a link that a reader follows."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("furo", reason="the extra `docs` is not installed")
    place = tmp_path_factory.mktemp("site")
    build(ROOT / "docs", place)
    return place


def build(pages: Path, place: Path) -> None:
    """Raises AssertionError with what Sphinx says where a link or an anchor leads nowhere."""
    command = [sys.executable, "-m", "sphinx", *OPTIONS, "-d", str(place / ".read"), str(pages), str(place)]
    env = {**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # where nothing is
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env)
    if done.returncode:
        raise AssertionError(done.stderr[-4000:])


class Fetched(HTMLParser):
    """What a page loads when it is opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            self.found += [value for name, value in attrs if name in FETCHES and value]


def test_nothing_is_fetched_when_a_page_is_opened(site: Path) -> None:
    loaded = {
        (page, url)
        for page in site.glob("*.html")
        for url in [*Fetched(page.read_text()).found, *re.findall(r"@import|url\((?!data:)", page.read_text())]
    }
    assert len(loaded) > 100
    for page, url in loaded:
        assert not re.match(r"(\w+:)?//", url), (page.name, url)
        if not url.startswith(("data:", "#")):
            assert (page.parent / unescape(url).partition("?")[0].partition("#")[0]).exists(), (page.name, url)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet.name


def test_every_page_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text()
    sidebar = start[start.index('class="sidebar-tree') : start.index('class="main"')]
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or f'href="{page.stem}.html"' in sidebar, page.name


def test_the_api_has_every_public_name(site: Path) -> None:
    page = (site / "api.html").read_text()
    for name in set(eintune.__all__) - {"__version__"}:
        assert f'id="eintune.{name}"' in page, name
    assert "softcap * tanh(score / softcap)" in page and "key_seqlens" not in page


def test_the_command_line_has_every_command_and_option(site: Path) -> None:
    page = (site / "command_line.html").read_text()
    for command in COMMANDS:
        assert f'id="eintune-{command.name}"' in page, command.name
    for option in ("tune-seq", "tune-budget", "cache-export-machine", "passes-ranks", "bench-suite"):
        assert f'id="cmdoption-eintune-{option}"' in page, option


@pytest.mark.parametrize("text", ["[x](nowhere.md)", "[x](index.md#nowhere)", "[x](#nowhere)", "![x](nowhere.png)"])
def test_a_broken_link_is_found(site: Path, text: str, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.md").write_text("# A page\n\nWith a link.\n\n## Somewhere\n\n[here](#somewhere)\n")
    build(pages, tmp_path / "whole")
    (pages / "index.md").write_text((pages / "index.md").read_text() + text + "\n")
    with pytest.raises(AssertionError, match="nowhere"):
        build(pages, tmp_path / "broken")
