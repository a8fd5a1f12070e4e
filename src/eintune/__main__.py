"""Where the commands start: `eintune`, `tune` and `python -m eintune`.

Ctrl-C is one line and exit code 130 from here on, so nothing is imported before it is.
"""

from __future__ import annotations

import sys


def main() -> int:
    """`eintune`, with the process's arguments; the exit code."""
    return _guarded("main")


def tune() -> int:
    """`tune`, the same as `eintune tune`."""
    return _guarded("tune_main")


def _guarded(entry: str) -> int:
    try:
        from eintune.search.text import interrupts

        interrupts.watch()
        from eintune.search.cli import main as cli

        code: int = getattr(cli, entry)()
        interrupts.is_over()
        return code
    except KeyboardInterrupt:
        return _interrupted(entry)
    except Exception:
        # an extension module that a Ctrl-C arrives in while it is imported ends with an error of its own
        if "eintune.search.text.interrupts" in sys.modules and interrupts.was_interrupted():
            return _interrupted(entry)
        raise


def _interrupted(entry: str) -> int:
    from eintune.search.text import interrupts, streams

    interrupts.is_over()
    streams.say(f"{'tune' if entry == 'tune_main' else 'eintune'}: interrupted", sys.stderr)
    return interrupts.CODE


if __name__ == "__main__":
    sys.exit(main())
