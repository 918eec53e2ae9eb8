"""The real worker in a child that is forked from the test, so that nothing is imported again and a start takes a
fraction of a second: one's own session, streams and signals, as `runtime.processes` gives them to a Python of its own.
"""

import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from lorasmith.runtime import worker
from lorasmith.runtime.processes import INTERRUPT, STACK_SIGNAL, end_tree
from tests.faults.forked import PATIENCE_SECONDS, mend_threads

Harm = Callable[[list[str]], None]
MAX_HANDLES = 1024


class ForkedProcess:
    """A child that does `live`, which never comes back: what `subprocess.Popen` gives of it."""

    def __init__(self, live: Callable[[], None]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads; nothing here needs one
            self.pid = os.fork()
        if self.pid == 0:
            live()
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        give_up_at = time.monotonic() + (PATIENCE_SECONDS if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() >= give_up_at:
                raise subprocess.TimeoutExpired("forked process", timeout or PATIENCE_SECONDS)
            time.sleep(0.002)
        assert self._status is not None
        return self._status


class ForkedWorker(ForkedProcess):
    """What the supervisor needs of a worker's process. `harm` is done to it, in it, before it begins."""

    def __init__(self, arguments: list[str], output: IO[bytes], *, harm: Harm = lambda _: None) -> None:
        super().__init__(lambda: _live(arguments, output, harm))

    def interrupt(self) -> None:
        self._send(INTERRUPT)

    def dump_stacks(self) -> bool:
        self._send(signal.Signals[STACK_SIGNAL])
        return True

    def terminate(self) -> None:
        if self.poll() is None:
            end_tree(self.pid)

    def kill(self) -> None:
        if self.poll() is None:
            end_tree(self.pid, kill=True)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def _live(arguments: list[str], output: IO[bytes], harm: Harm) -> None:
    """In the child: never comes back."""
    status = 1
    try:
        os.setsid()
        handle = output.fileno()
        for number in (1, 2):
            os.dup2(handle, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(3, MAX_HANDLES)  # no lock is inherited
        mend_threads()
        worker._settle(arguments)
        harm(arguments)
        status = worker.main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - the boundary of the process, as in forked_program.py
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
