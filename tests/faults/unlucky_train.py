"""`lorasmith train` with a worker to which something happens: `python -m tests.faults.unlucky_train HOW …` and what is
typed. HOW: child:MODE for tests/runtime/child.py, which knows no torch; worker:HOW for tests/runtime/unlucky_worker.py,
which is the real one. Time in which it does not hang or spin does not count.
"""

import os
import sys
from pathlib import Path
from typing import IO
from unittest.mock import patch

from lorasmith.runtime import policy
from lorasmith.runtime import supervisor as supervisor_module
from lorasmith.runtime.processes import WorkerProcess, launch
from lorasmith.runtime.supervisor import Supervisor
from lorasmith.ui import cli
from tests.runtime import hanging

FIRST_TIMES = 2  # instead of the program's: the limit of a run is short, and still longer than a beat is late
MODULES = {"child": "tests.runtime.child", "worker": "tests.runtime.unlucky_worker"}


def main(how: str, *typed: str) -> int:
    which, _, mode = how.partition(":")

    def launch_it(arguments: list[str], output: IO[bytes]) -> WorkerProcess:
        return launch([sys.executable, "-m", MODULES[which], mode, *arguments], output)

    os.environ[hanging.VARIABLE] = str(Path.cwd() / "hangs")
    policy.FIRST_TIMES = FIRST_TIMES
    patch.object(supervisor_module, "ObservedClock", hanging.HangClock).start()
    Supervisor.__init__.__kwdefaults__["launch"] = hanging.launching(launch_it)
    return cli.main(["train", *typed])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
