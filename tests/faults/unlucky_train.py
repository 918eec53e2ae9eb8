"""`lorasmith train` with a worker to which something happens: `python -m tests.faults.unlucky_train HOW …` and what is
typed. HOW: child:MODE for tests/runtime/child.py, which knows no torch; worker:HOW for tests/runtime/unlucky_worker.py,
which is the real one.
"""

import sys
from typing import IO

from lorasmith.runtime.processes import WorkerProcess, launch
from lorasmith.runtime.supervisor import Supervisor
from lorasmith.ui import cli

MODULES = {"child": "tests.runtime.child", "worker": "tests.runtime.unlucky_worker"}


def main(how: str, *typed: str) -> int:
    which, _, mode = how.partition(":")

    def launch_it(arguments: list[str], output: IO[bytes]) -> WorkerProcess:
        return launch([sys.executable, "-m", MODULES[which], mode, *arguments], output)

    Supervisor.__init__.__kwdefaults__["launch"] = launch_it
    return cli.main(["train", *typed])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
