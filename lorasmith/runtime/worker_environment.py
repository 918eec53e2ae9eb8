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
THREADS, THREAD_LIMIT = "OMP_NUM_THREADS", "OMP_THREAD_LIMIT"
# By these OpenMP gives a product fewer threads than torch asked for. oneDNN has already divided it among
# those asked for, so a part of the result is never computed and stays what lay in memory there (ADR 16).
_FEWER_THREADS = frozenset({THREAD_LIMIT, "OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS"})


def worker_environment(environment: Mapping[str, str], processor: Processor) -> dict[str, str]:
    """Returns `environment` with this package on the path, with every thread that torch asks for and, where
    necessary, with MKL in a reproducible mode.

    On Intel's processors MKL's matrix products may differ from one process to the next, unless its conditional
    numerical reproducibility is on (oneMKL Developer Guide, "Obtaining Numerically Reproducible Results"). For others
    it offers only a slow mode, and no product was seen to vary there. A mode that the user has set stays. A limit on
    threads becomes the number of threads, which torch then asks for.
    """
    package_root = Path(__file__).resolve().parents[2]
    search = [str(package_root), *filter(None, [environment.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(search), "PYTHONIOENCODING": "utf-8"}
    mode = mkl_mode(processor)
    if mode and MKL_MODE not in environment:
        own[MKL_MODE] = mode
    if threads := _limited_threads(environment):
        own[THREADS] = threads
    kept = {name: value for name, value in environment.items() if name not in _FEWER_THREADS}
    return {**kept, **own}


def mkl_mode(processor: Processor) -> str:
    """Returns the value of MKL_CBWR for this processor; "" if it needs none."""
    if not processor.is_intel:
        return ""
    return next((mode for mode, needed in _MKL_MODES.items() if needed <= processor.flags), "")


def _limited_threads(environment: Mapping[str, str]) -> str:
    """Returns the limit on threads where it is lower than the number of threads otherwise; "" where none is."""
    limit, threads = (environment.get(name, "").partition(",")[0].strip() for name in (THREAD_LIMIT, THREADS))
    if not (limit.isdecimal() and int(limit)):
        return ""
    otherwise = int(threads) if threads.isdecimal() else os.cpu_count() or 1
    return limit if int(limit) < otherwise else ""
