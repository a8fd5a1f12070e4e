"""The shipped forms are what deriving gives today, and reading them needs no e-graph."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eintune.kernels.store.shipped_forms import FOLDER, derived_texts, read_sections, sections
from eintune.space.cascade.cascade import Cascade
from eintune.space.workloads.builtin import SHIPPED, softmax


@pytest.mark.parametrize("name", SHIPPED)
def test_deriving_again_gives_what_ships(name: str) -> None:
    shipped = (FOLDER / f"{name}.edge").read_text("utf-8")
    assert sections(SHIPPED[name]) == shipped, "run `python -m eintune.kernels.store.shipped_forms` and look"


def test_every_definition_has_its_forms() -> None:
    assert {p.stem for p in FOLDER.glob("*.edge")} == set(SHIPPED)
    for definition in SHIPPED.values():
        forms = [Cascade.parse(t) for t in derived_texts(str(definition))]
        assert len(forms) >= 5
        assert definition in forms
        assert all(set(c.outputs) == set(definition.outputs) for c in forms)
    assert derived_texts(str(softmax())) == ()


def test_reading_imports_no_engine() -> None:
    code = (
        "import sys; from eintune.kernels.store.shipped_forms import derived_texts; "
        "from eintune.space.workloads.builtin import SHIPPED;"
        "assert derived_texts(str(SHIPPED['attention']));"
        "print(sorted({'egglog', 'pulp', 'optuna', 'pandas', 'seaborn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_without_sections_is_refused() -> None:
    with pytest.raises(ValueError, match="must have sections that start with '== ', but has none"):
        read_sections("Yp = Xp\n")
