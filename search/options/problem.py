"""The options that state a problem: a workload by name and its sizes, or a cascade in a file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eintune.space.ir.dtypes import FLOATS

from .command import Options, Usage, as_usage, number, path, positive
from .functions import function_in
from .sizes import SEVERAL, add_sizes, several_sizes

if TYPE_CHECKING:
    from eintune.space.cascade.problem import Problem
    from eintune.space.workloads.workload import Option, Posed, Workload

FIRST = "attention"
"""The workload where none is named; its options come first in the help."""


class ListWorkloads(argparse.Action):
    """Prints every workload with its options, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from eintune.space.workloads.builtin import WORKLOADS

        for row in WORKLOADS.values():
            print(f"{row.name}\n  {row.summary}\n  {' '.join(_spelt(o) for o in row.options)}")
        parser.exit()


def _spelt(option: Option) -> str:
    match option.kind:
        case "flag":
            value = ""
        case "choice":
            value = " " + "|".join(option.choices)
        case "number":
            value = " X"
        case "text":
            value = " TEXT"
        case "function":
            value = " FILE.py:NAME"
        case _:
            value = " N" if option.default in (None, "") else f" {option.default}"
    text = flag_of(option.name) + value
    return text if option.default is None else f"[{text}]"


def flag_of(name: str) -> str:
    """`kv_heads` as it is written on the command line."""
    return "--" + name.replace("_", "-")


def add_problem(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """All that states a problem at one size; several: a workload's sizes may be lists and ranges (`each_of`)."""
    add_computation(parser, sizes=True, several=several)
    group = parser.add_argument_group("the problem")
    add_dtype(group)
    group.add_argument(
        "--params", type=_params, default={}, metavar="NAME=X,…", help="scalars of the definition, such as eps=1e-6"
    )


def add_dtype(parser: Options) -> None:
    parser.add_argument("--dtype", choices=FLOATS, help="default: bf16 on a GPU, fp32 on a CPU")


def add_some_options(parser: Options, stated: Mapping[str, str], *, several: Collection[str] = ()) -> None:
    """Some options of the first workload, by name, with a help text each; several: those that may be lists."""
    from eintune.space.workloads.builtin import WORKLOADS

    for option in WORKLOADS[FIRST].options:
        if option.name in stated:
            _add(parser, replace(option, help=stated[option.name]), [FIRST], option.name in several)


def add_computation(parser: argparse.ArgumentParser, *, sizes: bool, several: bool = False) -> None:
    """What is computed; with `sizes` also how large it is."""
    from eintune.space.workloads.builtin import WORKLOADS

    group = parser.add_argument_group("what is computed")
    group.add_argument("--workload", choices=tuple(WORKLOADS), metavar="NAME", help=f"default: {FIRST}")
    group.add_argument(
        "--list-workloads",
        action=ListWorkloads,
        nargs=0,
        help="names, definitions and options; also --workload NAME -h",
    )
    if sizes:
        group.add_argument("--cascade", type=path, metavar="FILE", help="a definition of your own, with --sizes")
        add_sizes(group, "sizes of the ranks of --cascade")
    add_workload_options(parser, sizes=sizes, several=several)


def add_workload_options(parser: argparse.ArgumentParser, *, sizes: bool, several: bool = False) -> None:
    """The options of every workload, those of the first one on top."""
    from eintune.space.workloads.builtin import WORKLOADS

    rows = sorted(WORKLOADS.values(), key=lambda row: row.name != FIRST)
    known: set[str] = set()
    for title, chosen in ((FIRST, rows[:1]), ("other workloads", rows[1:])):
        group = parser.add_argument_group(title)
        for row in chosen:
            for option in row.options:
                if option.name not in known and (sizes or option.kind != "size"):
                    known.add(option.name)
                    users = [r.name for r in chosen if option.name in {o.name for o in r.options}]
                    _add(group, option, users, several)


def show_options_of(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Leave out of a command's help what is of other workloads than the one that its words name. All are taken all the
    same: what does not apply is said with what would."""
    from eintune.space.workloads.builtin import WORKLOADS

    # `--workload NAME`, `--workload=NAME`, or NAME where a command takes one alone
    named = (word.removeprefix("--workload=") for word in words)
    row = WORKLOADS[next((word for word in named if word in WORKLOADS), FIRST)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                show_options_of(sub, words)
        name = action.dest.removeprefix("of_")
        option = next((o for o in row.options if o.name == name), None)
        if name != action.dest and option is None:
            action.help = argparse.SUPPRESS
        elif name != action.dest and row.name != FIRST:  # in place of which workloads have it
            action.help = option.help if option else None


def _add(group: Options, option: Option, users: list[str], several: bool) -> None:
    help_text = option.help if users == [FIRST] else f"of {', '.join(users)}"
    settings: dict[str, Any] = {"help": help_text, "dest": f"of_{option.name}"}
    match option.kind:
        case "flag":
            group.add_argument(flag_of(option.name), action="store_const", const=True, **settings)
            return
        case "choice":
            settings |= {"choices": option.choices}
        case "number":
            settings |= {"type": number, "metavar": "X"}
        case "text":
            settings |= {"metavar": "TEXT"}
        case "function":
            settings |= {"type": function_in, "metavar": "FILE.py:NAME"}
        case "size" if several:
            settings |= {"type": several_sizes, "metavar": "N"}
        case _:
            settings |= {"type": positive, "metavar": "N"}
    if option.bare:
        settings |= {"nargs": "?", "const": option.bare}
    group.add_argument(flag_of(option.name), **settings)


def _params(text: str) -> dict[str, float]:
    found = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name.strip()):
            raise argparse.ArgumentTypeError(f"must be names with values, such as scale=0.125, but got {part!r}")
        found[name.strip()] = number(value)
    return found


def given_of(options: argparse.Namespace) -> dict[str, Any]:
    """The workload's options that were given, by name."""
    names = (n for n in vars(options) if n.startswith("of_"))
    return {n.removeprefix("of_"): value for n in names if (value := getattr(options, n)) is not None}


# ---- what it comes to

STATISTICS = "statistics"
"""The option of a workload that returns what its gradient wants of each row too."""
UNSTATED = 64
"""A size that must be given to pose a problem, but does not change what is computed."""


def definition_text(name: str, options: argparse.Namespace) -> tuple[str, dict[str, int]]:
    """The definition of a workload with the options that were given, as text, and the sizes that they state.

    Raises Usage for an option that the workload does not have.
    """
    from eintune.space.workloads.builtin import WORKLOADS

    row, given = WORKLOADS[name], given_of(options)
    _check_options(row, given)
    stated = any(o.kind == "size" and o.name in given for o in row.options)
    needed = {o.name: UNSTATED for o in row.options if o.default is None and o.name not in given}
    with as_usage():
        problem = row.posed(given | needed, "fp32").problem
    return problem.cascade, dict(problem.sizes) if stated and not needed else {}


def _check_options(row: Workload, given: Mapping[str, object]) -> None:
    unknown = {n: v for n, v in given.items() if n not in {o.name for o in row.options}}
    if unknown:
        raise Usage(f"{row.name} takes no {_flags(unknown)}; it has {' '.join(_spelt(o) for o in row.options)}")


def posed_of(options: argparse.Namespace, dtype: str) -> Posed:
    """The problem that the options state, with its title and folder; `dtype` is the default."""
    from eintune.space.workloads.builtin import WORKLOADS

    dtype, given = options.dtype or dtype, given_of(options)
    if options.cascade is not None:
        if options.workload or given:
            raise Usage(f"--cascade stands instead of a workload, but got {_flags(given) or '--workload'} too")
        posed = _of_file(options.cascade, options.sizes, options.params, dtype)
    else:
        if options.sizes:
            raise Usage("--sizes are of --cascade; a workload has options of its own (see --list-workloads)")
        row = WORKLOADS[options.workload or FIRST]
        _check_options(row, given)
        missing = [o.name for o in row.options if o.default is None and o.name not in given]
        if missing:
            raise Usage(f"the following arguments are required: {', '.join(map(flag_of, missing))}")
        with as_usage():
            posed = row.posed(given, dtype)
    return replace(posed, problem=_with_parameters(posed.problem, options.params))


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(r"[A-Za-z_]\w*", n) for n in found):
        raise argparse.ArgumentTypeError(f"must be names of inputs, such as Q,K,V, but got {text!r}")
    return found


def training_posed(options: argparse.Namespace, dtype: str) -> list[tuple[str, Posed]]:
    """The problems of a training step of what the options state: the forward first, then each stage of the backward,
    with what it gives. Raises Usage for a definition without a gradient."""
    from eintune.search.tune.training import training_steps
    from eintune.space.workloads.builtin import WORKLOADS

    asked = posed_of(options, dtype)
    row = None if options.cascade is not None else WORKLOADS[options.workload or FIRST]
    statistics = (
        row is not None and any(o.name == STATISTICS for o in row.options) and not given_of(options).get("sigmoid")
    )
    # programs ask for the log-sum-exp where a gradient is recorded: a result that the gradient reads
    whole = posed_of(argparse.Namespace(**vars(options) | {f"of_{STATISTICS}": True}), dtype) if statistics else asked
    with as_usage():
        steps = training_steps(whole.problem, of=tuple(asked.problem.definition.outputs), wrt=options.wrt or ())
    found = []
    for n, step in enumerate(steps):
        gives = ", ".join(step.gives)
        title = f"{asked.title}, forward" if not n else f"{asked.title}, gradient {n} of {len(steps) - 1}: {gives}"
        folder = whole.folder if not n else f"{whole.folder}-gradient-{'-'.join(step.gives).lower()}"
        about = None if n else whole.about
        found.append((gives, replace(whole, problem=step.problem, title=title, folder=folder, about=about)))
    return found


def each_of(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options once for each combination of sizes that lists and ranges stand for.

    Raises Usage for more than SEVERAL.
    """
    given = {n: v for n, v in vars(options).items() if n.startswith("of_") and isinstance(v, tuple)}
    count = prod(map(len, given.values()))
    if count > SEVERAL:
        raise Usage(f"a set has at most {SEVERAL} points, but {_flags(_plain(given))} make {count:,}")
    combined = (dict(zip(given, values, strict=True)) for values in product(*given.values()))
    return [argparse.Namespace(**(vars(options) | chosen)) for chosen in combined]


def _plain(names: Mapping[str, object]) -> dict[str, object]:
    return {n.removeprefix("of_"): v for n, v in names.items()}


def _flags(names: Mapping[str, object]) -> str:
    return ", ".join(map(flag_of, names))


def _with_parameters(problem: Problem, given: Mapping[str, float]) -> Problem:
    if unknown := sorted(set(given) - set(problem.params)):
        raise Usage(f"--params must name one of {sorted(problem.params)}, but got {', '.join(unknown)}")
    return replace(problem, params=problem.params | dict(given))


def _of_file(path: Path, sizes: Mapping[str, int], given: Mapping[str, float], dtype: str) -> Posed:
    from eintune.host.printable import printable
    from eintune.kernels.generate import generate
    from eintune.space.operators.formats import as_cascade, read_computation
    from eintune.space.workloads.workload import Posed

    from .files import read_text

    if not path.is_file():
        raise Usage(f"--cascade must be a file, but got {str(path)!r}")
    name = "".join(c if c.isalnum() else "-" for c in path.stem)
    with as_usage():
        cascade = as_cascade(read_computation(read_text(path)))
        problem = generate.problem_of(cascade, sizes, given, dtype, name)
    spelt = ", ".join(f"{r} {n}" for r, n in problem.sizes.items())
    folder = "-".join([name, *(f"{r}{n}" for r, n in problem.sizes.items()), dtype])
    return Posed(problem, f"{printable(path.name)}: {spelt}, {dtype}", folder)


def problem_of(options: argparse.Namespace, dtype: str) -> Problem:
    """The problem that the options state; `dtype` is the default."""
    return posed_of(options, dtype).problem


def emitter_of(problem: Problem, kind: str) -> str:
    """The emitter for a machine's kind ("gpu", "cpu"). Raises Usage for a dtype that it has no kernels in."""
    if kind == "cpu":
        return "torch"
    if kind == "cores":
        raise Usage("no kernels are emitted for a machine of cores; `tune --plan-only` ranks plans for it")
    if "fp64" in problem.dtypes.values():
        raise Usage("--dtype must be one of bf16, fp16, fp32 on a GPU, but got fp64 (--device cpu has it)")
    return "triton"
