"""Whether a program is served by other people's kernels, where they were measured to be faster.

`fastest` calls them, `own` never does. Set for the process by `eintune.configure`, else by `$EINTUNE_POLICY`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

from eintune.host.printable import printable

Policy: TypeAlias = Literal["fastest", "own"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
VARIABLE = "EINTUNE_POLICY"
DEFAULT: Policy = "fastest"


class _State:
    """chosen: by `configure`. replaced: how often PyTorch's functions are. tables: what forgets when this changes."""

    def __init__(self) -> None:
        self.chosen: Policy | None = None
        self.replaced = 0
        self.tables: list[Callable[[], None]] = []


_state = _State()


class Configured:
    """What `configure` gives: as a context manager it ends with its block, and what was set before is again."""

    def __init__(self, before: Policy | None) -> None:
        self._before = before

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _choose(self._before)


def configure(*, policy: Policy | None) -> Configured:
    """Set how this process is served, from now on, or with `with eintune.configure(…):` in the block.

    policy: "fastest" calls a library's kernel where the records of this machine say that it is faster beyond the noise;
    "own" never does; None leaves it to `$EINTUNE_POLICY` ("fastest" where that is unset or empty). Raises ValueError
    for anything else. It is one setting for all threads, and holds for calls that were served before, too.
    """
    before = _state.chosen
    _choose(None if policy is None else _checked("policy", policy))
    return Configured(before)


def policy() -> Policy:
    """The policy of this process. Raises ValueError for a variable that names none."""
    if _state.chosen is not None:
        return _state.chosen
    named = os.environ.get(VARIABLE, "")
    return _checked(VARIABLE, named) if named else DEFAULT


def calls_libraries() -> bool:
    """Whether libraries may be called now. Raises ValueError as `policy` does."""
    return policy() == "fastest" and not _state.replaced


def still_calls_libraries() -> bool:
    """As `calls_libraries`, for what was decided before by that: all that may have changed since is the process's."""
    return _state.chosen != "own" and not _state.replaced


def forgets(clear: Callable[[], None]) -> None:
    """Have what remembers how calls are served forget it whenever they may be served otherwise."""
    _state.tables.append(clear)


def replace_libraries(more: int) -> None:
    """Count how often PyTorch's own functions run Eintune's kernels (1), or do so no longer (-1): to call them
    meanwhile would be to call what serves them."""
    _state.replaced += more
    _forget()


def _choose(chosen: Policy | None) -> None:
    _state.chosen = chosen
    _forget()


def _forget() -> None:
    for clear in _state.tables:
        clear()


def _checked(name: str, given: Any) -> Policy:
    for known in POLICIES:
        if isinstance(given, str) and given == known:
            return known
    got = repr(given)[:80] if isinstance(given, str) else type(given).__name__
    raise ValueError(f"`{name}` must be one of {', '.join(POLICIES)}, but got {printable(got)}")
