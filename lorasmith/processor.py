"""The CPU of this machine: name, maker and instruction sets. Asks the operating system, never torch."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# Numbers of IsProcessorFeaturePresent (winnt.h), by the names that Linux gives to the same instructions.
_WINDOWS_FEATURES = {"avx2": 40, "avx512f": 41}


@dataclass(frozen=True, slots=True)
class Processor:
    """A CPU. `flags` are named as in Linux' /proc/cpuinfo; on Windows only some are known, on macOS none."""

    name: str
    is_intel: bool
    flags: frozenset[str]


def read_processor() -> Processor:
    """Describes the CPU of this machine."""
    lines = _first_block(CPU_INFO)
    name = lines.get("model name") or platform.processor() or platform.machine()
    vendor = lines.get("vendor_id") or os.environ.get("PROCESSOR_IDENTIFIER", "")
    flags = frozenset(lines.get("flags", "").split()) | _windows_flags()
    return Processor(name=name, is_intel="GenuineIntel" in vendor, flags=flags)


def _first_block(path: Path) -> dict[str, str]:
    """The lines about the first core, {} where there is no such file."""
    try:
        block = path.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    rows = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in rows}


def _windows_flags() -> frozenset[str]:
    if sys.platform != "win32":
        return frozenset()
    import ctypes

    has = ctypes.windll.kernel32.IsProcessorFeaturePresent
    return frozenset(flag for flag, number in _WINDOWS_FEATURES.items() if has(number))
