"""Compiled kernels are found beside their list, wherever that was moved, and only as they were."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from triton import knobs

from eintune.kernels.launch.compiled_cache import triton_cache, triton_variables
from eintune.kernels.launch.kernel_files import KernelFiles

FILES = {"kernel.json": "{}", "kernel.cubin": b"\x7fELF", "kernel.ptx": ".version 8.7"}


def kept(folder: Path) -> KernelFiles:
    with triton_cache(folder):
        files = KernelFiles("KEY")
        files.put_group("kernel.json", {name: files.put(text, name) for name, text in FILES.items()})
    return files


def test_a_folder_that_was_moved_is_found_where_it_is(tmp_path: Path) -> None:
    kept(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    (tmp_path / "old" / "KEY" / "kernel.cubin").write_bytes(b"somebody else's")
    with triton_cache(tmp_path / "new"):
        found = KernelFiles("KEY").get_group("kernel.json")
    assert found == {name: str(tmp_path / "new" / "KEY" / name) for name in FILES}


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "kernel.cubin").write_bytes(b""),
        lambda folder: (folder / "kernel.json").write_text("[]"),
        lambda folder: (folder / "kernel.ptx").unlink(),
        lambda folder: [(folder / "kernel.ptx").unlink(), os.mkfifo(folder / "kernel.ptx")],
        lambda folder: (folder / "__grp__kernel.json").write_text('{"digests": {"ker'),
        lambda folder: (folder / "__grp__kernel.json").write_text(json.dumps({"child_paths": {"a": "/etc/passwd"}})),
        lambda folder: (folder / "__grp__kernel.json").write_text(json.dumps({"digests": {"../../x": "0" * 64}})),
    ],
)
def test_what_is_not_as_it_was_is_compiled_again(damage: Callable[[Path], object], tmp_path: Path) -> None:
    files = kept(tmp_path)
    assert files.get_group("kernel.json") is not None and files.get_group("other.json") is None
    damage(tmp_path / "KEY")
    assert files.get_group("kernel.json") is None


def test_other_processes_keep_them_alike_and_other_peoples_kernels_are_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in triton_variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert knobs.cache.manager_class is KernelFiles and knobs.cache.dir == str(tmp_path)
    monkeypatch.undo()
    with triton_cache(None):
        assert knobs.cache.manager_class is None
