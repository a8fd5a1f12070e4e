"""Files of strangers are read within bounds, and files for others are whole or absent."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from eintune.host import files
from eintune.host.files import UnfitFile, names_in, read_utf8, read_whole, remove_leftovers, write_named, write_whole


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name, words in (
            (tmp_path / "fifo", "is a FIFO"),
            (tmp_path / "socket", "socket"),
            (tmp_path, "is a directory"),
            (Path("/dev/zero"), "is a device"),
            (Path("with\0zero"), "null"),
        ):
            with pytest.raises(UnfitFile, match=words):
                read_whole(name, 100)
    with pytest.raises(OSError) as caught:
        read_whole(loop, 100)
    assert caught.value.errno == errno.ELOOP


def test_the_limit_is_the_last_byte_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert len(read_whole(path, 100)) == 100 and read_whole(Path("/proc/self/stat"), 10_000)
    for place, limit in ((path, 99), (Path("/proc/self/stat"), 9)):  # the latter says that it is empty
        with pytest.raises(UnfitFile, match=f"at most {limit} bytes"):
            read_whole(place, limit)
    path.write_bytes(b"\xff")
    with pytest.raises(UnfitFile, match="UTF-8"):
        read_utf8(path, 9)


def test_a_file_is_replaced_in_one_step_and_the_umask_decides(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    before = os.umask(0o027)
    try:
        write_whole(path, b"one")
        write_whole(path, b"two")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["b"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "record"
    write_whole(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, step, full)
        with pytest.raises(OSError, match="No space"):
            write_whole(path, b"new")
    assert os.listdir(tmp_path) == ["record"] and path.read_bytes() == b"old"


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (write_whole, write_named):
        with pytest.raises(OSError) as error:
            write(tmp_path / "file" / "made", b"data")
        assert error.value.filename == str(tmp_path / "file" / "made")
    if Path("/dev/full").exists():
        with pytest.raises(OSError) as error:
            write_named(Path("/dev/full"), b"data")
        assert error.value.filename == "/dev/full"


def test_what_a_user_names_may_be_a_pipe_or_a_link(tmp_path: Path) -> None:
    real, link, null = tmp_path / "real", tmp_path / "link", tmp_path / "null"
    real.write_bytes(b"old")
    link.symlink_to(real)
    write_named(link, b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"
    null.symlink_to("/dev/null")
    write_named(null, b"gone")
    assert null.is_symlink() and Path("/dev/null").is_char_device()


def test_what_was_left_half_written_is_no_file_and_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".eintune-0123.tmp").touch()
    (tmp_path / "b.json").touch()
    (tmp_path / "a.json").touch()
    assert names_in(tmp_path, ".json", 9) == ["a.json", "b.json"] and names_in(tmp_path, ".json", 1) == ["a.json"]
    assert names_in(tmp_path / "none", ".json", 9) == [] == names_in(tmp_path / "a.json", ".json", 9)
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]


def test_a_half_that_is_taken_for_a_leftover_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process clears the folder while this one writes."""
    replace, cleared = os.replace, 0

    def clearing(source: Path, target: Path) -> None:
        nonlocal cleared
        if cleared < files.ATTEMPTS - 1:
            cleared += 1
            remove_leftovers(tmp_path)
        replace(source, target)

    monkeypatch.setattr(os, "replace", clearing)
    write_whole(tmp_path / "a.json", b"whole")
    assert (tmp_path / "a.json").read_bytes() == b"whole" and os.listdir(tmp_path) == ["a.json"]
    assert cleared == files.ATTEMPTS - 1
    cleared = -files.ATTEMPTS
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "b.json", b"whole")
    assert os.listdir(tmp_path) == ["a.json"]
