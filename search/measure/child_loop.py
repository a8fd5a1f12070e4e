"""The child's side of `child`: tasks from a socket, an answer to each, until the socket closes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from eintune.host.child_process import end_with_parent

from .tasks import Answer, At

Answering: TypeAlias = Callable[[Any], Answer]


def answer_tasks(arguments: Sequence[str], made: Callable[[Callable[[At], None]], Answering]) -> int:
    """Answer what comes from the socket whose number is the first argument; the exit code.

    made: from what sends a progress note, what answers a task.
    """
    end_with_parent()
    pipe: Connection[Any, Any] = Connection(int(arguments[0]))
    answer = made(pipe.send)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return 0
        pipe.send(answer(task))
