"""The journal of a study: an append-only file of every trial, safe against `kill -9` and half-written lines."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import optuna
from msgspec import Meta
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState

from eintune.host.data import Count, Message, Name, fault
from eintune.host.files import UnfitFile, read_whole
from eintune.host.locks import lock_name, open_lock
from eintune.host.notices import one_line
from eintune.host.processes import identity, lives
from eintune.search.text.faults import JournalError

MAX_BYTES = 32 * 2**20
MAX_LINES = 100_000
"""A journal above these is refused: it holds a hundred times what a study writes."""
CREATE_STUDY = 0
"""Optuna's code of the operation that every journal begins with."""
OWNER = "owner"
"""The attribute of a trial that says whose it is (`host.processes`)."""


class _Line(msgspec.Struct):
    """The fields of a journal's line that are checked, of any operation: those that Optuna compares or counts with."""

    op_code: Annotated[int, Meta(ge=0, le=99)]
    study_id: Count | None = None
    trial_id: Count | None = None
    state: Annotated[int, Meta(ge=0, le=9)] | None = None
    value: float | None = None
    values: Annotated[list[float], Meta(max_length=8)] | None = None
    param_name: Name | None = None
    param_value_internal: float | None = None
    distribution: Message | None = None
    user_attr: dict[Name, bool | float | Message | None] = msgspec.field(default_factory=dict)
    system_attr: dict[Name, Any] = msgspec.field(default_factory=dict)


class _Constraints(msgspec.Struct, rename={"all": "constraints", "ok": "constraints:ok"}):
    """Of the system's attributes those that a sampler counts with."""

    all: list[float] | None = None
    ok: float | None = None


class FileLock(BaseJournalFileLock):
    """`flock` on a file of the user's own: the kernel releases it when its holder dies, so nothing waits after
    `kill -9`."""

    def __init__(self, path: Path) -> None:
        self._name = lock_name("journal", path)
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        self._descriptor = open_lock(self._name)
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_storage(path: Path) -> tuple[JournalStorage, int]:
    """The journal at `path` (made if missing) and the number of bytes of a half-written line cut off its end.

    Raises JournalError for a file that is not a journal, is damaged before its end, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut = repair(path) if path.exists() else 0
        return JournalStorage(JournalFileBackend(str(path), FileLock(path))), cut
    except OSError as error:
        raise JournalError(_cannot(path, error)) from None
    except JournalError:
        raise
    except Exception as error:  # another library reads what anybody may have written
        raise JournalError(f"journal {path}: not the log of a study ({one_line(error)}); {_advice(path)}") from None


def repair(path: Path) -> int:
    """Check every line and cut a half-written last one off; returns the bytes that were cut.

    Only the last line can be half-written by a process that died, so damage elsewhere is an error.
    """
    try:
        text = read_whole(path, MAX_BYTES)
    except UnfitFile as error:
        raise JournalError(f"journal {path}: {error.strerror}; {_advice(path)}") from None
    # Appending is not atomic: what follows the last newline was being written when its writer died.
    whole = text.rfind(b"\n") + 1
    if (lines := text.count(b"\n")) > MAX_LINES:
        raise JournalError(f"journal {path}: must have at most {MAX_LINES} lines, but has {lines}; {_advice(path)}")
    for number, line in enumerate(text[:whole].split(b"\n")[:-1], start=1):
        try:
            entry = msgspec.convert(json.loads(line), _Line)
            msgspec.convert(entry.system_attr, _Constraints)
        except (ValueError, RecursionError, OverflowError) as error:
            raise JournalError(f"journal {path}: line {number} is damaged ({fault(error)}); {_advice(path)}") from None
        if number == 1 and entry.op_code != CREATE_STUDY:
            raise JournalError(
                f"journal {path}: must begin with a study, but its beginning is cut off; {_advice(path)}"
            )
    if whole < len(text):
        # Cut off, not left: the next record would be appended to the half line and damage both.
        os.truncate(path, whole)
    return len(text) - whole


def reap(study: optuna.Study) -> int:
    """Close the trials that a dead process left open, so that their candidates are free again; how many.

    A trial belongs to the process that asked for it while that lives. One of another host's is left alone too: whether
    it lives cannot be known from here, and an open trial keeps nobody from measuring its candidate.
    """
    stale = [t for t in _open(study) if _is_abandoned(t.user_attrs.get(OWNER))]
    for trial in stale:
        study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
    return len(stale)


def forget(path: Path) -> None:
    """Remove a journal. Raises JournalError where another process that lives has a trial open in it."""
    if not path.exists():
        return
    try:
        storage, _ = open_storage(path)
        names = optuna.get_all_study_names(storage)
        running = [t for n in names for t in _open(optuna.load_study(study_name=n, storage=storage))]
    except Exception:
        running = []  # damaged: nobody goes on with it
    owners = {str(t.user_attrs.get(OWNER, "")) for t in running} - {identity()}
    if any(lives(owner) for owner in owners):
        raise JournalError(f"journal {path}: another process is writing it; wait for it, or give another --cache")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise JournalError(_cannot(path, error)) from None


def _open(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))


def _is_abandoned(owner: object) -> bool:
    return not isinstance(owner, str) or lives(owner) is False


def _advice(path: Path) -> str:
    return f"remove it to start the search again (rm {path}), or give another --cache"


def _cannot(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"journal {path}: no space left on the device; free some, or give another --cache"
    return f"journal {path}: {error.strerror or error}; give a --cache that can be read and written"
