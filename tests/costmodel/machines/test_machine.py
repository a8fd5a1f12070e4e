"""Machines: the shipped descriptions, how they are read, errors, detection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eintune.costmodel.machines import probe
from eintune.costmodel.machines.detect import detect_machine
from eintune.costmodel.machines.machine import (
    MachineError,
    load_machine,
    machine_for_device,
    machine_names,
    parse_machine,
)
from eintune.costmodel.pricing.calibration import Calibration

MACHINES = Path(__file__).parents[3] / "costmodel" / "machines"


@pytest.mark.parametrize("name", machine_names())
def test_every_shipped_machine_is_whole_and_plausible(name: str) -> None:
    m = load_machine(name)
    assert m.name == name
    assert m.tensor_rate("fp32") <= m.tensor_rate("bf16") or m.kind == "cpu"
    assert m.shared_bytes_per_program <= m.shared_bytes_per_sm
    assert 0 < m.hbm_bytes_per_second <= m.l2_bytes_per_second
    assert m.registers_per_thread * m.warp_size <= m.registers_per_sm
    assert 1e-7 < m.launch_seconds < 1e-4
    Calibration.of(m)


@pytest.mark.parametrize("path", sorted(MACHINES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_rate_names_its_source(path: Path) -> None:
    rates = [n for n in path.read_text().splitlines() if "_per_second =" in n or "fma_flops =" in n]
    assert rates
    assert all("#" in n or path.stem == "cpu" for n in rates)


def test_what_was_measured_wins_over_the_datasheet() -> None:
    m = load_machine("h200")
    assert m.hbm_bytes_per_second == 4.27e12
    assert m.tensor_rate("bf16") == 7.8e14
    assert m.tensor_rate("tf32") == 4.94e14


def test_errors_name_the_value_and_the_valid_options() -> None:
    with pytest.raises(MachineError, match=r"machine must be one of a100, .*, but got 'h300'"):
        load_machine("h300")
    with pytest.raises(MachineError, match="no matrix rate for dtype 'fp4'"):
        load_machine("a100").tensor_rate("fp4")
    with pytest.raises(MachineError, match=r"unknown fields \['colour'\]"):
        load_machine("a100").with_measured({"colour": 1})
    with pytest.raises(MachineError, match="missing"):
        parse_machine("x", {"title": "x"})
    with pytest.raises(MachineError, match="device must be auto, cpu or cuda"):
        detect_machine("tpu")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA T4", None),
    ],
)
def test_a_driver_s_name_finds_its_machine(title: str, name: str | None) -> None:
    assert machine_for_device(title) == name


def test_the_probe_is_remembered_and_a_damaged_cache_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    calls: list[int] = []

    def measure() -> dict[str, object]:
        calls.append(1)
        return {"cores": 7, "tensor_flops": {"fp32": 1e11}, "l2_bytes_per_second": 9e10, "hbm_bytes_per_second": 1e10}

    monkeypatch.setattr(probe, "_measure_cpu", measure)
    assert detect_machine("cpu").cores == 7
    assert detect_machine("cpu").tensor_rate("fp32") == 1e11
    assert len(calls) == 1
    (record,) = (tmp_path / "machines").iterdir()
    for damage in ("{", "[]", json.dumps({"version": 2, "key": "other", "measured": {}})):
        record.write_text(damage)
        assert detect_machine("cpu").cores == 7
    assert len(calls) == 4


def test_a_measurement_on_a_busy_machine_is_used_but_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINTUNE_CACHE", str(tmp_path))
    slow = {"cores": 5, "l2_bytes_per_second": 1e10, "hbm_bytes_per_second": 1e10}
    monkeypatch.setattr(probe, "_measure_cpu", lambda: slow)
    assert detect_machine("cpu").cores == 5
    assert not (tmp_path / "machines").exists()


def test_a_cache_that_cannot_be_written_costs_a_measurement_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("EINTUNE_CACHE", str(blocked))
    monkeypatch.setattr(probe, "_measure_cpu", lambda: {"cores": 3})
    assert detect_machine("cpu").cores == 3


def test_the_real_probe_measures_this_cpu() -> None:
    measured = probe._measure_cpu()
    m = load_machine("cpu").with_measured(measured)
    assert 1e9 < m.tensor_rate("fp32") < 1e14
    assert 1e8 < m.hbm_bytes_per_second < 1e12
    assert 1e6 < m.special_rate < 1e13
    assert 1e-8 < m.operator_seconds < 1e-3
