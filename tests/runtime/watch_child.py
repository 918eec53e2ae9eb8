"""A supervisor as a process of its own, over tests/runtime/child.py:
`python -m tests.runtime.watch_child MODE RUN N [NAME=VALUE of WatchConfig …]`.

Prints the name of each event with its step as it comes, and the exit code as the last line. Goes on with a run that has
a ledger. Where the worker is to hang, no other time counts. `quick=1`: it is not asked for long before it is killed;
`patient=1`: an orphan has all the time that it needs to leave by itself. `press=S`: two Ctrl+C
within S seconds are one press.
"""

import os
import sys
from pathlib import Path
from typing import IO
from unittest.mock import patch

from lorasmith.config import RunConfig
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.states import newest_good
from lorasmith.runtime import cleanup, processes, stop_signals
from lorasmith.runtime import supervisor as supervisor_module
from lorasmith.runtime.preflight import Start
from lorasmith.runtime.processes import WorkerProcess, launch
from lorasmith.runtime.supervisor import Supervisor
from tests.runtime import hanging

HANGING = ("stops", "sleeps")  # modes begin so


def main(mode: str, folder: str, count: str, *settings: str) -> None:
    def launch_child(arguments: list[str], output: IO[bytes]) -> WorkerProcess:
        return launch([sys.executable, "-m", "tests.runtime.child", mode, *arguments], output)

    run = RunFolder(Path(folder))
    watch = {name: float(value) for name, value in map(_pair, settings)}
    if watch.pop("quick", 0):
        processes.INTERRUPT_SECONDS = processes.TERMINATE_SECONDS = 0.1
    if watch.pop("patient", 0):
        patch.object(cleanup, "INTERRUPT_SECONDS", 100.0).start()
    if mode != "lingers":  # a busy machine may take longer to end a Python that has said its last word
        patch.object(supervisor_module, "EXIT_SECONDS", 100.0).start()
    stop_signals.SAME_PRESS_SECONDS = watch.pop("press", stop_signals.SAME_PRESS_SECONDS)
    config = RunConfig().with_values({("watch", name): value for name, value in watch.items()})
    if mode.startswith(HANGING):
        os.environ[hanging.VARIABLE] = str(run.root.with_name("hangs"))
        patch.object(supervisor_module, "ObservedClock", hanging.HangClock).start()
        processes.STACK_SECONDS = hanging.STACK_SECONDS
        processes.STACK_PAUSE_SECONDS = hanging.STACK_PAUSE_SECONDS
        launch_child = hanging.launching(launch_child)
    supervisor = Supervisor(planned(run, config, int(count)), launch=launch_child)
    for event in supervisor.events():
        if event is not None:
            say(f"{type(event).__name__} {getattr(event, 'step', '')}")
    say(str(int(supervisor.exit_code)))
    assert "torch" not in sys.modules


def planned(run: RunFolder, config: RunConfig, count: int) -> Start:
    """`count` steps, of a new run or on top of those saved."""
    if not run.ledger.exists():
        return Start(run, config, count, is_new=True, first_step=0)
    state, _ = newest_good(run.root)
    assert state is not None
    again = {"replan": lambda: planned(run, config, count)}
    return Start(run, config, state.step + count, is_new=False, first_step=state.step, resume=state.path, **again)


def _pair(setting: str) -> list[str]:
    return setting.split("=")


def say(line: str) -> None:
    sys.stdout.write(line.strip() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
