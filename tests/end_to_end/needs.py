"""What a test needs of a machine, and is skipped without: killed for lack of it, it would take its pytest along."""

from pathlib import Path

import psutil
import pytest

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def needs_memory(gibibytes: int) -> None:
    """Skips a test where less memory is left."""
    left = [psutil.virtual_memory().available]
    for path in map(Path, LIMITS):
        text = path.read_text().strip() if path.exists() else ""
        left += [int(text)] if text.isdecimal() else []
    if min(left) < gibibytes << 30:
        pytest.skip(f"needs {gibibytes} GiB of memory, {min(left) / (1 << 30):.1f} are left")
