"""What the site's pages have of the code: the parsers' help, docstrings, CONTRIBUTING.md, and the navigation.

All of it is Markdown (with Sphinx's directives for options and functions), made while a page is read, written nowhere.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
API: dict[str, tuple[str, ...]] = {
    "Attention": (
        *("eintune:attention", "eintune:scaled_dot_product_attention", "eintune:flex_attention"),
        *("eintune:varlen_attention", "eintune:paged_attention"),
    ),
    "Who serves": ("eintune:configure",),
    "Programs of others": ("eintune:activate", "eintune:restore", "eintune.integrations.transformers:register"),
    "Cascades": (
        *("eintune:Cascade", "eintune:compile", "eintune.space.cascade.run:run_cascade"),
        *("eintune.space.derivation.derive:derive", "eintune.space.gradients.gradient:gradient"),
    ),
    "Graphs of other tools": (
        *("eintune:read", "eintune:analyse", "eintune.space.operators.passes:PassReport"),
        *("eintune:generate_kernel", "eintune.kernels.generate.generate:Generated"),
    ),
    "Kernels ahead of time": ("eintune:warm", "eintune.kernels.serve.warm:Warmed"),
    "Errors": ("eintune:UnsupportedArgument", "eintune.space.ir.einsum:CascadeError"),
}
"""What the page of the API has, as `module:name` under headings."""
FEW = {"Cascade": {"parse", "text", "outputs", "inputs", "ranks"}}
"""Of classes with many methods those that programs call."""
ARGUMENTS = re.compile(r"(?:^|(?<=[.;] ))([a-z]\w*(?:, [a-z]\w*)*):(?= )")
LINK = re.compile(r"\[([^\]]+)\]\((\w+\.md)\)")


def completed(page: str, text: str) -> str:
    """A page's text with what is made for it."""
    text = re.sub(r"\n\n```$", "\n```", text, flags=re.MULTILINE)  # the empty line that ends what a doctest expects
    return PAGES[page](text) if page in PAGES else text


# ---- the navigation


def sections(text: str) -> dict[str, list[str]]:
    """The pages that the start page lists, by heading."""
    found: dict[str, list[str]] = {}
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        listed = [LINK.search(line) for line in body.splitlines() if line.startswith("- [")]
        if pages := [m[2].removesuffix(".md") for m in listed if m]:
            found[title] = pages
    return found


def _with_navigation(text: str) -> str:
    trees = [
        "\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```", ""])
        for title, pages in sections(text).items()
    ]
    return text + "".join(trees)


# ---- the command line


def command_line() -> str:
    """Every command with its options, as `--help` has them."""
    from eintune.search.cli.main import whole_parser
    from eintune.search.options.problem import show_options_of

    parser = whole_parser()
    show_options_of(parser, ())  # of the first workload, as `--help` does
    return "\n".join(line for name, sub in _commands(parser) for line in _command(f"eintune {name}", sub, 2))


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _command(name: str, parser: argparse.ArgumentParser, depth: int) -> Iterator[str]:
    yield from ("", f"{'#' * depth} {name}", "", *_prose(parser.description or ""))
    usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
    yield from ("", "```{code-block} text", ":class: usage", "", usage, "```", "", f"```{{program}} {name}", "```", "")
    for group in parser._action_groups:
        shown = [a for a in group._group_actions if a.help is not argparse.SUPPRESS and not _is_plain(a)]
        if shown:
            yield from ("", f"**{(group.title or 'options').capitalize()}**", "")
            for action in shown:
                yield from (f"```{{option}} {_spelt(action)}", _marked(_help(action, parser)), "```", "")
    yield from _prose(parser.epilog or "")
    for verb, sub in _commands(parser):
        yield from _command(f"{name} {verb}", sub, depth + 1)


def _is_plain(action: argparse.Action) -> bool:
    """What every command has, or what has a heading of its own."""
    return isinstance(action, (argparse._HelpAction, argparse._VersionAction, argparse._SubParsersAction))


def _spelt(action: argparse.Action) -> str:
    choices = "{" + ",".join(map(str, action.choices or ())) + "}"
    value = action.metavar or (choices if action.choices else action.dest.upper())
    if not action.option_strings:
        return str(value) + (" …" if action.nargs in ("*", "+") else "")
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    value = {"?": f"[{value}]", "*": f"[{value} …]", "+": f"{value} …"}.get(str(action.nargs), value)
    return ", ".join(f"{option} {value}" for option in action.option_strings)


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    return (action.help or "") % {**vars(action), "prog": parser.prog}


def _prose(text: str) -> Iterator[str]:
    """Paragraphs; what is laid out in columns stays so."""
    laid_out: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("  "):
            laid_out.append(line[2:])
            continue
        if laid_out:
            yield from ("", "```text", *laid_out, "```", "")
            laid_out = []
        yield _marked(line)


# ---- the API


def api() -> str:
    """Signatures and docstrings, by heading."""
    lines: list[str] = []
    for title, names in API.items():
        lines += ["", f"## {title}", ""]
        for name in names:
            lines += _described(name)
    return "\n".join(lines)


def _described(name: str) -> list[str]:
    module, _, attribute = name.partition(":")
    value = getattr(import_module(module), attribute)
    kind = "function"
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, Exception) else "class"
    signature = "" if kind == "exception" else _signature(value)
    lines = [f"````{{py:{kind}}} {module}.{attribute}{signature}", "", *_docstring(value)]
    if kind == "class":
        for method, found in vars(value).items():
            if not method.startswith("_") and method in FEW.get(attribute, {method}) and not _is_datum(found):
                lines += _method(method, found, value)
    return [*lines, "````", ""]


def _is_datum(found: object) -> bool:
    """Whether it is a field's default value."""
    return not (inspect.isroutine(found) or isinstance(found, (property, cached_property)))


def _method(name: str, found: object, owner: type) -> list[str]:
    if isinstance(found, (property, cached_property)):
        return [f"```{{py:property}} {name}", "", *_docstring(found), "```", ""]
    marks = [":classmethod:"] if isinstance(found, classmethod) else []
    signature = _signature(getattr(owner, name))
    return [f"```{{py:method}} {name}{signature}", *marks, "", *_docstring(found), "```", ""]


def _signature(value: Callable[..., object]) -> str:
    """As it is written: types are texts already, and a default that is made or called is not shown."""
    signature = inspect.signature(value)
    shown = []
    for p in signature.parameters.values():
        if p.name != "self":
            made = p.default is not p.empty and (callable(p.default) or "<" in repr(p.default))
            annotation = p.annotation if p.annotation is p.empty else _Text(p.annotation)
            shown.append(p.replace(annotation=annotation, default=_Text("…") if made else p.default))
    gives = signature.return_annotation
    if inspect.isclass(value) or gives in (signature.empty, "None"):
        return str(signature.replace(parameters=shown, return_annotation=signature.empty))
    return str(signature.replace(parameters=shown, return_annotation=_Text(gives)))


class _Text(str):
    """A text that is its own repr."""

    def __repr__(self) -> str:
        return str(self)


def _docstring(value: object) -> list[str]:
    """Its lines; arguments that a sentence is about are code."""
    lines = (inspect.getdoc(value) or "").splitlines()
    return [_marked(ARGUMENTS.sub(r"`\1`:", line)) for line in lines]


# ---- plain text as Markdown


def _marked(text: str) -> str:
    """A line of help or of a docstring: what Markdown would take for its own is escaped outside of code, and pages that
    are named are links."""
    parts = re.split(r"(`[^`]*`)", text)
    for n in range(0, len(parts), 2):
        parts[n] = re.sub(r"([*_<>\[\]#|~$])", r"\\\1", parts[n])
        parts[n] = re.sub(r"^([-+] )", r"\\\1", parts[n]) if n == 0 else parts[n]
        parts[n] = re.sub(r"docs/((?:\w|\\_)+)\.md", _page_link, parts[n])
    return "".join(parts)


def _page_link(found: re.Match[str]) -> str:
    return f"[{found[0]}]({found[1].replace(chr(92), '')}.md)"


def _contributing(_: str) -> str:
    """CONTRIBUTING.md as a page: its links are from the repository's root."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?:docs/)?", lambda m: "](" if m[0].endswith("docs/") else "](../", text)


def _unbroken(text: str) -> str:
    """A table of numbers, whose cells break at no hyphen and no comma."""
    text = re.sub(r"(\de)-(\d\d) \|", "\\1\N{NON-BREAKING HYPHEN}\\2 |", text)
    return re.sub(r"(?<=\d), (?=\d)", ",\N{NO-BREAK SPACE}", text)


PAGES: dict[str, Callable[[str], str]] = {
    "index": _with_navigation,
    "command_line": lambda text: text + command_line(),
    "api": lambda text: text + api(),
    "contributing": _contributing,
    "definitions": _unbroken,
}
"""By page, what is done to its text."""
