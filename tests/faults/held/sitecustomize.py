"""Holds a process of the program in one phase. Python imports this by itself where its folder is in PYTHONPATH.

HELD_PHASE names the phase, HELD_FILE the file that is made once it is reached. The worker is held until it is asked to
stop; with HELD_FOR_GOOD=1 as long as it lives. Each program's start is held once: without the file.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_SECONDS = 600.0  # longer than a test waits: a program that is not killed fails it
WORKER = "lorasmith.runtime.worker"


def hold() -> None:
    Path(os.environ["HELD_FILE"]).touch()
    run = Path(sys.orig_argv[sys.orig_argv.index(WORKER) + 1])
    requests = (run / "stop.request", run.with_name(run.name + ".starting") / "stop.request")
    give_up_at = time.monotonic() + MAX_SECONDS
    while time.monotonic() < give_up_at:
        if os.environ.get("HELD_FOR_GOOD") != "1" and any(map(os.path.exists, requests)):
            return
        time.sleep(0.01)


def hold_until_interrupted() -> None:
    """The program itself hears Ctrl+C."""
    Path(os.environ["HELD_FILE"]).touch()
    give_up_at = time.monotonic() + MAX_SECONDS
    while time.monotonic() < give_up_at:
        time.sleep(0.1)  # a signal that comes just before a sleep begins is heard when it is over


def at_call(module: Any, name: str, number: int, act: Callable[[], None] = hold) -> None:
    real = getattr(module, name)
    calls = 0

    def called(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return real(*given, **more)

    setattr(module, name, called)


def loading() -> None:
    from lorasmith.families.sd15.family import StableDiffusion15

    at_call(StableDiffusion15, "load_models", 1)


def caching() -> None:
    from lorasmith.data import encode

    at_call(encode, "pixels", 2)


def step() -> None:
    from lorasmith.engine.execution import EagerExecution

    at_call(EagerExecution, "forward_backward", 3)


def saving(number: int) -> None:
    from lorasmith.session import checkpoint

    at_call(checkpoint, "manifest_bytes", number)


def exporting() -> None:
    from lorasmith.exporting import write

    at_call(write, "write_atomically", 1)


def evaluating() -> None:
    from lorasmith.evaluation import evaluator

    at_call(evaluator, "generate", 1)


def report() -> None:
    from lorasmith.reports import making

    at_call(making, "read_summary", 1, hold_until_interrupted)


def drawing() -> None:
    """What draws is being imported: the place of a module that takes long."""
    from importlib import abc, machinery

    class Finder(abc.MetaPathFinder):
        def find_spec(self, name: str, path: Any, target: Any = None) -> machinery.ModuleSpec | None:
            if name == "lorasmith.reports.drawing":
                hold_until_interrupted()
            return None

    sys.meta_path.insert(0, Finder())


PHASES: dict[str, Callable[[], None]] = {
    "loading": loading,
    "caching": caching,
    "step": step,
    "saving": lambda: saving(2),
    "exporting": exporting,
    "evaluating": evaluating,
    "last save": lambda: saving(3),
    "last evaluation": evaluating,
    "report": report,
    "drawing": drawing,
}
OF_PROGRAM = ("report", "drawing")

if os.environ.get("HELD_PHASE") in PHASES and not Path(os.environ["HELD_FILE"]).exists():
    phase = os.environ["HELD_PHASE"]
    if (phase in OF_PROGRAM) == (WORKER not in sys.orig_argv) and (phase in OF_PROGRAM or WORKER in sys.orig_argv):
        PHASES[phase]()
