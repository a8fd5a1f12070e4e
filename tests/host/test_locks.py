"""Locks lie where nobody else can put a FIFO or a link in their place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eintune.host.locks import lock_name, open_lock


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "runtime").mkdir(mode=0o700)
    (tmp_path / "tmp").mkdir()
    return tmp_path / "runtime" / "eintune"


def test_a_lock_is_made_for_the_user_alone(runtime: Path) -> None:
    handle = open_lock("a.lock")
    assert handle is not None
    os.close(handle)
    assert runtime.stat().st_mode & 0o777 == 0o700 and (runtime / "a.lock").stat().st_mode & 0o777 == 0o600


def test_a_folder_of_others_is_not_used(runtime: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    runtime.symlink_to(elsewhere)
    second = tmp_path / "tmp" / f"eintune-{os.getuid()}"
    second.mkdir()
    second.chmod(0o777)
    assert open_lock("a.lock") is None
    second.chmod(0o700)
    handle = open_lock("a.lock")
    assert handle is not None and not os.listdir(elsewhere) and os.listdir(second) == ["a.lock"]
    os.close(handle)


def test_a_lock_that_is_a_link_or_a_fifo_is_not_used(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    os.mkfifo(runtime / "fifo")
    (runtime / "link").symlink_to("/dev/null")
    for name in ("fifo", "link"):
        handle = open_lock(name)  # the second folder has a file of its own
        assert handle is not None and os.fstat(handle).st_nlink == 1
        assert not os.path.samestat(os.fstat(handle), os.stat(runtime / name))
        os.close(handle)


def test_a_lock_is_named_by_the_place_that_it_guards(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert lock_name("journal", tmp_path / "link") == lock_name("journal", tmp_path / "file")
    assert "/" not in lock_name("device", "../../etc") and lock_name("device", "cpu") != lock_name("device", "cuda:0")
