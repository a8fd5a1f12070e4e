"""Plain data for JSON."""

from __future__ import annotations

import math
from typing import Any


def finite(data: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    match data:
        case dict():
            return {str(k): finite(v) for k, v in data.items()}
        case list() | tuple():
            return [finite(v) for v in data]
        case float() if not math.isfinite(data):
            return None
        case _:
            return data
