"""Keeps a worker in a step that is computed and not recorded yet: until its supervisor is dead, until there is a file,
or until another worker is in the same step. Python imports this by itself where its folder is in PYTHONPATH.

KEPT_IN names the step; KEPT_UNTIL the file; KEPT_WITH the folder in which both workers make one.
"""

import os
import sys
import time
from pathlib import Path

MAX_SECONDS = 600.0
WORKER = "lorasmith.runtime.worker"


def keep() -> None:
    from lorasmith import faults

    supervisor, left = os.getppid(), int(os.environ["KEPT_IN"])
    until, meeting = os.environ.get("KEPT_UNTIL", ""), os.environ.get("KEPT_WITH", "")

    def is_kept() -> bool:
        if until:
            return not Path(until).exists()
        return len(list(Path(meeting).iterdir())) < 2 if meeting else os.getppid() == supervisor

    def reached(name: str) -> None:
        nonlocal left
        if name != "step.computed":
            return
        left -= 1
        if left == 0 and meeting:
            (Path(meeting) / str(os.getpid())).touch()
        give_up_at = time.monotonic() + MAX_SECONDS
        while left == 0 and is_kept() and time.monotonic() < give_up_at:
            time.sleep(0.01)

    faults._chosen, faults._at = "kept", reached


if "SIMULATED_GPU" in os.environ:  # python imports one sitecustomize: this comes before that of the simulated GPU
    from simulated_cuda import install  # type: ignore[import-not-found]  # of a folder in PYTHONPATH

    install(os.environ["SIMULATED_GPU"])

if "KEPT_IN" in os.environ and WORKER in sys.orig_argv:
    keep()
