"""Functions of the user's that an option names: FILE.py:NAME."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any


def function_in(text: str) -> Callable[..., Any]:
    """The function of this name in a Python file, which is run. Raises ArgumentTypeError where there is none."""
    path, colon, name = text.rpartition(":")
    if not colon or not path.endswith(".py") or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"must be a Python file and a function's name, FILE.py:NAME, but got {text!r}")
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{path} is no file")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does
        raise argparse.ArgumentTypeError(f"{path} cannot be run: {type(error).__name__}: {error}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise argparse.ArgumentTypeError(f"{path} has no function {name}")
    return function  # type: ignore[no-any-return]
