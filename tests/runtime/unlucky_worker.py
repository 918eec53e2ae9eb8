"""The real worker, to which one thing happens: `python -m tests.runtime.unlucky_worker HOW …` and the worker's own
arguments. HOW: "sleep" in the forward of step 3, "stop" by a signal there, "kill" there, each in the first attempt.
"""

import os
import signal
import sys
import time
from typing import Any

from lorasmith.runtime import worker

BAD_STEP = 3


def sleep_in_forward() -> None:
    """Found by name in the stack."""
    while True:
        time.sleep(60)


def main(how: str, arguments: list[str]) -> int:
    from lorasmith.training import step as step_module

    real = step_module.losses_of
    calls = 0

    def losses_of(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == BAD_STEP and "--resume" not in arguments:
            if how == "sleep":
                sleep_in_forward()
            os.kill(os.getpid(), signal.SIGSTOP if how == "stop" else signal.SIGKILL)
        return real(*given)

    step_module.losses_of = losses_of  # type: ignore[assignment]
    return worker.main(arguments)


if __name__ == "__main__":
    worker._settle(sys.argv[2:])
    os._exit(main(sys.argv[1], sys.argv[2:]))
