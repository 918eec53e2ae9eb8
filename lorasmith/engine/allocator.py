"""Keeps freed memory in the process, so that a step does not fault in again what the step before gave back.

Knows of glibc only; anywhere else it does nothing.
"""

from __future__ import annotations

import ctypes
import sys

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Above the activations of a step. Older versions of glibc refuse more than 32 MiB.
_MMAP_FROM_BYTES = (1 << 30, 1 << 25)
_NEVER_TRIM_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Called once, before models are loaded. Returns whether glibc took both settings.

    glibc maps blocks of over 128 KiB to 32 MiB one by one and unmaps them when they are freed: each activation of each
    step would be zeroed page by page by the kernel.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    try:
        libc.gnu_get_libc_version  # noqa: B018  (glibc's own, musl lacks it; its mallopt is not there either)
        mallopt = libc.mallopt
    except AttributeError:
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    maps_less = any(mallopt(_M_MMAP_THRESHOLD, size) == 1 for size in _MMAP_FROM_BYTES)
    trims_less = mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM_BYTES) == 1
    return maps_less and trims_less
