"""The whole program in a child that is forked from the test, its worker in one forked from that: command line,
supervisor and worker are the real ones, in processes of their own, and only importing is spared.
"""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import IO

from lorasmith.runtime.supervisor import Supervisor
from lorasmith.ui import cli
from tests.end_to_end.workshop import Workshop
from tests.faults.forked_worker import ForkedProcess, ForkedWorker

PROGRAM = 2  # train_lora.py's own place in what is typed: after the interpreter and itself come the arguments


class ForkedProgram(ForkedProcess):
    """`python train_lora.py …`, typed without a terminal."""

    def __init__(self, workshop: Workshop, typed: Sequence[str], output: IO[bytes]) -> None:
        import diffusers  # noqa: F401 - before the fork
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
        import transformers  # noqa: F401

        from lorasmith.reports import drawing, loss_log, page, tensorboard  # noqa: F401

        super().__init__(lambda: _live(workshop, typed[PROGRAM:], output))

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
