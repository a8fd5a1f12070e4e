"""`eintune completion`: a script with which a shell completes commands, options and their values."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.util import find_spec

from eintune.search.options.command import Command, Failure, path

SHELLS = ("bash", "zsh", "tcsh")
HELP = """\
Prints a script that completes commands, options and their values in a shell. It is made from the options that there
are, by shtab (pip install 'eintune[completion]'), and calls nothing of Eintune when it completes.
"""
EXAMPLES = """\
examples:
  eintune completion bash > ~/.local/share/bash-completion/completions/eintune
  eintune completion zsh > ~/.zfunc/_eintune          where ~/.zfunc is in $fpath
"""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads it")


def _completion(chosen: argparse.Namespace) -> int:
    if find_spec("shtab") is None:
        raise Failure("completion needs shtab, which is not installed: pip install 'eintune[completion]'")
    import shtab

    whole: argparse.ArgumentParser = chosen.whole_parser()
    for action in _actions(whole):
        if action.type is path and not action.choices:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(whole, chosen.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)


COMPLETION = Command("completion", "a script that completes in a shell", _options, _completion, HELP, EXAMPLES)
