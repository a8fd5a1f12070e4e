"""A child process that ends with its parent."""

from __future__ import annotations

import os
import threading
import time


def end_with_parent(every: float = 1.0) -> None:
    """From now on look, `every` so many seconds, whether the parent is still there, and end where it is not: also
    while something hangs, and where the parent was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
