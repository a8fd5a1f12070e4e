"""What programs read of a command, as `--json FILE` gives it: one envelope for all commands, documented in
docs/terminal.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from eintune.host.files import write_named

from .command import Options, path

SCHEMA = "eintune"
VERSION = 1
"""Of the envelope and of all results in it: counted up where a field goes or comes to mean something else; one that
is added counts for nothing."""
STDOUT = Path("-")


def add_json(parser: Options) -> None:
    """`--json FILE`."""
    parser.add_argument(
        "--json",
        type=path,
        metavar="FILE",
        help="also write the outcome as JSON (docs/terminal.md); -: to standard output, the words to standard error",
    )


@contextmanager
def words_aside(chosen: argparse.Namespace) -> Iterator[None]:
    """With `--json -` what is printed inside goes to standard error, and standard output gets the document alone."""
    if getattr(chosen, "json", None) != STDOUT:
        yield
        return
    chosen.document_to = sys.stdout
    with redirect_stdout(sys.stderr):
        yield


def write_json(chosen: argparse.Namespace, result: Any, *, last: bool = True) -> None:
    """Write a command's document, if it was asked for. last: False for what is only kept in case the rest is
    interrupted. Raises OSError."""
    if chosen.json is None:
        return
    text = json.dumps(document(chosen, result), indent=1, allow_nan=False) + "\n"
    if chosen.json != STDOUT:
        write_named(chosen.json, text.encode())
    elif last:
        print(text, end="", file=chosen.document_to, flush=True)


def document(chosen: argparse.Namespace, result: Any) -> dict[str, Any]:
    """A command's result in the envelope; what is no number is null."""
    from eintune import __version__
    from eintune.search.text.plain_json import finite

    verb = getattr(chosen, "verb", None)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "command": f"{chosen.chosen.name} {verb}" if verb else chosen.chosen.name,
        "command_line": chosen.command_line,
        "eintune": __version__,
        "result": finite(result),
    }
