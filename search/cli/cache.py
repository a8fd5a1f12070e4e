"""`eintune cache`: look at the stored winners, remove them, or ask why a problem is not among them."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from eintune.host.files import remove_leftovers
from eintune.search.options.command import Command, Failure, Usage, add_cache, add_device, cache_of, device_of
from eintune.search.options.problem import add_problem, problem_of

if TYPE_CHECKING:
    from eintune.kernels.store.cache import Cache
    from eintune.kernels.store.portfolio import Portfolio

DESCRIPTION = """\
  list     one line a stored winner, and one a portfolio
  show     one record or portfolio whole, by (the beginning of) its name, as JSON
  explain  is this problem stored, and if not, what differs from the nearest that is
  clear    remove your own records, portfolios, journals, kept derivations and compiled kernels; what is shipped stays
"""
VERBS = ("list", "show", "explain", "clear")


def options(parser: argparse.ArgumentParser) -> None:
    """One verb and its options."""
    verbs = parser.add_subparsers(dest="verb", metavar="|".join(VERBS), required=True)
    for verb, summary in zip(VERBS, DESCRIPTION.splitlines(), strict=True):
        sub = verbs.add_parser(verb, help=summary.split(maxsplit=1)[1], description=summary.split(maxsplit=1)[1])
        add_cache(sub)
        if verb == "show":
            sub.add_argument("name", help="as `list` prints it")
        if verb == "explain":
            add_problem(sub)
            add_device(sub)


def action(chosen: argparse.Namespace) -> int:
    """Do what the verb says."""
    cache = cache_of(chosen)
    match chosen.verb:
        case "list":
            return _list(cache)
        case "show":
            return _show(cache, chosen.name)
        case "explain":
            return _explain(cache, chosen)
        case _:
            return _clear(cache)


def _list(directory: Path) -> int:
    from eintune.kernels.store.cache import Cache
    from eintune.search.text.formatting import milliseconds
    from eintune.search.text.tables import text_table

    cache = Cache(directory)
    rows = []
    for entry in cache.entries():
        sizes = " ".join(f"{r}{n}" for r, n in entry.key.sizes)
        kinds = "/".join(dict.fromkeys(d for _, d in entry.key.dtypes))
        kept = "shipped" if entry.shipped else entry.record.created[:10]
        name = entry.path.stem[: len(entry.key.workload) + 13]
        kept += ", in doubt" if entry.record.doubt else ""
        rows.append([name, sizes, kinds, entry.key.machine[:28], milliseconds(entry.record.seconds), kept])
    if rows:
        print(text_table(["name", "sizes", "dtype", "machine", "time", "tuned"], rows, right=(4,), indent=0))
    else:
        print(f"no records in {cache.records}")
    _list_portfolios(cache)
    return 0


def _list_portfolios(cache: Cache) -> None:
    from eintune.kernels.store.portfolio import every_portfolio
    from eintune.search.text.formatting import plural
    from eintune.search.text.tables import text_table

    rows = []
    for path, portfolio, shipped in every_portfolio(cache):
        ranges = " ".join(f"{r}{min(n)}" + (f":{max(n)}" if len(n) > 1 else "") for r, n in _sizes(portfolio).items())
        kinds = "/".join(dict.fromkeys(d for _, d in portfolio.key.dtypes))
        held = f"{plural(len(portfolio.kernels), 'kernel')}, {plural(len(portfolio.points), 'point')}"
        name = path.stem[: len(portfolio.key.workload) + 13]
        rows.append([name, ranges, kinds, portfolio.key.machine[:28], held, "shipped" if shipped else "yours"])
    if rows:
        print("\n" + text_table(["portfolio", "sizes", "dtype", "machine", "holds", "whose"], rows, indent=0))


def _sizes(portfolio: Portfolio) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for point in portfolio.points:
        for r, n in point.sizes:
            found.setdefault(r, set()).add(n)
    return found


def _show(directory: Path, name: str) -> int:
    from eintune.kernels.store.cache import Cache
    from eintune.kernels.store.portfolio import every_portfolio

    found = [e for e in Cache(directory).entries() if e.path.name.startswith(name)]
    portfolios = [(path, p) for path, p, _ in every_portfolio(Cache(directory)) if path.name.startswith(name)]
    if not found and not portfolios:
        raise Usage(
            f"NAME must begin the name of a record or a portfolio in {directory} (see `eintune cache list`), "
            f"but got {name!r}"
        )
    for path, portfolio in portfolios:
        print(json.dumps({"path": str(path), **json.loads(portfolio.to_text())}, indent=1))
    for entry in found:
        print(
            json.dumps(
                {"path": str(entry.path), "key": entry.key.to_json(), "record": entry.record.to_json()}, indent=1
            )
        )
    return 0


def _explain(directory: Path, chosen: argparse.Namespace) -> int:
    from eintune.kernels.store.cache import Cache, Key
    from eintune.kernels.store.platform import platform_of

    device = device_of(chosen)
    problem = problem_of(chosen, "bf16" if device == "cuda" else "fp32")
    key = Key.of(problem, platform_of(device))
    cache = Cache(directory)
    if (record := cache.load(key)) is not None:
        doubt = f"; beware: {record.doubt}; `tune --retune` measures anew" if record.doubt else ""
        print(f"stored: {cache.records / key.file_name}{doubt}")
        return 0
    print(f"not stored: {cache.explain_miss(key)}")
    return 1


def _clear(directory: Path) -> int:
    from eintune.kernels.store.cache import Cache
    from eintune.search.text.formatting import plural

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
        for path in sorted((directory / folder).glob(pattern)):
            try:
                path.unlink()
            except OSError as error:
                failed.append(f"{path}: {error.strerror}")
    if (compiled := directory / "compiled").is_dir():
        shutil.rmtree(compiled, onerror=lambda _, path, error: failed.append(f"{path}: {error[1]}"))
    if failed:
        raise Failure(f"cannot remove {failed[0]}" + (f" and {len(failed) - 1} more" if failed[1:] else ""))
    return 0


CACHE = Command("cache", "list, show, explain or clear the stored winners", options, action, DESCRIPTION)
