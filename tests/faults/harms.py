"""What can happen to the real worker: each harm is patched into its own process, before it begins.

`python -m tests.faults.harms NAME …` is the worker with that harm, in a Python of its own.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NoReturn
from unittest.mock import patch

from lorasmith.runtime import worker
from tests.runtime.hanging import hang_begins, stop_begins

BAD_STEP = 3
FIRST_STEPS = 4  # of the one that becomes slow
SLOW = 12
STEP_SECONDS = 0.25


def is_first(arguments: list[str]) -> bool:
    """Whether this is the attempt that things happen to: the others find everything as it should be."""
    return arguments[arguments.index("--attempt") + 1] == "1"


def sleep_here() -> NoReturn:
    """Found by name in the stack."""
    hang_begins()
    while True:
        time.sleep(60)


def stop_here() -> None:
    stop_begins()
    os.kill(os.getpid(), signal.SIGSTOP)


def read_a_pipe(*_: Any, **__: Any) -> bytes:
    """Nobody ever writes into it: the call does not come back from the system."""
    path = f"/tmp/nobody_writes_{os.getpid()}"
    os.mkfifo(path)
    handle = os.open(path, os.O_RDWR)  # so that opening it for reading does not wait; reading does
    Path(path).unlink()
    hang_begins()
    return os.read(handle, 1)


def at_call(module: Any, name: str, number: int, act: Callable[[], Any]) -> None:
    """`act` comes before the call of that number."""
    real = getattr(module, name)
    calls = 0

    def called(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return real(*given, **more)

    setattr(module, name, called)


def stop() -> None:
    from lorasmith.engine.execution import EagerExecution

    at_call(EagerExecution, "forward_backward", BAD_STEP, stop_here)


def sleep() -> None:
    from lorasmith.engine.execution import EagerExecution

    at_call(EagerExecution, "forward_backward", BAD_STEP, sleep_here)


def read() -> None:
    """Of a caption: pictures are not read again while loading where they have not changed."""
    from lorasmith.data import captions

    at_call(captions, "read_whole", 2, read_a_pipe)


def cache() -> None:
    from lorasmith.data import encode

    at_call(encode, "pixels", 2, read_a_pipe)


def load() -> None:
    from lorasmith.families.sd15.family import StableDiffusion15

    at_call(StableDiffusion15, "load_models", 1, sleep_here)


def save() -> None:
    """Nothing of a state of step 2 has its name yet."""
    from lorasmith.session import checkpoint

    at_call(checkpoint, "manifest_bytes", 2, sleep_here)


def export() -> None:
    from lorasmith.exporting import write

    at_call(write, "write_atomically", 1, sleep_here)


def evaluate() -> None:
    from lorasmith.evaluation import evaluator

    at_call(evaluator, "generate", 1, sleep_here)


def slow() -> None:
    """From a step on each takes more than ten times as long as its own first ones, what is computed counted in. It is
    held to account from its first step on."""
    from lorasmith.engine.step import train_step as real
    from lorasmith.session import loop

    began: list[float] = []

    def train_step(state: Any, context: Any, *, beat: Any) -> Any:
        def slow_beat() -> None:
            time.sleep(max(0.0, ends_at - time.monotonic()))
            beat()

        hang_begins()
        began.append(time.monotonic())
        seconds = STEP_SECONDS
        if state.step >= FIRST_STEPS:  # a busy machine has slow first steps of its own
            first = began[: FIRST_STEPS + 1]
            seconds = SLOW * max(STEP_SECONDS, median(after - before for before, after in pairwise(first)))
        ends_at = began[-1] + seconds
        return real(state, context, beat=slow_beat)

    patch.object(loop, "train_step", train_step).start()


def poison(where: str) -> None:
    """From the bad step on, each time it is done: not a number in its gradient, or in a weight before it."""
    from lorasmith.engine import step

    real = step._forward_backward

    def poisoned(state: Any, context: Any, **which: Any) -> Any:
        if which["step"] == BAD_STEP and where == "weight":
            state.adapter.flat[7] = float("nan")
        found = real(state, context, **which)
        if which["step"] == BAD_STEP and where == "gradient":
            state.adapter.gradient()[7] = float("nan")
        return found

    step._forward_backward = poisoned


def short_of_memory() -> None:
    """Every forward but the first fails."""
    from lorasmith.engine.execution import EagerExecution

    real = EagerExecution.forward_backward
    calls = 0

    def forward_backward(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory")
        return real(*given)

    EagerExecution.forward_backward = forward_backward


# What comes again with each worker.
LASTING: dict[str, Callable[[], None]] = {
    "slow": slow,
    "gradient": lambda: poison("gradient"),
    "weight": lambda: poison("weight"),
    "memory": short_of_memory,
}
# name -> (what is done to the worker, the phase it is silent in, a name that its stack must hold)
HANGS: dict[str, tuple[Callable[[], None], str, str]] = {
    "stop": (stop, "step", ""),
    "sleep": (sleep, "step", "sleep_here"),
    "read": (read, "loading", "read_a_pipe"),
    "cache": (cache, "caching", "read_a_pipe"),
    "load": (load, "loading", "sleep_here"),
    "save": (save, "saving", "sleep_here"),
    "export": (export, "exporting", "sleep_here"),
    "evaluate": (evaluate, "evaluating", "sleep_here"),
}


def harm(name: str) -> Callable[[list[str]], None]:
    """What hangs, hangs in the first attempt alone."""

    def harmed(arguments: list[str]) -> None:
        if name in LASTING:
            LASTING[name]()
        elif is_first(arguments):
            HANGS[name][0]()

    return harmed


if __name__ == "__main__":
    worker._settle(sys.argv[2:])
    harm(sys.argv[1])(sys.argv[2:])
    ended = 70
    with suppress(SystemExit):
        ended = worker.main(sys.argv[2:])
    os._exit(ended)
