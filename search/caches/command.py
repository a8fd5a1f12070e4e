"""`eintune cache`: look at what is stored, hand it around, remove it, or ask why a problem is not among it."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eintune.host.files import remove_leftovers, write_named
from eintune.host.printable import printable
from eintune.search.options.command import Command, Failure, Usage, add_cache, add_device, cache_of, device_of, path
from eintune.search.options.documents import add_json, document, write_json
from eintune.search.options.files import check_writable
from eintune.search.options.problem import add_problem, problem_of
from eintune.search.text.formatting import plural

if TYPE_CHECKING:
    from eintune.kernels.store.exchange import Contents, Held

DESCRIPTION = """\
  list     what is stored: workload and modifiers, sizes, machine, versions; of FILE: what an exported file holds
  show     one record or portfolio whole, by (the beginning of) its name, as JSON
  explain  is this problem stored, and if not, what differs from the nearest that is
  export   your records, portfolios and kept derivations as one file
  import   what exported files and other cache directories hold, into your cache; what is yours stays
  merge    several exported files and cache directories as one file: of each record the one that was made last
  verify   is what is stored whole, and are its kernels still made as they were measured
  clear    remove your own records, portfolios, journals, kept derivations and compiled kernels; what is shipped stays
"""
EXAMPLES = """\
examples:
  eintune cache export mine.zip --machine H200
  eintune cache import mine.zip
  eintune cache merge one.zip two.zip --file both.zip
  eintune cache verify both.zip
A directory that $EINTUNE_SHIPPED names (several with the system's separator of paths between them) is read too, after
your own and before what comes with Eintune, and never written to: an exported file, unpacked, is one.
"""
FEW = 3
"""Things that are named of those that are not used for one reason."""
SOURCE = "an exported file, or a cache directory"


def _summaries() -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in DESCRIPTION.splitlines())


def options(parser: argparse.ArgumentParser) -> None:
    """One verb and its options."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, summary in _summaries().items():
        sub = verbs.add_parser(verb, help=summary, description=summary[:1].upper() + summary[1:] + ".")
        if verb != "merge":
            add_cache(sub)
        _VERBS[verb][0](sub)


def action(chosen: argparse.Namespace) -> int:
    """Do what the verb says."""
    return _VERBS[chosen.verb][1](chosen)


# ---- looking


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", type=path, metavar="FILE", help=f"{SOURCE}; default: your cache")
    add_json(parser)


def _list(chosen: argparse.Namespace) -> int:
    from eintune.kernels.store.cache import Cache

    from .text import list_text, listed_in, listed_of

    check_writable(chosen, "json")
    place, refused = cache_of(chosen), tuple[str, ...]()
    if chosen.source is None:
        listed = listed_of(Cache(place))
    else:
        found = _contents(chosen.source)
        place, listed, refused = chosen.source, listed_in(found.held), found.refused
    _tell(refused)
    print(list_text(listed) or f"no records in {place}")
    write_json(chosen, {"place": str(place), "entries": [one.to_json() for one in listed], "refused": refused})
    return 0


def _show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="as `list` prints it")


def _show(chosen: argparse.Namespace) -> int:
    from eintune.kernels.store.cache import Cache
    from eintune.kernels.store.portfolio import every_portfolio

    cache, name = Cache(cache_of(chosen)), chosen.name
    found = [e for e in cache.entries() if e.path.name.startswith(name)]
    portfolios = [(place, p) for place, p, _ in every_portfolio(cache) if place.name.startswith(name)]
    if not found and not portfolios:
        raise Usage(
            f"NAME must begin the name of a record or a portfolio in {cache.directory} (see `eintune cache list`), "
            f"but got {name!r}"
        )
    told = [{"path": str(place), **json.loads(portfolio.to_text())} for place, portfolio in portfolios]
    told += [{"path": str(e.path), "key": e.key.to_json(), "record": e.record.to_json()} for e in found]
    print(json.dumps(document(chosen, told), indent=1, allow_nan=False))
    return 0


def _explain_options(parser: argparse.ArgumentParser) -> None:
    add_problem(parser)
    add_device(parser)


def _explain(chosen: argparse.Namespace) -> int:
    from eintune.kernels.store.cache import Cache, Key
    from eintune.kernels.store.platform import platform_of
    from eintune.kernels.store.portfolio import portfolio_entries

    directory, device = cache_of(chosen), device_of(chosen)
    problem = problem_of(chosen, "bf16" if device == "cuda" else "fp32")
    key = Key.of(problem, platform_of(device))
    cache = Cache(directory)
    entry = next(cache.stored(key), None)
    if entry is not None:
        doubt = f"; beware: {entry.record.doubt}; `tune --retune` measures anew" if entry.record.doubt else ""
        print(f"stored: {entry.path}{doubt}")
        return 0
    points = [e for e in portfolio_entries(cache, key) if e.key.sizes == key.sizes]
    if points:
        fastest = min(points, key=lambda e: e.record.seconds)
        print(f"a point of a portfolio: {fastest.path} ({fastest.record.seconds * 1e3:.4g} ms there)")
        return 0
    print(f"not stored: {cache.explain_miss(key)}")
    return 1


# ---- handing around


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=path, metavar="FILE", help="a zip, made or replaced")
    _add_filters(parser)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workload", metavar="NAME", help="of this workload only; default: all")
    parser.add_argument("--machine", metavar="TEXT", help="of machines whose name holds this text only; default: all")


def _wanted(chosen: argparse.Namespace, held: Sequence[Held]) -> list[Held]:
    """Those that the options leave, kept derivations by what else there is of their definitions. Raises Usage."""
    text = (chosen.machine or "").casefold()
    named = [h for h in held if h.key is not None and chosen.workload in (None, h.key.workload)]
    left = [h for h in named if h.key is not None and text in h.key.machine.casefold()]
    filtered = chosen.workload is not None or chosen.machine is not None
    if filtered and held and not left:
        there = sorted({(h.key.workload, h.key.machine) for h in held if h.key is not None})
        several = "; ".join(f"{workload} on {machine}" for workload, machine in there) or "neither"
        raise Usage(f"--workload and --machine must leave something of what there is: {printable(several)}")
    definitions = {h.definition for h in left}
    return [*left, *(h for h in held if h.key is None and (not filtered or h.definition in definitions))]


def _export(chosen: argparse.Namespace) -> int:
    check_writable(chosen, "file")
    directory = cache_of(chosen)
    found = _of_cache(directory)
    _tell(found.refused)
    held = _wanted(chosen, found.held)
    if not held:
        raise Failure(f"nothing to export: {directory} has no records, portfolios or kept derivations")
    return _write(chosen.file, held)


def _write(out: Path, held: Sequence[Held]) -> int:
    from eintune.kernels.store.exchange import BadArchive, packed

    try:
        write_named(out, packed(held))
    except BadArchive as error:
        raise Failure(str(error)) from error
    print(f"{out}: {_counted(held)}")
    return 0


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", type=path, nargs="+", metavar="FILE", help=SOURCE)
    parser.add_argument("--replace", action="store_true", help="what is imported stands in place of what is yours")
    _add_filters(parser)


def _import(chosen: argparse.Namespace) -> int:
    from eintune.kernels.store.cache import Cache
    from eintune.kernels.store.exchange import take_in

    cache = Cache(cache_of(chosen))
    every = [_contents(source) for source in chosen.sources]  # all are read before anything is written
    refused = [line for found in every for line in found.refused]
    for source, found in zip(chosen.sources, every, strict=True):
        taken = take_in(cache, _wanted(chosen, found.held), instead=chosen.replace)
        refused += taken.refused
        print(f"{source}: imported {_counted(taken.written)}; {len(taken.kept)} there already")
    _tell(refused)
    return 1 if refused else 0


def _merge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", type=path, nargs="+", metavar="FILE", help=SOURCE)
    parser.add_argument("--file", type=path, required=True, metavar="FILE", help="a zip, made or replaced")
    _add_filters(parser)


def _merge(chosen: argparse.Namespace) -> int:
    from eintune.kernels.store.exchange import merged

    check_writable(chosen, "file")
    found = merged([_contents(source) for source in chosen.sources])
    _tell(found.refused)
    held = _wanted(chosen, found.held)
    if not held:
        raise Failure("nothing to merge: no records, portfolios or kept derivations are in what was given")
    return _write(chosen.file, held) or (1 if found.refused else 0)


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", type=path, nargs="*", metavar="FILE", help=f"{SOURCE}; default: your cache")
    add_json(parser)


def _verify(chosen: argparse.Namespace) -> int:
    from .verify import faults

    check_writable(chosen, "json")
    directory = cache_of(chosen)
    wrong, told_of = 0, []
    for source in chosen.sources or [directory]:
        found = _contents(source) if chosen.sources else _of_cache(source)
        told = [*found.refused, *(f"{h.path}: {line}" for h in found.held for line in faults(h))]
        _tell(told)
        wrong += len(told)
        print(f"{source}: {_counted(found.held)}; {plural(len(told), 'fault')}")
        told_of.append({"place": str(source), "paths": [h.path for h in found.held], "faults": told})
    write_json(chosen, told_of)
    return 1 if wrong else 0


def _of_cache(directory: Path) -> Contents:
    """What travels of the user's cache, which need not be there yet."""
    from eintune.kernels.store.exchange import Contents

    return _contents(directory) if directory.exists() else Contents((), ())


def _contents(source: Path) -> Contents:
    from eintune.kernels.store.exchange import BadArchive, contents

    if not source.exists():
        raise Usage(f"FILE must be {SOURCE}, but there is nothing at {str(source)!r}")
    try:
        return contents(source)
    except BadArchive as error:
        raise Failure(str(error)) from error


def _tell(refused: Iterable[str]) -> None:
    """A line for each thing that is not used; of many for one reason the first few, and how many more."""
    why: dict[str, list[str]] = {}
    for line in refused:
        name, _, reason = line.partition(": ")
        why.setdefault(reason, []).append(name)
    for reason, names in why.items():
        for name in names[:FEW]:
            print(f"not used: {name}: {reason}" if reason else f"not used: {name}")
        if len(names) > FEW:
            print(f"not used: {len(names) - FEW:,} more: {reason}")


def _counted(held: Sequence[Held]) -> str:
    nouns = {"records": "record", "portfolios": "portfolio", "derived": "kept derivation"}
    return ", ".join(plural(sum(h.kind == kind for h in held), noun) for kind, noun in nouns.items())


# ---- removing


def _no_options(parser: argparse.ArgumentParser) -> None:
    """A verb that is all."""


def _clear(chosen: argparse.Namespace) -> int:
    from eintune.kernels.store.cache import Cache

    directory = cache_of(chosen)
    removed = len(Cache(directory).clear())
    print(f"removed {plural(removed, 'record')} from {directory}")
    failed = []
    for folder, pattern in (
        ("portfolios", "*.json"),
        ("journals", "*.jsonl*"),
        ("derived", "*.json"),
        ("derived", "*.edge"),
    ):
        remove_leftovers(directory / folder)
        for place in sorted((directory / folder).glob(pattern)):
            try:
                place.unlink()
            except OSError as error:
                failed.append(f"{place}: {error.strerror}")
    if (compiled := directory / "compiled").is_dir():
        shutil.rmtree(compiled, onerror=lambda _, place, error: failed.append(f"{place}: {error[1]}"))
    if failed:
        raise Failure(f"cannot remove {failed[0]}" + (f" and {len(failed) - 1} more" if failed[1:] else ""))
    return 0


_VERBS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "list": (_list_options, _list),
    "show": (_show_options, _show),
    "explain": (_explain_options, _explain),
    "export": (_export_options, _export),
    "import": (_import_options, _import),
    "merge": (_merge_options, _merge),
    "verify": (_verify_options, _verify),
    "clear": (_no_options, _clear),
}

HELP = "list, show, explain, export, import, merge, verify or clear the stored winners"
CACHE = Command("cache", HELP, options, action, DESCRIPTION, EXAMPLES)
