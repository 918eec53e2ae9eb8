"""Chooses the environment variables of every process that computes, so that it computes the same bits each time.

MKL reads its mode when it is loaded, so a process cannot set its own: its parent does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lorasmith.processor import Processor

MKL_MODE = "MKL_CBWR"
# The instruction sets that each mode needs, the best mode first. Without STRICT bits are
# the same only where operands lie at multiples of 64 bytes, which torch's attention does not keep to (ADR 16).
_MKL_MODES = {"AVX512,STRICT": {"avx512f"}, "AVX2,STRICT": {"avx2"}}


def worker_environment(environment: Mapping[str, str], processor: Processor) -> dict[str, str]:
    """Returns `environment` with this package on the path and, where necessary, MKL in a reproducible mode.

    On Intel's processors MKL's matrix products may differ from one process to the next, unless its conditional
    numerical reproducibility is on (oneMKL Developer Guide, "Obtaining Numerically Reproducible Results"). For others
    it offers only a slow mode, and no product was seen to vary there. A mode that the user has set stays.
    """
    package_root = Path(__file__).resolve().parents[2]
    search = [str(package_root), *filter(None, [environment.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(search), "PYTHONIOENCODING": "utf-8"}
    mode = mkl_mode(processor)
    if mode and MKL_MODE not in environment:
        own[MKL_MODE] = mode
    return {**environment, **own}


def mkl_mode(processor: Processor) -> str:
    """Returns the value of MKL_CBWR for this processor; "" if it needs none."""
    if not processor.is_intel:
        return ""
    return next((mode for mode, needed in _MKL_MODES.items() if needed <= processor.flags), "")
