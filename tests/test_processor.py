"""What is read of a CPU, from a file as Linux has it."""

from pathlib import Path

import pytest

from lorasmith import processor
from lorasmith.processor import read_processor

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Abacus(R) 2000\nflags\t\t: fpu avx2 avx512f\n"


def test_the_first_core_speaks_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(INTEL + "\n" + INTEL.replace("Abacus", "Other").replace("avx2", "sse"))
    monkeypatch.setattr(processor, "CPU_INFO", file)
    found = read_processor()
    assert (found.name, found.is_intel, found.flags) == ("Abacus(R) 2000", True, {"fpu", "avx2", "avx512f"})


def test_another_maker_is_not_intel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(INTEL.replace("GenuineIntel", "AuthenticAMD"))
    monkeypatch.setattr(processor, "CPU_INFO", file)
    assert not read_processor().is_intel


def test_without_the_file_the_processor_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "none")
    monkeypatch.delenv("PROCESSOR_IDENTIFIER", raising=False)
    found = read_processor()
    assert found.name and not found.is_intel and found.flags == frozenset()
