"""The repository's shape: imports run one way, folders can be read in one sitting, nothing generic names a workload."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from eintune.space.egraph.graph import Limits
from eintune.space.plan.roles import Role
from eintune.space.schedule.schedule import Schedule

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("host", "space", "costmodel", "kernels", "search")
FOLDER = {"host": ROOT / "src" / "eintune" / "host"} | {layer: ROOT / layer for layer in LAYERS[1:]}
MAY_IMPORT = tomllib.loads((ROOT / "tests" / "layers.toml").read_text())
"""{layer: {subpackage: those of the same layer that it may import}}"""
MOST_MODULES, MOST_LINES = 15, 500
HEAVY = {"egglog", "optuna", "pulp", "pandas", "seaborn", "matplotlib", "highspy", "scipy"}


def modules() -> dict[str, Path]:
    """Every module by its dotted name below eintune: "kernels.emit.printer"."""
    return {
        ".".join((layer, *path.relative_to(folder).with_suffix("").parts)): path
        for layer, folder in FOLDER.items()
        for path in sorted(folder.rglob("*.py"))
        if path.name != "__init__.py"
    }


def imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules that one imports: at its top, inside functions and for types alike."""
    package = name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(level=0, module=str() as module) if module.startswith("eintune."):
                base = module.split(".")[1:]
            case ast.ImportFrom(level=level) if level:
                base = package[: len(package) - level + 1] + (node.module.split(".") if node.module else [])
            case _:
                continue
        for alias in node.names:
            targets = (".".join([*base, alias.name]), ".".join(base))
            yield from [target for target in targets if target in known][:1]


def place(name: str) -> tuple[str, str]:
    """Layer and subpackage of a module."""
    layer, *rest = name.split(".")
    return layer, rest[0] if len(rest) > 1 else ""


MODULES = modules()
GRAPH = {name: set(imported(name, path, MODULES)) - {name} for name, path in MODULES.items()}


def wrong_ways(graph: Mapping[str, set[str]]) -> Iterator[str]:
    """Each import that goes upwards, from layer to layer or from subpackage to subpackage."""
    for name, targets in graph.items():
        layer, package = place(name)
        for target in targets:
            there, other = place(target)
            if there != layer:
                if LAYERS.index(there) > LAYERS.index(layer):
                    yield f"{name} imports {target}, which is above it"
            elif other != package and other not in MAY_IMPORT[layer][package]:
                yield f"{name} imports {target}; {layer}.{package} may import {MAY_IMPORT[layer][package]}"


def test_imports_run_one_way() -> None:
    assert list(wrong_ways(GRAPH)) == []


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("host.files", "space.laws.laws"),
        ("space.ir.expr", "space.cascade.cascade"),
        ("costmodel.counts.work", "kernels.emit.printer"),
        ("costmodel.machines.machine", "costmodel.pricing.time"),
    ],
)
def test_one_upward_import_is_found(name: str, target: str) -> None:
    assert list(wrong_ways(GRAPH | {name: {target}}))


def test_no_circle() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the modules of one


def test_a_circle_is_found() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter(GRAPH | {"space.ir.expr": {"space.cascade.cascade"}}).prepare()


def test_the_table_itself_runs_one_way() -> None:
    for layer, table in MAY_IMPORT.items():
        assert set(table) == {place(name)[1] for name in GRAPH if place(name)[0] == layer}
        TopologicalSorter(table).prepare()


def test_the_picture_of_the_house_is_the_table() -> None:
    subprocess.run([sys.executable, "-P", str(ROOT / "docs" / "pictures" / "architecture.py"), "--check"], check=True)


def test_the_house_is_described_by_files_that_are_there() -> None:
    for page in ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md"):
        text = (ROOT / page).read_text()
        for name in re.findall(r"`((?:space|costmodel|kernels|search|tests|docs)/[\w/]+\.(?:py|md|toml))`", text):
            assert (ROOT / name).is_file(), f"{page} names {name}, which is not there"


def test_the_glossary_names_fields_that_are_there() -> None:
    fields = {"Schedule": Schedule, "Role": Role, "Limits": Limits}
    named = re.findall(r"`(Schedule|Role|Limits)\.(\w+)`", (ROOT / "docs" / "glossary.md").read_text())
    assert len(named) > 5
    for owner, name in named:
        assert name in {f.name for f in dataclasses.fields(fields[owner])}, f"{owner} has no field {name}"


def test_a_folder_can_be_read_in_one_sitting() -> None:
    for where, count in Counter(map(place, GRAPH)).items():
        assert count <= MOST_MODULES, f"{'.'.join(where)} has {count} modules, at most {MOST_MODULES} are read at once"
    for name, path in MODULES.items():
        lines = len(path.read_text().splitlines())
        assert lines <= MOST_LINES, f"{name} has {lines} lines, at most {MOST_LINES}"


def test_every_folder_with_modules_is_a_listed_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {"eintune", *(f"eintune.{layer}" for layer in LAYERS)}
    found |= {f"eintune.{layer}.{package}" for layer, package in map(place, GRAPH) if package}
    found.add("eintune.integrations")  # names under which programs find what is in kernels/seams
    assert sorted(settings["packages"]) == sorted(found)
    for path in MODULES.values():
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} has modules and no __init__.py"


def test_the_front_package_links_every_layer() -> None:
    for layer in LAYERS[1:]:
        link = ROOT / "src" / "eintune" / layer
        assert link.is_symlink()
        assert link.resolve() == ROOT / layer


# Only these may know which computations exist.
FRONTS = (
    "space.workloads", "space.tile_ir.text", "kernels.seams", "kernels.serve", "kernels.packed",
    "kernels.libraries.attention",
    "kernels.operators.attention", "kernels.operators.attention_gradients", "kernels.operators.packed",
    "kernels.operators.packed_gradients", "kernels.operators.programs", "kernels.operators.served",
    "kernels.store.shipped_forms", "search.peers", "search.options", "search.bench", "search.cli",
    "search.evaluation.growth", "search.evaluation.definitions", "search.evaluation.exercises", "search.suites.unseen",
)  # fmt: skip
GENERIC = re.compile(r"attention|softmax|flash|causal|alibi|softcap|sliding|layer_?norm|rms_?norm", re.IGNORECASE)


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


GENERIC_MODULES = [name for name in MODULES if not any(name == f or name.startswith(f + ".") for f in FRONTS)]


@pytest.mark.parametrize("name", GENERIC_MODULES)
def test_generic_code_names_no_workload(name: str) -> None:
    for line, text in names_and_strings(MODULES[name]):
        assert not GENERIC.search(text), f"{name}:{line} names a workload: {text!r}"


def test_the_front_imports_nothing_heavy() -> None:
    code = (
        "import sys, eintune; eintune.attention; eintune.Cascade\n"
        f"heavy = {sorted(HEAVY)!r}\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
