"""The real worker, to which one thing happens: `python -m tests.runtime.unlucky_worker HOW …` and the worker's own
arguments. HOW: "sleep" in the forward of step 3, "stop" by a signal there, "kill" there, each in the first attempt;
"spin" in step 3, "kill_same" in step 3 and "kill_later" in the third forward, each in every attempt.
"""

import os
import signal
import sys
import time
from typing import Any
from unittest.mock import patch

from lorasmith.runtime import worker
from tests.runtime.hanging import hang_begins, stop_begins

BAD_STEP = 3
ONCE = ("sleep", "stop", "kill")


def sleep_in_forward() -> None:
    """Found by name in the stack."""
    hang_begins()
    while True:
        time.sleep(60)


def main(how: str, arguments: list[str]) -> int:
    from lorasmith.engine.execution import EagerExecution
    from lorasmith.engine.step import train_step as real_step
    from lorasmith.session import loop as loop_module

    real = EagerExecution.forward_backward
    calls = 0

    def forward_backward(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if how == "kill_later" and calls == BAD_STEP:
            os.kill(os.getpid(), signal.SIGKILL)
        if how in ONCE and calls == BAD_STEP and "--resume" not in arguments:
            if how == "sleep":
                sleep_in_forward()
            stop_begins()
            os.kill(os.getpid(), signal.SIGSTOP if how == "stop" else signal.SIGKILL)
        return real(*given)

    def train_step(state: Any, context: Any, *, beat: Any) -> Any:
        while how == "spin" and state.step == BAD_STEP - 1:
            hang_begins()
            beat()
            time.sleep(0.05)
        if how == "kill_same" and state.step == BAD_STEP - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real_step(state, context, beat=beat)

    EagerExecution.forward_backward = forward_backward
    patch.object(loop_module, "train_step", train_step).start()
    return worker.main(arguments)


if __name__ == "__main__":
    worker._settle(sys.argv[2:])
    os._exit(main(sys.argv[1], sys.argv[2:]))
