"""The environment variables of every process that computes, chosen so that it computes the same bits each time.

MKL reads its mode when it is loaded, so a process cannot set it for itself: whoever starts it does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lorasmith.processor import Processor

MKL_MODE = "MKL_CBWR"
# What each mode asks of a processor; the best one that it has is taken.
_MKL_MODES = {"AVX512": {"avx512f"}, "AVX2": {"avx2"}}


def worker_environment(environment: Mapping[str, str], processor: Processor) -> dict[str, str]:
    """`environment`, with this package on the path and MKL in its reproducible mode where it needs one.

    MKL's products may differ from one process to the next on Intel's processors, unless its conditional numerical
    reproducibility is on (oneMKL Developer Guide, "Obtaining Numerically Reproducible Results"). For others it offers a
    slow mode only, and no product was seen to vary there. A mode that the user has chosen stays.
    """
    package_root = Path(__file__).resolve().parents[2]
    search = [str(package_root), *filter(None, [environment.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(search), "PYTHONIOENCODING": "utf-8"}
    mode = mkl_mode(processor)
    if mode and MKL_MODE not in environment:
        own[MKL_MODE] = mode
    return {**environment, **own}


def mkl_mode(processor: Processor) -> str:
    """The value of MKL_CBWR for this processor; "" where none is needed."""
    if not processor.is_intel:
        return ""
    return next((mode for mode, needed in _MKL_MODES.items() if needed <= processor.flags), "")
