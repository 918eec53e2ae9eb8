"""The processors of this machine: the CPU by name, maker and instruction sets, and whether there is a GPU. Asks the
operating system, never torch."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# With fewer, bf16 gains nothing on a CPU with units for it: matrix products do not dominate the step.
BF16_PARAMETERS = 50_000_000
# Numbers of IsProcessorFeaturePresent (winnt.h), by the names that Linux gives to the same instructions.
_WINDOWS_FEATURES = {"avx2": 40, "avx512f": 41}


@dataclass(frozen=True, slots=True)
class Processor:
    """A CPU. `flags` are named as in Linux' /proc/cpuinfo; on Windows only some are known, on macOS none."""

    name: str
    is_intel: bool
    flags: frozenset[str]

    @property
    def has_bf16_units(self) -> bool:
        """Whether it multiplies matrices of bfloat16."""
        return "amx_bf16" in self.flags


def read_processor() -> Processor:
    """Describes the CPU of this machine."""
    lines = _first_block(CPU_INFO)
    name = lines.get("model name") or platform.processor() or platform.machine()
    vendor = lines.get("vendor_id") or os.environ.get("PROCESSOR_IDENTIFIER", "")
    flags = frozenset(lines.get("flags", "").split()) | _windows_flags()
    return Processor(name=name, is_intel="GenuineIntel" in vendor, flags=flags)


def has_nvidia() -> bool:
    """Whether an NVIDIA driver is installed, by its files."""
    windows = Path(os.environ.get("SYSTEMROOT", "")) / "System32" / "nvcuda.dll"
    return Path("/proc/driver/nvidia/version").exists() or (os.name == "nt" and windows.exists())


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
