"""What commands share: the parser, the two kinds of error, the device and the cache."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from eintune.host.parts import MissingPart, missing_part
from eintune.search.text.faults import JournalError, RunError

if TYPE_CHECKING:
    from eintune.search.text.progress import Progress

Options: TypeAlias = argparse._ActionsContainer
"""A parser or one of its groups."""
MAX_NUMBER = 2**31
"""Sizes above this are refused before anything is computed with them."""


class Usage(Exception):
    """The command was given something that it cannot take; exit code 2."""


class Failure(Exception):
    """The command could not do what it was asked; exit code 1."""


class Parser(argparse.ArgumentParser):
    """Raises `Usage` instead of printing the whole usage above an error."""

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message} (see `{self.prog} --help`)")


@dataclass(frozen=True)
class Command:
    """One command: its name, one line of help, its options, and what it does (returns the exit code)."""

    name: str
    help: str
    options: Callable[[argparse.ArgumentParser], None]
    action: Callable[[argparse.Namespace], int]
    description: str = ""
    epilog: str = ""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the options; the parsed ones name this command."""
        self.options(parser)
        parser.set_defaults(chosen=self)

    def run(self, options: argparse.Namespace) -> int:
        with one_line_errors(f"`eintune {self.name}`"):
            return self.action(options)


@contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Errors whose message is meant for people become a `Failure`. what: is done here, as its user calls it."""
    from eintune.host.data import BadData

    try:
        yield
    except (JournalError, RunError, BadData, MissingPart) as error:
        raise Failure(str(error)) from error
    except ModuleNotFoundError as error:
        part = missing_part(what, error)
        if part is None:
            raise
        raise Failure(str(part)) from error
    except MemoryError:
        raise Failure("out of memory: choose a smaller problem") from None
    except RuntimeError as error:
        if told := _known_failure(error):
            raise Failure(told) from error
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise Failure(f"{place}{error.strerror or error}") from error


def _known_failure(error: RuntimeError) -> str | None:
    """What deriving that could not be finished says; None for any other error, which is a fault of the program."""
    from eintune.space.derivation.derive import DerivationError
    from eintune.space.egraph.graph import SaturationError

    if isinstance(error, RecursionError):
        return "the computation nests deeper than can be followed: name parts of it, or make it smaller"
    return str(error) if isinstance(error, (DerivationError, SaturationError)) else None


@contextmanager
def as_usage() -> Iterator[None]:
    """A ValueError raised inside states a rule that the user's own values broke: wrong usage."""
    try:
        yield
    except ValueError as error:
        raise Usage(str(error)) from error


def positive(text: str) -> int:
    """A positive whole number."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 0 < value <= MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_NUMBER}, but got {text!r}")
    return value


def seconds(text: str) -> float:
    """A positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e7:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, but got {text!r}")
    return value


def path(text: str) -> Path:
    """A path; `~` and `~user` are read as a shell reads them (which does not in `--cache=~user/x`): where there is no
    such user, it is a name."""
    return Path(os.path.expanduser(text))


def number(text: str) -> float:
    """A finite number."""
    import math

    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, but got {text!r}")
    return value


def add_quiet(parser: Options) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def begin(options: argparse.Namespace) -> Progress:
    """The command's progress, whose first line is said before anything large is loaded."""
    from eintune.search.text.progress import Progress

    progress = Progress(None if options.quiet else sys.stderr, f"{options.chosen.name}: loading what it works with")
    progress.doing("loading what it works with")
    return progress


def add_version(parser: Options) -> None:
    from eintune import __version__

    parser.add_argument("--version", action="version", version=f"eintune {__version__}")


def add_device(parser: Options) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="default: a GPU if there is one"
    )


def add_cache(parser: Options) -> None:
    parser.add_argument(
        "--cache",
        type=path,
        metavar="DIR",
        help="where winners and journals are kept; default: $EINTUNE_CACHE, else the user's cache directory",
    )


def cache_of(options: argparse.Namespace) -> Path:
    """The cache directory. `--cache` also decides where probed machines are kept in this process."""
    from eintune.host.directories import ENVIRONMENT_VARIABLE, cache_directory

    if options.cache is not None:
        os.environ[ENVIRONMENT_VARIABLE] = os.path.realpath(options.cache)
    return cache_directory()


def device_of(options: argparse.Namespace) -> str:
    """ "cuda" or "cpu"."""
    from eintune.costmodel.machines.probe import cuda_is_available

    there = cuda_is_available()
    if options.device == "cuda" and not there:
        raise Usage(
            "--device must be auto or cpu where PyTorch sees no CUDA GPU, but got cuda (`eintune doctor` says why)"
        )
    return "cpu" if options.device == "cpu" or not there else "cuda"
