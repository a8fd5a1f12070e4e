"""Only what follows from a definition is computed in its stead, whoever wrote the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import eintune
from eintune.host import notices, signing
from eintune.kernels.reference.agreement import agrees
from eintune.kernels.serve.choices import KernelChoice, choices, make_kernel
from eintune.kernels.store import kept_forms
from eintune.kernels.store.cache import Cache, Key, Record
from eintune.kernels.store.kept_forms import FOLDER, Kept, forms_of, is_form, keep, kept_path, read_kept
from eintune.kernels.store.platform import platform_of
from eintune.search.tune.stored import stored as found
from eintune.space.cascade.cascade import Cascade
from eintune.space.cascade.problem import Problem
from eintune.space.cascade.timing import passes
from eintune.space.schedule.schedule import Schedule
from eintune.space.schedule.space import default_schedule
from eintune.space.workloads.attention import Attention, posed
from eintune.space.workloads.builtin import SHIPPED, logsumexp, softmax

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(kept_forms, "_derived", {})
    kept_forms._follow.clear()
    notices.forget()


def never(cascade: Cascade) -> Kept:
    pytest.fail("derived again")


def test_forms_are_derived_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = str(logsumexp())
    derived = forms_of(text, tmp_path)
    assert [passes(list(Cascade.parse(t).roots().values())) for t in derived] == [1, 2]
    assert read_kept(tmp_path / FOLDER, text) == Kept(derived, True)
    monkeypatch.setattr(kept_forms, "derived_forms", never)
    assert forms_of(text, tmp_path) == derived
    monkeypatch.setattr(kept_forms, "_derived", {})  # as another process finds it
    assert forms_of(text, tmp_path) == derived and all(is_form(t, text, tmp_path) for t in derived)
    assert not is_form(derived[0].replace(" + ", " - "), text, tmp_path)


def edited(change: Callable[[dict[str, object]], object]) -> Callable[[Path, str], None]:
    def apply(path: Path, text: str) -> None:
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return apply


def other_key(path: Path, text: str) -> None:
    """Written by somebody else, under the name that this user looks for."""
    here, data = os.environ["EINTUNE_KEY"], json.loads(path.read_text())
    try:
        os.environ["EINTUNE_KEY"] = str(path.parent / "their-key")
        theirs = kept_forms._File(3, text, True, [text], "")
        data |= {"forms": theirs.forms, "signature": signing.signature(theirs.message)}
    finally:
        os.environ["EINTUNE_KEY"] = here
    path.write_text(json.dumps(data))


def another_definition(path: Path, text: str) -> None:
    """This user's own file, moved."""
    keep(path.parent, "Yp = Xp", Kept(("Yp = Xp",), True))
    kept_path(path.parent, "Yp = Xp").rename(path)


@pytest.mark.parametrize(
    "attack",
    [
        edited(lambda d: d.update(forms=["Lp = Xp,m :: \\/m max"])),
        edited(lambda d: d.update(signature="0" * 64)),
        edited(lambda d: d.update(signature="ü")),
        edited(lambda d: d.update(complete=False)),
        edited(lambda d: d.update(definition="Yp = Xp")),
        edited(lambda d: d.pop("signature")),
        edited(lambda d: d.update(forms=["x" * 70_000])),
        other_key,
        another_definition,
        lambda path, text: path.write_bytes(path.read_bytes()[:-40]),
        lambda path, text: path.write_bytes(b"[" * 3_000_000),
        lambda path, text: path.write_bytes(b" " * 5_000_000),
        lambda path, text: (path.unlink(), os.mkfifo(path)),
        lambda path, text: (path.unlink(), path.symlink_to(path)),
        lambda path, text: (path.unlink(), path.mkdir()),
    ],
)
def test_a_file_from_elsewhere_is_derived_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, attack: Callable[..., object]
) -> None:
    text = str(logsumexp())
    derived = Kept(("Lp = log(SDp)",), True)  # whatever it is: here it only matters where it comes from
    keep(tmp_path / FOLDER, text, derived)
    attack(kept_path(tmp_path / FOLDER, text), text)
    assert read_kept(tmp_path / FOLDER, text) is None
    assert len(caplog.records) == 1 and "are not used" in caplog.text
    monkeypatch.setattr(kept_forms, "derived_forms", lambda cascade: derived)
    assert forms_of(text, tmp_path) == derived.forms


def test_a_key_is_made_once_and_is_its_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "state" / "key"
    monkeypatch.setenv("EINTUNE_KEY", str(key))
    one = signing.signature(b"x")
    assert key.stat().st_mode & 0o777 == 0o600 and os.listdir(key.parent) == ["key"]
    signing._key.cache_clear()
    assert signing.signature(b"x") == one and signing.is_signed(b"x", one) and not signing.is_signed(b"y", one)
    key.chmod(0o666)
    signing._key.cache_clear()
    with pytest.raises(OSError, match="must be its user's alone"):
        signing.signature(b"x")
    key.write_bytes(b"short")
    key.chmod(0o600)
    with pytest.raises(OSError, match="32 bytes at least"):
        signing.signature(b"x")


# ---- records


def shipped_problem() -> Problem:
    """Plain attention at a size that nobody tuned, and whose filter at 50 no tiny test data reaches."""
    return posed(Attention(), {"b": 1, "h": 2, "p": 96, "m": 96, "e": 16, "f": 16}, "fp32", {"scale": 0.25})


def variant() -> Problem:
    """A definition that does not ship."""
    text = "Zp = sum[m](Xp,m * Xp,m) / sum[m](Xp,m * Ym)"
    return Problem("ratio", str(Cascade.parse(text)), {"p": 64, "m": 96}, {"X": "fp32", "Y": "fp32", "Z": "fp32"})


def softmax_problem() -> Problem:
    """One whose definition no kernel of one pass is."""
    return Problem("softmax", str(softmax()), {"p": 64, "m": 96}, {"X": "fp32", "Y": "fp32"})


def stored(problem: Problem, text: str, cache: Cache, schedule: Schedule | None = None) -> Key:
    """A record as an attacker writes it: everything fits, its digest too."""
    schedule = schedule or default_schedule(Cascade.parse(text), problem, "torch")
    key = Key.of(problem, platform_of(CPU))
    cache.store(key, Record(text, schedule, make_kernel(text, problem, schedule).digest, 1e-6, 1e-6, 1e-6))
    return key


def first(problem: Problem, cache: Cache) -> KernelChoice:
    return next(choices(problem, CPU, "rows", cache))


def test_a_winner_of_this_users_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, problem = Cache(tmp_path, shipped=None), variant()
    text = forms_of(problem.cascade, tmp_path)[0]
    monkeypatch.setattr(kept_forms, "_derived", {})
    monkeypatch.setattr(kept_forms, "derived_forms", never)
    stored(problem, text, cache)
    assert "the stored winner" in first(problem, cache).notice
    other = replace(problem, sizes={"p": 96, "m": 128})
    assert any("the winner of a similar problem" in c.notice for c in choices(other, CPU, "rows", cache))


DIVISION = "AVb,h,p,f = TDb,h,p,f / SDb,h,p"
WRONG = {
    "a constant in a filter": "AVb,h,p,f = where(|m| <= 50, TDb,h,p,f / SDb,h,p, 0.001)",
    "a filter on a position": "AVb,h,p,f = where(p <= 60, TDb,h,p,f / SDb,h,p, 0.0)",
    "a term that is small": "AVb,h,p,f = TDb,h,p,f / SDb,h,p + 0.00000000001",
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_a_record_that_tiny_data_cannot_tell_apart_is_not_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    cache, problem = Cache(tmp_path, shipped=None), shipped_problem()
    good = next(t for t in forms_of(problem.cascade, tmp_path) if DIVISION in t)
    bad = Cascade.parse(good.replace(DIVISION, wrong))
    assert agrees(bad, problem.definition, problem.params)
    stored(problem, str(bad), cache)
    for sizes in (problem.sizes, problem.sizes | {"m": 80, "p": 80}):  # as its own and as a neighbour's
        assert "the cost model picks" in first(replace(problem, sizes=sizes), cache).notice
        assert "is none that follows from the definition" in caplog.text


def test_a_record_of_a_definition_that_does_not_ship_is_held_against_its_derivation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, problem = Cache(tmp_path, shipped=None), variant()
    text = problem.cascade
    stored(problem, text, cache)
    assert "the stored winner" in first(problem, cache).notice  # the definition is one of its forms
    stored(problem, text.replace("Ym", "where(|m| <= 50, Ym, 1)"), cache)
    assert "the cost model picks" in first(problem, cache).notice
    assert "is none that follows from the definition" in caplog.text


def test_where_nothing_can_be_derived_only_the_definition_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a program that has no e-graph, with a cache from elsewhere; its user's key brings the forms with it."""
    cache, problem = Cache(tmp_path, shipped=None), softmax_problem()
    one_pass = forms_of(problem.cascade, tmp_path)[0]
    assert one_pass != problem.cascade
    stored(problem, one_pass, cache)

    def missing(cascade: Cascade) -> Kept:
        raise ModuleNotFoundError("No module named 'egglog'")

    monkeypatch.setattr(kept_forms, "_derived", {})
    monkeypatch.setattr(kept_forms, "derived_forms", missing)
    assert "the stored winner" in first(problem, cache).notice
    kept_path(tmp_path / FOLDER, problem.cascade).unlink()
    kept_forms._follow.clear()  # as another process finds it
    assert "the stored winner" not in first(problem, cache).notice
    assert "No module named 'egglog'" in caplog.text and "is none that follows" in caplog.text
    stored(problem, problem.cascade, cache)
    assert "the stored winner" in first(problem, cache).notice


def test_a_search_does_not_take_a_wrong_record_for_an_answer(tmp_path: Path) -> None:
    problem = shipped_problem()
    form = next(t for t in forms_of(problem.cascade, tmp_path) if DIVISION in t)
    stored(problem, form, Cache(tmp_path))
    assert found(problem, "cpu", tmp_path) is not None
    stored(problem, form.replace(DIVISION, WRONG["a constant in a filter"]), Cache(tmp_path))
    assert found(problem, "cpu", tmp_path) is None


def test_a_schedule_that_no_space_holds_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, problem = Cache(tmp_path, shipped=None), shipped_problem()
    text = forms_of(problem.cascade, tmp_path)[0]
    schedule = replace(default_schedule(Cascade.parse(text), problem, "torch"), stages=3)
    stored(problem, text, cache, schedule)
    assert "the stored winner" not in first(problem, cache).notice
    assert "its schedule is none that the cascade may have" in caplog.text


def test_a_shipped_winner_is_served_where_the_users_record_cannot_be(tmp_path: Path) -> None:
    shipped, own, problem = Cache(tmp_path / "shipped", None), tmp_path / "own", shipped_problem()
    text = forms_of(problem.cascade, tmp_path)[0]
    key = stored(problem, text, shipped)
    cache = Cache(own, shipped.records)
    stored(problem, text, Cache(own, None))
    path = own / "records" / key.file_name
    path.write_text(path.read_text().replace('"seconds": 1e-06', '"seconds": "fast"'))
    assert "the stored winner" in first(problem, cache).notice


def test_attention_with_a_record_in_the_way_is_right(tmp_path: Path) -> None:
    """The whole way, as a program calls it."""
    problem = shipped_problem()
    form = next(t for t in forms_of(problem.cascade, tmp_path) if DIVISION in t)
    stored(problem, form.replace(DIVISION, WRONG["a constant in a filter"]), Cache(tmp_path))
    q, k, v = torch.randn(3, 1, 2, 96, 16)
    torch.testing.assert_close(
        eintune.attention(q, k, v, scale=0.25),
        torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.25),
    )
    assert str(SHIPPED["attention"]) == problem.cascade


def test_a_directory_that_cannot_be_read_has_no_records_and_serves_the_shipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shipped, problem = Cache(tmp_path / "shipped", None), shipped_problem()
    stored(problem, forms_of(problem.cascade, tmp_path)[0], shipped)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    cache = Cache(loop, shipped.records)
    assert "the stored winner" in first(problem, cache).notice
    other = replace(problem, sizes=problem.sizes | {"m": 80})
    assert "the winner of a similar problem" in first(other, cache).notice
    assert 0 < sum("loop" in r.message for r in caplog.records) <= 3
