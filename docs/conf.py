"""The site: `make site` builds it with Sphinx from the pages beside this file, which are read on their own as well.

A broken link or anchor is an error (`-W`), and nothing is fetched, neither while it is built nor by who reads it. What
lies on which side of the navigation is read off the lists of `index.md`; what pages have of the parsers, of docstrings
and of CONTRIBUTING.md is put in while they are read (`generated.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import generated  # noqa: E402

from eintune import __version__  # noqa: E402

project, author, version, release = "Eintune", "The Eintune maintainers", __version__, __version__
project_copyright = f"{author}, Apache-2.0"
extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["pictures", "style"]
myst_heading_anchors = 3
smartquotes = False  # `--seq` is two hyphens
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 60
pygments_style, pygments_dark_style = "tango", "monokai"

html_theme = "furo"
html_title = "Eintune"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}


def setup(app) -> dict[str, bool]:
    """Sphinx calls this: pages are completed as they are read."""
    app.connect("source-read", lambda _, page, source: source.__setitem__(0, generated.completed(page, source[0])))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
