"""Tables as CSV files. Labels and messages come from records and results of others, so cells are quoted."""

from __future__ import annotations

import pandas as pd
from pandas.api.types import is_numeric_dtype

from eintune.host.quoting import csv


def csv_bytes(frame: pd.DataFrame, float_format: str | None = None) -> bytes:
    """A table as a file: a header, then a line a row; no cell is a formula."""
    texts = [name for name in frame.columns if not is_numeric_dtype(frame[name])]
    safe = frame.assign(**{name: frame[name].map(csv) for name in texts})
    text: str = safe.to_csv(index=False, float_format=float_format)
    return text.encode()
