"""What `lorasmith doctor` shows of a machine that is played, and what it does where torch cannot be loaded."""

import json
from typing import Any

import pytest

from lorasmith.ui import doctor as doctor_module
from lorasmith.ui.cli import main

ENGINE: dict[str, Any] = {
    "packages": {"python": "3.11.7", "torch": "2.13.0", "diffusers": "0.42.1"},
    "system": "Linux",
    "device": "cuda",
    "device_name": "NVIDIA Abacus",
    "device_reason": "first_available",
    "driver": "580.1",
    "cuda": "13.0",
    "torch_cpu_capability": "AVX2",
    "mkl_mode": "AVX2",
    "threads": 4,
    "precision": {
        "sd15": {"precision": "bf16", "reason": "gpu_bf16_units"},
        "small": {"precision": "bf16", "reason": "gpu_bf16_units"},
    },
    "self_check": "passed",
    "self_check_seconds": 0.031,
    "self_check_precisions": ["bf16", "fp32"],
    "memory_total": 32 << 30,
    "memory_free": 20 << 30,
    "device_memory": {"free": 7 << 30, "total": 8 << 30},
}
PROCESSOR = {"name": "Abacus 2000", "instructions": ["avx2"]}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    facts = dict(ENGINE)
    monkeypatch.setattr(doctor_module, "examine", lambda: facts)
    monkeypatch.setattr(doctor_module, "processor_facts", lambda: PROCESSOR)
    monkeypatch.setattr(doctor_module, "_chinese_font", lambda: "")
    monkeypatch.setenv("COLUMNS", "100")
    return facts


def test_one_screen_says_what_a_report_of_a_fault_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--lang", "en"]) == 0
    screen = capsys.readouterr().out
    for fact in ("Abacus 2000 (avx2)", "NVIDIA Abacus", "driver 580.1, CUDA 13.0", "torch 2.13.0", "bf16", "AVX2"):
        assert fact in screen
    for fact in ("20.0 GiB free of 32.0 GiB", "on the GPU 7.0 GiB free of 8.0 GiB", "bf16, fp32", "0.03 s", "none: "):
        assert fact in screen
    assert len(screen.splitlines()) <= 24


def test_a_failed_self_check_is_explained(machine: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    machine["self_check"] = "attention, norm"
    assert main(["doctor", "--lang", "en"]) == 0
    screen = capsys.readouterr().out
    assert "each time: attention, norm" in " ".join(screen.split("Warning: ")[0].split())
    assert "Warning: " in screen


def test_a_library_that_cannot_be_loaded_is_named(machine: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    machine.clear()
    machine["failure"] = "ImportError: libtorch_cpu.so: undefined symbol"
    assert main(["doctor", "--lang", "zh-TW"]) == 70
    screen = capsys.readouterr().out
    assert "ImportError: libtorch_cpu.so: undefined symbol" in screen and "Abacus 2000" in screen


def test_json_has_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert ENGINE.items() <= found.items()
    assert {"lorasmith", "processor", "cores", "disk_free", "chinese_font", "terminal_encoding"} <= found.keys()
