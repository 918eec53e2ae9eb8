"""A part of a test in a process of its own, forked so that nothing is imported again: it may be killed."""

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import torch

from lorasmith import faults
from lorasmith.errors import TrainerError

CRASHED = 1  # what Python's own exit status is after a traceback
NOT_REACHED = 98
PATIENCE_SECONDS = 200.0


def in_child(action: Callable[[], int], *, fault: str = "") -> int:
    """Does `action` in a child in which `fault` is chosen; its exit status, negative for the signal that ended it.

    NOT_REACHED: it came to its end, and the fault never happened.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads; nothing here needs one
        pid = os.fork()
    if pid == 0:
        os._exit(_done(action, fault))
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= give_up_at:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"it did not end within {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.002)


def mend_threads() -> None:
    """Makes torch's threads usable in a child, before it starts threads of its own: the first two that compute at once
    there could fail (findings/torch_threads_after_fork.sh)."""
    torch.set_num_threads(torch.get_num_threads())


def _done(action: Callable[[], int], fault: str) -> int:
    """Runs in the child: whatever happens, it must not go on as a second pytest."""
    try:
        mend_threads()
        faults.choose_fault(fault)
        status = action()
    except TrainerError as error:
        sys.stderr.write(f"{error}\n")
        status = int(error.exit_code)
    except BaseException:  # noqa: BLE001 - the boundary of the process
        traceback.print_exc()
        status = CRASHED
    if fault and not _has_happened(faults.fault_of(fault)):
        status = NOT_REACHED
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _has_happened(fault: faults.Fault) -> bool:
    return faults._reached[fault.point] >= fault.occurrence
