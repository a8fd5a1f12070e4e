"""Arguments of a function that is not traced now: they note what is done with them, and tracing does it later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Deferred(ABC):
    """What the functions of `functions` and PyTorch's of the same names are given in place of a traced value."""

    @abstractmethod
    def deferred(self, name: str, args: tuple[Any, ...], bounds: Mapping[str, Any]) -> Any:
        """What stands for the result of a function of this name."""
