"""The repository's shape: the layers import one way, the packages are all listed, nothing names a workload."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["space", "costmodel", "kernels", "search"]
HOST = ROOT / "src" / "eintune" / "host"
"""Below all layers: every one may import it, and it imports none."""
HEAVY = {"egglog", "optuna", "pulp", "pandas", "seaborn", "matplotlib", "highspy"}
# Only these may know which computations exist.
FRONTS = {
    "space/workloads.py",
    "kernels/runtime.py",
    "kernels/derived.py",
    "search/cli.py",
}
GENERIC = re.compile(r"attention|softmax|flash|causal|alibi|softcap|sliding|layer_?norm|rms_?norm", re.IGNORECASE)
GENERIC_FILES = [
    "space/laws.py",
    "space/egraph.py",
    "space/extract.py",
    "space/pruning.py",
    "space/work.py",
    "space/vanishing.py",
    "space/safety.py",
    "space/canonical.py",
    "space/lowering*.py",
    "space/plan*.py",
    "space/schedule*.py",
    "space/masks.py",
    "space/intervals.py",
    "space/contraction.py",
    "costmodel/*.py",
    "kernels/*emitter*.py",
    "kernels/printer.py",
    "space/builder.py",
    "space/descriptors.py",
    "space/egglog_text.py",
    "space/empties.py",
    "space/layout.py",
    "space/loops.py",
    "space/normal_form.py",
    "space/rank_order.py",
    "space/rank_uses.py",
    "space/roots.py",
    "space/saturate.py",
    "space/tile_folds.py",
    "space/traits.py",
    "space/views.py",
    "kernels/bound_text.py",
    "kernels/storage.py",
    "kernels/descriptors.py",
    "kernels/launch.py",
    "kernels/offline.py",
]


def modules(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def imported_layers(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level >= 2 and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eintune."):
            yield (node.module or "").split(".")[1]


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_import_downwards_only(layer: str) -> None:
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    for path in modules(layer):
        wrong = set(imported_layers(path)) & set(LAYERS) - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports from {sorted(wrong)}; it may import {sorted(allowed)}"


def test_the_host_imports_no_layer() -> None:
    for path in HOST.glob("*.py"):
        assert not list(imported_layers(path)), path.name


def test_every_folder_with_modules_is_a_listed_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {"eintune.host": "src/eintune/host", **settings["package-dir"]}
    listed = {folders[name] for name in settings["packages"]}
    found = {"src/eintune", "src/eintune/host"} | {
        str(path.parent.relative_to(ROOT)) for layer in LAYERS for path in modules(layer) if "golden" not in path.parts
    }
    assert found == listed


def test_the_front_package_links_every_layer() -> None:
    for layer in LAYERS:
        link = ROOT / "src" / "eintune" / layer
        assert link.is_symlink()
        assert link.resolve() == ROOT / layer


def names_and_strings(path: Path) -> Iterator[tuple[int, str]]:
    """Identifiers and string constants that are not docstrings."""
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


@pytest.mark.parametrize("pattern", GENERIC_FILES)
def test_generic_code_names_no_workload(pattern: str) -> None:
    paths = list(ROOT.glob(pattern))
    assert paths, f"{pattern} matches no file"
    for path in paths:
        for line, text in names_and_strings(path):
            assert not GENERIC.search(text), f"{path.relative_to(ROOT)}:{line} names a workload: {text!r}"


def test_the_front_imports_nothing_heavy() -> None:
    code = (
        "import sys, eintune; eintune.attention; eintune.Cascade\n"
        f"heavy = {sorted(HEAVY)!r}\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
