"""What docs/gradients.md shows is what happens."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "gradients.md"


def test_the_page() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried and not failed


def test_its_program_runs() -> None:
    for block in re.findall(r"```python\n(import.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, {})


def test_what_it_names_is_there() -> None:
    root = PAGE.parents[1]
    for path in re.findall(r"`((?:space|tests)/[\w/.]+\.py)`", PAGE.read_text()):
        assert (root / path).is_file(), path
