"""What commands share: the parser, the two kinds of error, and the options that state a problem."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

if TYPE_CHECKING:
    from ..space.schedule import Problem

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
        with one_line_errors():
            return self.action(options)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors whose message is meant for people become a `Failure`."""
    from ..kernels.bounded import BadRecord
    from .journal import JournalError
    from .run import RunError

    try:
        yield
    except (JournalError, RunError, BadRecord) as error:
        raise Failure(str(error)) from error
    except MemoryError:
        raise Failure("out of memory: choose a smaller problem") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise Failure(f"{place}{error.strerror or error}") from error


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


def add_version(parser: Options) -> None:
    from .. import __version__

    parser.add_argument("--version", action="version", version=f"eintune {__version__}")


# ---- the problem


def add_problem(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The options that state an attention problem."""
    group = parser.add_argument_group("the problem")
    group.add_argument("--seq", type=positive, required=required, metavar="N", help="queries a head")
    group.add_argument("--heads", type=positive, required=required, metavar="N", help="query heads")
    group.add_argument("--causal", action="store_true", help="key m is seen by query p where m <= p")
    group.add_argument("--head-dim", type=positive, default=128, metavar="N", help="default: 128")
    group.add_argument("--batch", type=positive, default=1, metavar="N", help="default: 1")
    group.add_argument("--kv-heads", type=positive, metavar="N", help="default: as many as --heads")
    group.add_argument("--kv-seq", type=positive, metavar="N", help="keys a head; default: as many as --seq")
    group.add_argument("--scale", type=number, metavar="X", help="of the scores; default: 1/sqrt(head dim)")
    group.add_argument(
        "--dtype", choices=("bf16", "fp16", "fp32", "fp64"), help="default: bf16 on a GPU, fp32 on a CPU"
    )


def add_device(parser: Options) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="default: a GPU if there is one"
    )


def add_cache(parser: Options) -> None:
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where winners and journals are kept; default: $EINTUNE_CACHE, else the user's cache directory",
    )


def cache_of(options: argparse.Namespace) -> Path:
    """The cache directory. `--cache` also decides where probed machines are kept in this process."""
    from ..costmodel.directories import ENVIRONMENT_VARIABLE, cache_directory

    if options.cache is not None:
        os.environ[ENVIRONMENT_VARIABLE] = str(options.cache.expanduser().resolve())
    return cache_directory()


def device_of(options: argparse.Namespace) -> str:
    """ "cuda" or "cpu"."""
    from ..costmodel.probe import cuda_is_available

    there = cuda_is_available()
    if options.device == "cuda" and not there:
        raise Usage(
            "--device must be auto or cpu where PyTorch sees no CUDA GPU, but got cuda (`eintune doctor` says why)"
        )
    return "cpu" if options.device == "cpu" or not there else "cuda"


def problem_of(options: argparse.Namespace, dtype: str) -> Problem:
    """The attention problem that the options state; `dtype` is the default."""
    from ..space.workloads import attention_problem

    with as_usage():
        return attention_problem(
            batch=options.batch,
            heads=options.heads,
            kv_heads=options.kv_heads or options.heads,
            seq=options.seq,
            kv_seq=options.kv_seq or options.seq,
            head_dim=options.head_dim,
            dtype=options.dtype or dtype,
            causal="top_left" if options.causal else None,
            scale=options.scale,
        )


def emitter_of(problem: Problem, kind: str) -> str:
    """The emitter for a machine's kind ("gpu", "cpu"). Raises Usage for a dtype that it has no kernels in."""
    if kind == "cpu":
        return "torch"
    if "fp64" in problem.dtypes.values():
        raise Usage("--dtype must be one of bf16, fp16, fp32 on a GPU, but got fp64 (--device cpu has it)")
    return "triton"


def title_of(options: argparse.Namespace, dtype: str) -> str:
    """The problem in words."""
    parts = [f"batch {options.batch}", f"{options.heads} heads"]
    if options.kv_heads and options.kv_heads != options.heads:
        parts.append(f"{options.kv_heads} kv heads")
    length = f"length {options.seq}"
    if options.kv_seq and options.kv_seq != options.seq:
        length = f"{options.seq} queries, {options.kv_seq} keys"
    parts += [length, f"head dim {options.head_dim}", options.dtype or dtype]
    if options.causal:
        parts.append("causal")
    return f"Attention: {', '.join(parts)}"


def folder_of(options: argparse.Namespace, dtype: str) -> str:
    """A short folder name for the problem's results: b1-h32-s2048-d128-bf16-causal."""
    heads = f"h{options.heads}" + (f"kv{options.kv_heads}" if options.kv_heads not in (None, options.heads) else "")
    length = f"s{options.seq}" + (f"k{options.kv_seq}" if options.kv_seq not in (None, options.seq) else "")
    name = f"attention-b{options.batch}-{heads}-{length}-d{options.head_dim}-{options.dtype or dtype}"
    scale = f"-scale{options.scale:g}" if options.scale is not None else ""
    return name + ("-causal" if options.causal else "") + scale
