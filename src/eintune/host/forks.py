"""Forks while a thread imports: in the child a module that was half imported stays so, and is waited for.

Much here is imported when it is first needed, so that a thread of a program may import without anybody having written
so; a child that was forked meanwhile would hang at its own first call. So a fork waits for such an import to end, and a
child begins anew what another thread began just then.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self, TypeVar, overload

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that a fork waits at most."""

_importing: set[int] = set()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """In between, whatever this thread imports is waited for by a fork, of whatever package it is."""
    here = threading.get_ident()
    if here in _importing:
        yield
        return
    _importing.add(here)
    try:
        yield
    finally:
        _importing.discard(here)


def imports_elsewhere() -> bool:
    """Whether another thread is importing a module of this package, or is `importing` another one.

    Python has no other way to tell than the locks of its modules; without them nothing is waited for.
    """
    bootstrap: Any = sys.modules.get("_frozen_importlib")
    for name, held in list(getattr(bootstrap, "_module_locks", {}).items()):
        owner = getattr(held(), "owner", None)
        ours = owner in _importing or name.partition(".")[0] == "eintune"
        if ours and owner not in (None, threading.get_ident()):
            return True
    return False


def _wait() -> None:
    end = time.monotonic() + PATIENCE
    while imports_elsewhere() and time.monotonic() < end:
        time.sleep(0.002)


def _in_child() -> None:
    """The other threads are not there: what one of them began to import between the last look and the fork is imported
    anew, as nobody will end it."""
    here = threading.get_ident()
    _importing.intersection_update([here])
    locks = getattr(sys.modules.get("_frozen_importlib"), "_module_locks", {})
    for name, held in list(locks.items()):
        if getattr(held(), "owner", None) in (None, here):
            continue
        locks.pop(name, None)
        if getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
            sys.modules.pop(name, None)


class cached_property(functools.cached_property[T]):
    """`functools.cached_property` without the lock that Python 3.11 takes while a value is made, one for all instances:
    in a child of a fork meanwhile it would be taken for ever. Two threads may make a value twice."""

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...
    def __get__(self, instance: object, owner: type[Any] | None = None) -> Self | T:
        if instance is None:
            return self
        assert self.attrname is not None
        made = self.func(instance)
        instance.__dict__[self.attrname] = made
        return made


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait, after_in_child=_in_child)
