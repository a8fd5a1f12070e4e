"""The page names the operators as they are."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operators.md"


def test_the_schemas_of_the_page_are_those_of_the_operators() -> None:
    import torch

    import eintune.operators  # noqa: F401

    for name in ("attention", "varlen_attention", "paged_attention", "cascade"):
        assert str(getattr(torch.ops.eintune, name).default._schema) in PAGE.read_text()
