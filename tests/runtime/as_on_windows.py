"""A pytest plugin: the standard library without what Windows lacks. `pytest -p tests.runtime.as_on_windows …`"""

import fcntl
import os
import signal
import sys
from types import ModuleType

import psutil  # noqa: F401 - its part for this system needs what is taken away; its part for Windows does not

_flock, _busy, _exclusive = fcntl.flock, BlockingIOError, fcntl.LOCK_EX | fcntl.LOCK_NB


class _Msvcrt(ModuleType):
    LK_NBLCK = 2

    @staticmethod
    def locking(handle: int, mode: int, size: int) -> None:
        """As msvcrt's: OSError where another has it."""
        assert (mode, size) == (_Msvcrt.LK_NBLCK, 1)
        try:
            _flock(handle, _exclusive)
        except _busy as error:
            raise OSError(36, "resource deadlock avoided") from error


sys.modules["fcntl"] = None
sys.modules["resource"] = None
sys.modules["msvcrt"] = _Msvcrt("msvcrt")
del os.killpg
del signal.SIGKILL, signal.SIGUSR1
