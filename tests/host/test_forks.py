"""What a fork waits for; that its children then go on is in `tests/kernels/serve/test_long_lives.py`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

from eintune.host.forks import importing, imports_elsewhere


class Slow:
    """A finder under which two imports last until they are told to end."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name in ("eintune.nothing_of_that_name", "nothing_of_that_name"):
            self.begun.set()
            self.go_on.wait(30)


@pytest.fixture
def slow() -> Iterator[Slow]:
    finder = Slow()
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    yield finder
    finder.go_on.set()
    sys.meta_path.remove(finder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "marked", "waits"),
    [
        ("eintune.nothing_of_that_name", False, True),
        ("nothing_of_that_name", True, True),
        ("nothing_of_that_name", False, False),
    ],
)
def test_a_fork_waits_for_imports_of_ours(slow: Slow, name: str, marked: bool, waits: bool) -> None:
    def run() -> None:
        try:
            if marked:
                with importing(), importing():
                    __import__(name)
            __import__(name)
        except ImportError:
            pass

    assert not imports_elsewhere()
    thread = threading.Thread(target=run)
    thread.start()
    assert slow.begun.wait(30)
    assert imports_elsewhere() == waits
    slow.go_on.set()
    thread.join()
    assert not imports_elsewhere()
