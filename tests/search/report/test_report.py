"""The report of a made-up run: its numbers, its files, its page."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eintune.search.cli.main import main
from eintune.search.measure.measurement import Measurement
from eintune.search.report.accuracy import accuracy, error_by, random_regret, regret, spearman
from eintune.search.report.plots import Look, error_by_unit
from eintune.search.report.report import PAGE, ReportError, frame_of, png, write_report
from eintune.search.report.summary import paragraph
from eintune.search.study.samplers import STRATEGIES
from eintune.search.text.faults import RunError
from eintune.search.text.formatting import against, milliseconds, plural
from eintune.search.tune.replay import replay
from eintune.search.tune.run import COLUMNS, MEASUREMENTS, SUMMARY, Run
from eintune.search.tune.run_files import read_run

PICTURES = ("parity", "error", "regret", "progress", "roofline", "stages")
LABELS = ("1-pass, deferred division", "2-pass", "3-pass")


def made_up_row(i: int) -> dict[str, Any]:
    passes = i % 3 + 1
    seconds = 1e-3 * passes * (1 + 0.1 * (i // 3))
    row: dict[str, Any] = dict.fromkeys(COLUMNS, None)
    row |= {
        "key": f"{i:064x}",
        "label": LABELS[i % 3],
        "passes": passes,
        "cascade": f"digest-{i % 3}",
        "knobs": f"grid b h p:{64 << i // 3 % 2}, loop m:{32 << i // 6}, 4 warps",
        "status": "ok" if i != 7 else "timeout",
        "seconds": seconds if i != 7 else math.nan,
        "low": seconds * 0.98,
        "high": seconds * 1.02,
        "predicted": seconds * (1.1 if i % 2 else 0.9),
        "prior": seconds * 0.5 * (1.2 if i % 2 else 0.8),
        "source": "model",
        "batch": i // 4,
        "seconds_in": float(i),
        "limiter": "tensor" if i % 2 else "hbm",
        "hbm_bytes": 6.7e7 * passes,
        "tensor_flops": 6.9e10,
        "fma_flops": 1e9,
        "message": "no answer within 20 s" if i == 7 else "",
    }
    return row


def made_up(count: int = 12, **changes: Any) -> Run:
    rows = tuple(made_up_row(i) for i in range(count))
    winner = {**rows[0], "cascade_text": "AVp,f = …", "record": "/cache/x.json", "schedule": {}} if rows else {}
    fields: dict[str, Any] = {
        "title": "Attention: 32 heads, length 2048 <&>",
        "problem": {"workload": "attention", "sizes": {"p": 2048}, "dtypes": {"Q": "bf16"}, "params": {}},
        "machine": {
            "name": "h200",
            "title": "NVIDIA H200",
            "kind": "gpu",
            "sms": 132,
            "cores": 0,
            "hbm_bytes_per_second": 4.27e12,
            "matrix_flops": 7.8e14,
            "fma_flops": 5.7e13,
        },
        "versions": {"eintune": "0.1.0"},
        "command": "tune --seq 2048 --heads 32",
        "started": "2026-11-21 02:00 UTC",
        "stages": {"derive": 0.5, "price": 4.0, "time": 20.0},
        "space": {
            "cascades": [
                {"label": n, "passes": i + 1, "digest": n, "signature": n, "text": "…"} for i, n in enumerate(LABELS)
            ],
            "schedules": 88,
            "candidates": 264,
            "kept": 29,
            "left_out": {"spills too many registers": 12},
        },
        "rows": rows,
        "peers": {"sdpa": Measurement("sdpa", "ok", 8e-4, 7.9e-4, 8.1e-4).to_json()},
        "winner": winner,
        "stopped": "12 trials were measured",
        "calibration": {"overlap": 0.2},
    }
    return Run(**{**fields, **changes})


# ---- numbers


def test_spearman_is_the_rank_correlation() -> None:
    a = pd.Series([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, a**3) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, pd.Series([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)
    assert math.isnan(spearman(a[:2], a[:2]))


def test_regret_compares_the_models_first_k_with_the_best() -> None:
    frame = pd.DataFrame({"seconds": [3.0, 2.0, 1.0], "predicted": [1.0, 2.0, 3.0]})
    assert [regret(frame, "predicted", k) for k in (1, 2, 3)] == [2.0, 1.0, 0.0]
    assert random_regret(frame, 1) == pytest.approx(1.0)
    assert random_regret(frame, 2) == pytest.approx((1 + 1 + 2) / 3 - 1)
    assert random_regret(frame, 3) == 0


def test_accuracy_leaves_failures_out() -> None:
    frame = frame_of(made_up())
    fitted, prior = accuracy(frame, "predicted"), accuracy(frame, "prior")
    assert fitted.count == 11
    assert fitted.typical_ratio == pytest.approx(1.1, abs=0.02)
    assert prior.bias == pytest.approx(2.05, abs=0.1)
    assert 0.9 < fitted.spearman <= 1
    assert set(fitted.regret) == {1, 2, 4, 8} and fitted.regret[8] == 0
    assert accuracy(frame[frame["status"] != "ok"], "predicted").count == 0


def test_error_by_unit() -> None:
    table = error_by(frame_of(made_up()), "predicted", "limiter").set_index("limiter")
    assert table.loc["tensor", "bias"] == pytest.approx(1 / 1.1)
    assert table.loc["hbm", "bias"] == pytest.approx(1 / 0.9)
    assert int(table["count"].sum()) == 11


# ---- words


def test_words() -> None:
    assert [milliseconds(s) for s in (2.056e-4, 1.5, None, math.nan)] == ["0.2056 ms", "1500 ms", "-", "-"]
    assert (plural(1, "pass", "passes"), plural(1200, "candidate")) == ("1 pass", "1,200 candidates")
    assert against(1.0, "sdpa", 1.5) == "1.50x as fast as sdpa"
    assert against(1.5, "sdpa", 1.0) == "slower than sdpa, which is 1.50x as fast"
    assert "as fast as sdpa" in against(1.0, "sdpa", 1.01)


def test_the_paragraph_says_what_the_data_say() -> None:
    run = made_up()
    text = paragraph(run, frame_of(run))
    assert (
        "3 cascades were derived" in text
        and "264 candidates" in text
        and "12 of them were measured (1 timeout)" in text
    )
    assert "1-pass, deferred division cascade at 1 ms, slower than sdpa, which is 1.25x as fast" in text
    faster = made_up(peers={"sdpa": {"seconds": 2e-3}})
    assert "2.00x as fast as sdpa" in paragraph(faster, frame_of(faster))


# ---- files and the page


class _Page(HTMLParser):
    """Checks that tags are balanced and collects what is referred to."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_folder_holds_everything_and_reads_back(tmp_path: Path) -> None:
    run = made_up()
    page = write_report(run, tmp_path / "deep" / "folder")
    folder = page.parent
    assert page.name == PAGE
    assert {p.name for p in folder.iterdir()} == {PAGE, SUMMARY, MEASUREMENTS, *(f"{n}.png" for n in PICTURES)}
    for name in PICTURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(folder / MEASUREMENTS)
    assert list(table.columns) == list(COLUMNS) and len(table) == 12
    back = read_run(folder)
    assert back.title == run.title and back.space == run.space and back.stages == run.stages
    assert [r["seconds"] for r in back.rows] == [None if i == 7 else r["seconds"] for i, r in enumerate(run.rows)]
    assert paragraph(back, frame_of(back)) == paragraph(run, frame_of(run))


def test_the_page_is_whole_and_stands_alone(written: Path) -> None:
    text = (written / PAGE).read_text("utf-8")
    checker = _Page()
    checker.feed(text)
    assert checker.open == []
    assert len(checker.sources) == len(PICTURES)
    assert all(s.startswith("data:image/png;base64,") for s in checker.sources)
    assert "<script" not in text and not re.search(r"https?://", text)
    assert '<meta name="viewport"' in text
    assert "length 2048 &lt;&amp;&gt;" in text and "spills too many registers" in text
    assert "timeout" in text and "0.80x" in text and "1.25x" in text
    assert "Whether fewer passes win" in text and re.search(r"The fastest has \d pass", text)


def test_runs_with_little_in_them_have_a_report_too(tmp_path: Path) -> None:
    one = write_report(made_up(1, peers={}), tmp_path / "one").read_text("utf-8")
    assert "1 of them was measured" in one
    failed = made_up(rows=(made_up_row(7),), winner={}, peers={})
    text = write_report(failed, tmp_path / "none").read_text("utf-8")
    assert "No candidate ran and was right" in text
    assert not (tmp_path / "none" / "parity.png").exists()


def test_a_report_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"the report cannot be written to .*file"):
        write_report(made_up(), tmp_path / "file" / "folder")


def test_replay_compares_strategies_without_a_device(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves = replay(read_run(written), seeds=3)
    assert set(curves) == set(STRATEGIES)
    for curve in curves.values():
        assert len(curve) == 12 and curve[-1] == 0
        assert all(a >= b >= 0 for a, b in pairwise(curve))
    assert curves["model"][0] < curves["random"][0]
    assert main(["replay", str(written), "--seeds", "2"]) == 0
    assert "random" in capsys.readouterr().out


def test_a_report_is_written_again_from_its_own_files(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (written / SUMMARY).read_bytes(), (written / MEASUREMENTS).read_bytes()
    assert main(["report", str(written)]) == 0
    assert "3 cascades were derived" in capsys.readouterr().out.replace("\n", " ")
    assert ((written / SUMMARY).read_bytes(), (written / MEASUREMENTS).read_bytes()) == before


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(made_up(), tmp_path_factory.mktemp("report")).parent


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (SUMMARY, None, "lacks summary.json"),
        (MEASUREMENTS, None, "lacks measurements.csv"),
        (SUMMARY, '{"format": 1, "title": ', "damaged"),
        (SUMMARY, '{"format": 99}', "must be of format"),
        (SUMMARY, '{"format": 1, "colour": "red"}', "colour"),
        (SUMMARY, "[]", "expected `object`, got `array`"),
        (SUMMARY, '{"format": ' + "[" * 100_000, "nested too deeply"),
        (SUMMARY, '{"format": 1, "title": "\\u001b[31m"}', "without control characters"),
        (MEASUREMENTS, "key,label\na,b\n", "lacks the columns"),
        (MEASUREMENTS, ",".join(COLUMNS) + "\na,b\n", "line 2: a table has 31 columns"),
        (MEASUREMENTS, ",".join(COLUMNS) + "\n" + "," * 30 + "\n", "`status` must be one of ok, wrong"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(
    written: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(RunError, match=message):
        read_run(tmp_path)


def test_the_summary_is_strict_json(tmp_path: Path) -> None:
    write_report(made_up(peers={"sdpa": {"seconds": math.nan, "low": math.inf, "high": None}}), tmp_path)

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads((tmp_path / SUMMARY).read_text(), parse_constant=refuse)
    assert data["peers"]["sdpa"]["seconds"] is None and "rows" not in data


def test_the_same_data_gives_the_same_pictures() -> None:
    frame = frame_of(made_up())
    look = Look.of(frame)
    before = np.random.get_state()[1].tolist()
    assert png(error_by_unit(frame, look)) == png(error_by_unit(frame, look))
    assert np.random.get_state()[1].tolist() == before
