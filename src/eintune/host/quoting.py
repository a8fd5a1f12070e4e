"""Text that goes into another language: one function a target, for every text that the program did not write itself.

Names of tensors, ranks and parameters are names and nothing else (`names`). What is free text (titles, messages,
commands, names of files) passes through here on its way into Python, a shell, a picture, a table or an egglog program;
on its way into a page through Jinja, which escapes it (`report.page`).
"""

from __future__ import annotations

import html as _html
import shlex
from collections.abc import Iterable

from .printable import printable

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that a spreadsheet would compute."""


MAX_MESSAGE = 1_000
"""Characters of an error's line: what it shows of a text may be of any size."""


def short(value: object, most: int = 60) -> str:
    """A value as an error shows it: what is read may be of any size."""
    text = printable(str(value))
    return text if len(text) <= most else f"{text[: most - 3]}..."


# ---- source


def python_comment(text: str) -> str:
    """A comment, to the end of its line: `# text`."""
    return f"# {printable(text)}".rstrip()


def python_docstring(text: str) -> str:
    """A string in three double quotes, whose value is `text` with what cannot be shown made visible."""
    return '"""' + printable(text, "\n").replace("\\", "\\\\").replace('"', '\\"') + '"""'


def egglog(text: str) -> str:
    """A string of an egglog program, which `s_expressions.string_of` reads back."""
    return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def shell(words: Iterable[str]) -> str:
    """A command in one line, as one may type it: each word is that word and nothing more."""
    return " ".join(shlex.quote(w) if w.isprintable() else f"$'{''.join(map(_in_dollar_quotes, w))}'" for w in words)


def _in_dollar_quotes(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    stands_for_a_byte = "\udc80" <= character <= "\udcff"  # of a file's name that is no UTF-8
    raw = character.encode("utf-8", "surrogateescape" if stands_for_a_byte else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in raw)


# ---- pages, pictures, tables


def html(text: str) -> str:
    """Text of an SVG picture, or of an attribute in quotes; lines stay lines. (Pages are Jinja's: `report.page`.)"""
    return _html.escape(printable(text, "\n"))


def dot(text: str) -> str:
    """A string of the DOT language. Graphviz reads entities in it as HTML does, so `&` is one; lines go left."""
    found = printable(text, "\n").replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').split("\n")
    return '"' + (found[0] if len(found) == 1 else "".join(line + "\\l" for line in found)) + '"'


def csv(cell: object) -> object:
    """A cell of a table: text that a spreadsheet would compute gets a `'` in front. Numbers stay, written ones too."""
    if not isinstance(cell, str):
        return cell
    return printable(f"'{cell}" if cell.startswith(FORMULA) and not _is_number(cell) else cell, "\n")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.isprintable()
