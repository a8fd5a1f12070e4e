"""Caches that travel: what goes out comes in whole, and what is wrong is one line that harms nothing else."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import stat
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from eintune.host import notices
from eintune.kernels.serve.choices import choices, make_kernel
from eintune.kernels.store import exchange
from eintune.kernels.store.cache import SHIPPED, Cache, Entry, Key, Record
from eintune.kernels.store.exchange import MANIFEST, BadArchive, contents, merged, packed, take_in
from eintune.kernels.store.kept_forms import FOLDER, Kept, forms_of, is_form, keep, read_kept
from eintune.kernels.store.platform import Platform, platform_of
from eintune.kernels.store.portfolio import (
    MeasuredPoint,
    Portfolio,
    PortfolioKernel,
    load_portfolio,
    portfolio_entries,
    portfolio_key,
    store_portfolio,
)
from eintune.space.cascade.cascade import Cascade
from eintune.space.schedule.space import default_schedule
from eintune.space.workloads.attention import attention_problem

HERE = Platform("Test GPU", 132, "8", "2.13.0", "3.6.0", "cuda13.0")
DEFINITION = "Lp = log(SDp)"


def key(length: int = 64) -> Key:
    problem = attention_problem(batch=1, heads=2, kv_heads=2, seq=length, kv_seq=length, head_dim=16, dtype="bf16")
    return Key.of(problem, HERE)


ANY = next(iter(Cache(Path(os.devnull), SHIPPED, ()).entries())).record


def portfolio(*points: tuple[int, float]) -> Portfolio:
    kernel = PortfolioKernel(ANY.cascade, ANY.schedule)
    return Portfolio(
        portfolio_key(key()), (kernel,), tuple(MeasuredPoint(key(n).sizes, {0: s}) for n, s in sorted(points))
    )


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache with a record, a portfolio and kept forms."""
    made = Cache(tmp_path / "cache", None, ())
    made.store(key(), ANY)
    store_portfolio(made, portfolio((64, 1e-3), (128, 2e-3)))
    keep(made.directory / FOLDER, DEFINITION, Kept(("Lp = Xp",), True))
    return made


@pytest.fixture
def file(cache: Cache, tmp_path: Path) -> Path:
    path = tmp_path / "mine.zip"
    path.write_bytes(packed(contents(cache.directory).held))
    return path


@pytest.fixture(autouse=True)
def say_everything() -> None:
    notices.forget()


def rewritten(file: Path, change: Callable[[dict[str, bytes]], Mapping[str, bytes] | None]) -> None:
    """The file with other things in it, its manifest as it was unless that is changed."""
    with zipfile.ZipFile(file) as read:
        held = {name: read.read(name) for name in read.namelist()}
    held = dict(change(held) or held)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for name, raw in held.items():
            written.writestr(name, raw)


def listing(held: Mapping[str, bytes]) -> bytes:
    entries = [
        {"path": n, "bytes": len(raw), "sha256": sha256(raw).hexdigest()} for n, raw in held.items() if n != MANIFEST
    ]
    return json.dumps({"format": exchange.FORMAT, "eintune": "0", "entries": entries}).encode()


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_goes_out_comes_in_byte_by_byte(cache: Cache, file: Path, tmp_path: Path) -> None:
    found = contents(file)
    assert not found.refused and [h.kind for h in found.held] == ["derived", "portfolios", "records"]
    other = Cache(tmp_path / "other", None, ())
    taken = take_in(other, found.held)
    assert len(taken.written) == 3 and not taken.kept and not taken.refused
    assert files_below(other.directory) == files_below(cache.directory)
    assert other.load(key()) == ANY and load_portfolio(other, portfolio_key(key())) is not None
    assert read_kept(other.directory / FOLDER, DEFINITION) == Kept(("Lp = Xp",), True)
    again = take_in(other, found.held)
    assert not again.written and len(again.kept) == 3


def test_the_same_cache_makes_the_same_file_and_unpacked_is_a_cache(cache: Cache, file: Path, tmp_path: Path) -> None:
    assert packed(reversed(contents(cache.directory).held)) == file.read_bytes()
    shutil.unpack_archive(file, tmp_path / "unpacked")
    assert contents(tmp_path / "unpacked") == contents(cache.directory)


def test_what_is_yours_stays_unless_it_shall_not(cache: Cache, tmp_path: Path) -> None:
    mine = Cache(tmp_path / "mine", None, ())
    mine.store(key(), replace(ANY, seconds=5.0))
    store_portfolio(mine, portfolio((128, 7e-3), (256, 8e-3)))
    held = contents(cache.directory).held
    taken = take_in(mine, held)
    assert {h.kind for h in taken.written} == {"portfolios", "derived"}
    found, times = mine.load(key()), load_portfolio(mine, portfolio_key(key()))
    assert found is not None and found.seconds == 5.0 and times is not None
    assert [p.seconds[0] for p in times.points] == [1e-3, 7e-3, 8e-3]
    take_in(mine, held, instead=True)
    found, times = mine.load(key()), load_portfolio(mine, portfolio_key(key()))
    assert found == ANY and times is not None and [p.seconds[0] for p in times.points] == [1e-3, 2e-3, 8e-3]


def test_of_several_the_record_that_was_made_last_is_taken(tmp_path: Path) -> None:
    caches = [Cache(tmp_path / str(i), None, ()) for i in range(2)]
    for i, created in enumerate(("2026-05-02T00:30:00+02:00", "2026-05-01T23:00:00+00:00")):  # 22:30 and 23:00
        caches[i].store(key(), replace(ANY, seconds=1.0 + i, created=created))
        store_portfolio(caches[i], portfolio((64, 1.0 + i), (128 + i, 1.0)))
    for order in ((0, 1), (1, 0)):
        record, times = sorted(merged([contents(caches[i].directory) for i in order]).held, key=lambda h: -len(h.kind))[
            ::-1
        ]
        assert record.kind == "records" and record.content == replace(
            ANY, seconds=2.0, created="2026-05-01T23:00:00+00:00"
        )
        assert isinstance(times.content, Portfolio)
        assert [p.seconds[0] for p in times.content.points] == [1.0 + order[1], 1.0, 1.0]


def _cut(held: dict[str, bytes]) -> None:
    held[record_in(held)] = held[record_in(held)][:-40]


def _edited(held: dict[str, bytes]) -> None:
    held[record_in(held)] = held[record_in(held)].replace(b'"warps"', b'"wasps"')
    held[MANIFEST] = listing(held)


def _missing(held: dict[str, bytes]) -> None:
    del held[record_in(held)]


def _unlisted(held: dict[str, bytes]) -> None:
    held["records/more.json"] = held[record_in(held)]


def _elsewhere(held: dict[str, bytes]) -> None:
    held["../../escaped.json"] = held.pop(record_in(held))
    held[MANIFEST] = listing(held)


def _absolute(held: dict[str, bytes]) -> None:
    held["/tmp/records/escaped.json"] = held.pop(record_in(held))
    held[MANIFEST] = listing(held)


def _large(held: dict[str, bytes]) -> None:
    held[record_in(held)] = b" " * (2**20)
    held[MANIFEST] = listing(held)


def record_in(held: Mapping[str, bytes]) -> str:
    return next(n for n in held if n.startswith("records/"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_cut, "has another digest than the manifest says"),
        (_edited, "wasps"),
        (_missing, "is in the manifest, but not in the file"),
        (_unlisted, "records/more.json: is not in the manifest"),
        (_elsewhere, "../../escaped.json: must be a .json file in one of records, portfolios, derived"),
        (_absolute, "/tmp/records/escaped.json: must be a .json file in one of"),
        (_large, "must be at most 262144 bytes"),
    ],
)
def test_what_is_wrong_is_one_line_and_the_rest_comes_in(
    change: Callable[[dict[str, bytes]], None], says: str, file: Path, tmp_path: Path
) -> None:
    rewritten(file, lambda held: change(held))  # type: ignore[func-returns-value]
    found = contents(file)
    (line,) = found.refused
    assert says in line and "\n" not in line
    assert {"portfolios", "derived"} <= {h.kind for h in found.held}
    take_in(Cache(tmp_path / "a" / "b" / "other", None, ()), found.held)
    assert not list(tmp_path.rglob("*escaped*"))


def test_what_is_no_export_is_refused_whole(file: Path) -> None:
    good = file.read_bytes()
    for raw, says in (
        (b"", "was cut off"),
        (good[:-1], "was cut off"),
        (good + b" ", "was cut off"),
        (b"PK" + good[: len(good) // 2], "was cut off"),
        (good[:-8] + b"\xff" * 6 + good[-2:], "no exported cache"),
    ):
        file.write_bytes(raw)
        with pytest.raises(BadArchive, match=says):
            contents(file)
    with zipfile.ZipFile(file, "w") as empty:
        empty.writestr("a.txt", "")
    with pytest.raises(BadArchive, match=r"has no manifest\.json"):
        contents(file)
    rewritten(file, lambda held: {MANIFEST: b'{"format": 7}'})
    with pytest.raises(BadArchive, match="must be of format 1, but has format '7'"):
        contents(file)


def test_a_file_that_unpacks_to_more_than_it_says_is_not_unpacked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What deflates a thousandfold is read as far as the manifest says, no further."""

    def bomb(held: dict[str, bytes]) -> None:
        held[record_in(held)] = b" " * 50_000_000

    rewritten(file, bomb)  # type: ignore[arg-type]
    read: list[int] = []
    whole = zipfile.ZipExtFile.read

    def counted(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        raw = whole(self, n)
        read.append(len(raw))
        return raw

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    (line,) = contents(file).refused
    assert "must be at most" in line and sum(read) < 200_000


def test_a_link_in_a_file_is_none(file: Path, cache: Cache) -> None:
    (name,) = (h.path for h in contents(file).held if h.kind == "records")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as written:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        written.writestr(info, b"/etc/passwd")
        written.writestr(MANIFEST, listing({name: b"/etc/passwd"}))
    file.write_bytes(out.getvalue())
    assert contents(file).refused == (f"{name}: must be a regular file",)


def test_a_pipe_and_a_link_to_nothing_in_a_directory_are_one_line_each(cache: Cache) -> None:
    os.mkfifo(cache.records / "pipe.json")
    (cache.records / "link.json").symlink_to(cache.directory / "nothing")
    found = contents(cache.directory)
    assert len(found.held) == 3
    assert found.refused == (
        "records/link.json: No such file or directory",
        "records/pipe.json: must be a regular file, but is a FIFO",
    )


def test_forms_that_another_user_signed_stay_outside(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EINTUNE_KEY", str(tmp_path / "another key"))
    found = contents(file)
    (line,) = found.refused
    assert line.startswith("derived/") and "was not signed with this user's key" in line
    assert {h.kind for h in found.held} == {"records", "portfolios"}


def test_a_cache_that_cannot_be_written_is_one_line_each(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    taken = take_in(Cache(tmp_path / "file", None, ()), contents(cache.directory).held)
    assert not taken.written and len(taken.refused) == 3
    assert all("cannot store" in line for line in taken.refused)


def test_beyond_its_bounds_nothing_is_packed(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    held = contents(cache.directory).held
    monkeypatch.setattr(exchange, "MAX_HELD", 2)
    with pytest.raises(BadArchive, match="at most 2 things"):
        packed(held)


def test_damaged_files_are_whole_entries_or_lines(file: Path) -> None:
    """Bytes changed anywhere: each thing is what it was or is refused, and nothing else is raised."""
    good, draw = file.read_bytes(), random.Random(0)
    before = {h.path: h.raw for h in contents(file).held}
    for _ in range(400):
        raw = bytearray(good)
        for _ in range(draw.choice((1, 1, 4, 30))):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        file.write_bytes(raw[: draw.choice((len(raw), len(raw), draw.randrange(len(raw))))])
        try:
            found = contents(file)
        except BadArchive as error:
            assert "\n" not in str(error)
            continue
        assert all(before[h.path] == h.raw for h in found.held)
        assert len(found.held) == 3 or found.refused


# ---- directories that are named


def test_named_directories_come_after_yours_and_before_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("yours", "first", "second", "package")
    caches = {name: Cache(tmp_path / name, None, ()) for name in names}
    monkeypatch.setenv("EINTUNE_SHIPPED", os.pathsep.join(["", str(tmp_path / "first"), str(tmp_path / "second")]))
    mine = Cache(tmp_path / "yours", caches["package"].records)
    for seconds, name, whose in (
        (4.0, "package", "shipped"),
        (3.0, "second", "named"),
        (2.0, "first", "named"),
        (1.0, "yours", "yours"),
    ):
        caches[name].store(key(), replace(ANY, seconds=seconds))
        found: list[Entry] = [next(mine.stored(key())), *mine.entries(), *mine.neighbours(key(65))]
        assert [(e.record.seconds, e.whose) for e in found] == 3 * [(seconds, whose)]
    assert [e.record.seconds for e in mine.stored(key())] == [1.0, 2.0, 3.0, 4.0]


def test_portfolios_of_named_directories_are_used(cache: Cache, tmp_path: Path) -> None:
    mine = Cache(tmp_path / "yours", None, (cache.directory,))
    assert {(e.record.seconds, e.whose) for e in portfolio_entries(mine, key(99))} == {(1e-3, "named"), (2e-3, "named")}


def test_a_named_directory_is_never_written_to_and_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of it serves as the user's would, and is trusted no more: one whose form follows from nothing is not."""
    problem = attention_problem(batch=1, heads=2, kv_heads=2, seq=64, kv_seq=64, head_dim=16, dtype="fp32")
    here = Key.of(problem, platform_of("cpu"))
    named, mine = tmp_path / "model" / "eintune", tmp_path / "mine"
    monkeypatch.setenv("EINTUNE_SHIPPED", str(named))
    right = forms_of(problem.cascade, mine)[0]
    notices_of = {}
    for text in (right, right.replace("* scale", "* scale * 2")):
        schedule = default_schedule(Cascade.parse(text), problem, "torch")
        digest = make_kernel(text, problem, schedule).digest
        Cache(named, None, ()).store(here, Record(text, schedule, digest, 1e-3, 1e-3, 1e-3))
        before = files_below(named)
        for folder in (named, named / "records"):
            folder.chmod(0o555)
        choice = next(choices(problem, torch.device("cpu"), "rows", Cache(mine)))
        notices_of[text] = choice.notice
        assert files_below(named) == before
        for folder in (named, named / "records"):
            folder.chmod(0o755)
    told = list(notices_of.values())
    assert "stored winner" in told[0] and "stored winner" not in told[1]


def test_kept_forms_of_a_named_directory_count_where_the_key_is_the_same(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EINTUNE_SHIPPED", str(cache.directory))
    definition = str(Cascade.parse("Yp = e^(Xp)"))
    keep(cache.directory / FOLDER, definition, Kept(("Yp = e^(Xp) * 1",), True))
    assert is_form("Yp = e^(Xp) * 1", definition, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
