"""The command line: `eintune COMMAND …`, and `tune …`, which is `eintune tune …`.

Results go to stdout, progress and errors to stderr; that nobody reads them changes neither what is done nor the exit
code. Exit codes: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C. Each command imports what it needs when it
runs, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from eintune.host.printable import printable
from eintune.host.quoting import shell
from eintune.kernels.libraries.policy import configure
from eintune.search.caches.command import CACHE
from eintune.search.options.command import Command, Failure, Parser, Usage, add_version
from eintune.search.options.documents import words_aside
from eintune.search.options.problem import show_options_of
from eintune.search.sets.warm_command import WARM
from eintune.search.text import interrupts, progress, streams

from .bench import BENCH
from .completion import COMPLETION
from .definitions import DEFINITIONS
from .doctor import DOCTOR
from .graph import GRAPH, PASSES
from .growth import GROWTH
from .judge import JUDGE
from .kernel import KERNEL, PLAN
from .record import RECORD
from .report import REPLAY, REPORT
from .space import SPACE
from .tiles import TILES
from .tune import TUNE

COMMANDS: tuple[Command, ...] = (
    *(TUNE, BENCH, SPACE, PASSES, GRAPH, TILES, PLAN, KERNEL),
    *(REPORT, REPLAY, RECORD, JUDGE, GROWTH, DEFINITIONS, CACHE, WARM, DOCTOR, COMPLETION),
)
OVERVIEW = """\
examples:
  eintune tune --seq 2048 --heads 32           find the fastest kernel and keep it
  eintune tune --seq 2048 --heads 32 --plan-only --machine h200
  eintune bench --heads 32 --causal            our kernels beside everybody else's, checked and timed
  eintune space attention                      the cascades that general laws derive
  eintune kernel --seq 2048 --heads 32 > k.py  a file that checks itself
  eintune doctor                               what works on this machine
`eintune COMMAND --help` has the options and more examples.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """`eintune`."""
    given = sys.argv[1:] if arguments is None else arguments
    return _run(_parser(given), given)


def whole_parser() -> Parser:
    """The parser of all commands with all their options."""
    return _parser([command.name for command in COMMANDS])


def _parser(names: Sequence[str]) -> Parser:
    """The parser of all commands, with the options of those that are named: those of all take a moment to make."""
    parser = Parser(
        prog="eintune",
        description="Finds the fastest kernel for an attention-like computation, derived from its naive definition.",
        epilog=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for command in COMMANDS:
        made = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if command.name in names:
            command.configure(made)
            _help_on(made, names)
    return parser


def _help_on(parser: Parser, words: Sequence[str]) -> None:
    """Where help is asked for, it is on the workload that is named."""
    if {"-h", "--help"} & set(words):
        show_options_of(parser, words)


def tune_main(arguments: Sequence[str] | None = None) -> int:
    """`tune`: the same as `eintune tune`."""
    parser = Parser(
        prog="tune",
        description=TUNE.description,
        epilog=TUNE.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    TUNE.configure(parser)
    given = sys.argv[1:] if arguments is None else arguments
    _help_on(parser, given)
    return _run(parser, given)


def _run(parser: Parser, arguments: Sequence[str]) -> int:
    _collect_rarely()
    streams.ready()
    ended: SystemExit | None = None
    try:
        code = _code(parser, arguments)
    except SystemExit as error:  # --help and the like
        ended, code = error, 0
    finally:
        progress.end_all()
    lost = streams.settle()
    # that whoever read our output has gone (`| head`) is no fault
    if lost is not None and not isinstance(lost, BrokenPipeError) and not code:
        return _complain(parser, lost.strerror or str(lost), 1)
    if ended is not None:
        raise ended
    return code


def _code(parser: Parser, arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; the exit code. What ended it is said in one line."""
    try:
        options = parser.parse_args(arguments)
        options.whole_parser = whole_parser
        options.command_line = shell([parser.prog, *arguments])
        command: Command = options.chosen
        with words_aside(options), _kernels_of(command):
            return command.run(options)
    except Usage as error:
        return _complain(parser, str(error), 2)
    except Failure as error:
        return _complain(parser, str(error), 1)
    except BrokenPipeError:
        streams.abandon(sys.stdout)
        return 0
    except OSError as error:
        return _complain(parser, error.strerror or str(error), 1)
    except KeyboardInterrupt:
        return _interrupted(parser, arguments)
    except Exception:
        if not interrupts.was_interrupted():  # in an extension module, which made an error of its own of it
            raise
        return _interrupted(parser, arguments)


def _kernels_of(command: Command) -> AbstractContextManager[None]:
    """What a command that times kernels calls ours is never a library's."""
    return configure(policy="own") if command in (TUNE, BENCH, RECORD) else nullcontext()


def _interrupted(parser: Parser, arguments: Sequence[str]) -> int:
    searches = parser.prog == TUNE.name or TUNE.name in arguments[:1]
    kept = "; what was measured is kept in the journal" if searches else ""
    streams.say(f"{parser.prog}: interrupted{kept}", sys.stderr)
    return interrupts.CODE


def _collect_rarely() -> None:
    """A command loads much and frees little: looking for garbage in all of it is a fifth of the time that modules take
    to load, and at the end takes half a second to find what the system takes back anyway."""
    gc.set_threshold(50_000, 20, 50)
    atexit.register(gc.freeze)


def _complain(parser: Parser, message: str, code: int) -> int:
    streams.say(f"{parser.prog}: error: {printable(' '.join(message.split()))}", sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
