"""The whole program in a child that is forked from the test, its worker in one forked from that: command line,
supervisor and worker are the real ones, in processes of their own, and only importing is spared.
"""

import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import IO

from lorasmith.runtime.supervisor import Supervisor
from lorasmith.ui import cli
from tests.faults.forked_worker import ForkedWorker
from tests.runs.workshop import Workshop

PROGRAM = 2  # train_lora.py's own place in what is typed: after the interpreter and itself come the arguments


class ForkedProgram:
    """What a test needs of `subprocess.Popen`, of `python train_lora.py …` typed without a terminal."""

    def __init__(self, workshop: Workshop, typed: Sequence[str], output: IO[bytes]) -> None:
        import diffusers  # noqa: F401 - before the fork
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
        import transformers  # noqa: F401

        from lorasmith.reports import loss_log, making, tensorboard  # noqa: F401

        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads; nothing here needs one
            self.pid = os.fork()
        if self.pid == 0:
            _live(workshop, typed[PROGRAM:], output)
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        give_up_at = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if give_up_at is not None and time.monotonic() >= give_up_at:
                raise subprocess.TimeoutExpired("forked program", timeout or 0.0)
            time.sleep(0.002)
        assert self._status is not None
        return self._status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _live(workshop: Workshop, arguments: Sequence[str], output: IO[bytes]) -> None:
    """In the child: never comes back."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        # In the place of these stand pytest's own, and xdist's.
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: SIM115
        os.chdir(workshop.folder)
        defaults = Supervisor.__init__.__kwdefaults__
        assert defaults is not None
        defaults["launch"] = ForkedWorker
        status = cli.main(["train", *arguments], script="python train_lora.py")
    except BaseException:  # noqa: BLE001 - the boundary of the process: nothing of it may go on as a second pytest
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
