"""The worker process: loads a run, trains it, and turns whatever goes wrong into an event and an exit code.

Started by the supervisor as `python -m lorasmith.runtime.worker RUN_FOLDER --attempt K --stop-at N [--resume STATE]`;
the settings are in the folder. Prints nothing. Holds a lock of its own, so that two workers never write one ledger,
even if their supervisors are gone.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasmith.errors import ExitCode, InputError, LockedError, ResourceError, TrainerError
from lorasmith.faults import fault_point
from lorasmith.libraries import PACKAGES, import_diffusers_lean, importing_library, is_memory_error
from lorasmith.runs.durable import is_disk_full, map_disk_full
from lorasmith.runs.events import RunStopped
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.process_files import HeartbeatWriter, StopFlag
from lorasmith.runtime.processes import STACK_SIGNAL
from lorasmith.runtime.stop_signals import handle_stop_signals

if TYPE_CHECKING:
    from lorasmith.session.loaded import LoadedRun

PREDECESSOR_SECONDS = 10.0  # patience with a killed worker that has not released the lock yet


def main(argv: list[str]) -> int:
    """Runs an attempt and returns its exit code."""
    arguments = _parsed(argv)
    run = RunFolder(arguments.run_folder)
    stop = StopFlag(run, arguments.attempt, supervisor_pid=arguments.supervisor)
    handle_stop_signals(lambda _number, _frame: stop.set())
    facts = {"pid": os.getpid(), "attempt": arguments.attempt}
    try:
        with FolderLock(run.worker_lock, wait_seconds=PREDECESSOR_SECONDS, facts=facts):
            # Checked only now that the next supervisor would see the lock: no other worker can start in between.
            if stop.is_orphaned():
                return ExitCode.STOPPED
            ending = _attempt(arguments, run, stop)
            _write(ending, run)
            return ending.exit_code
    except LockedError:
        return ExitCode.LOCKED
    except OSError as error:  # of the lock itself: later errors have become an exit code
        if is_disk_full(error):
            return ExitCode.BAD_INPUT  # nothing was begun; if a run had begun, its supervisor knows
        raise


def _attempt(arguments: argparse.Namespace, run: RunFolder, stop: StopFlag) -> RunStopped:
    """Loads the run, trains it, and returns the event of its end."""
    started: LoadedRun | None = None
    with ExitStack() as closing:
        try:
            # Importing torch takes seconds, in which stop requests and failures must already have an effect.
            with _garbage_collection_off(), importing_library():
                _hash_ahead(run)
                from lorasmith.engine.thread_waiting import threads_waiting_by_need
                from lorasmith.session import begin, build, loop
                from lorasmith.session.startup import StartupContext

            closing.enter_context(threads_waiting_by_need())
            heart = HeartbeatWriter(run.staging / run.heartbeat.name)
            startup = StartupContext(Ledger(run.early_ledger), heart, stop, arguments.attempt)
            closing.callback(startup.close)
            with _nothing_begun(run):
                loaded = build.load(
                    run, attempt=arguments.attempt, stop_at=arguments.stop_at, resume=arguments.resume, startup=startup
                )
            outputs = begin.begin(loaded)
            closing.callback(outputs.recorder.close)
            started = loaded
            reason = loop.train(loaded, outputs, stop)
        # The boundary of the process. A library may have called sys.exit().
        except (Exception, SystemExit) as error:  # noqa: BLE001
            return _failure(error, arguments.attempt, step=None if started is None else started.state.step)
    return RunStopped(
        attempt=arguments.attempt,
        time=time.time(),
        step=loaded.state.step,
        reason=reason,
        exit_code=ExitCode.FINISHED if reason == "reached" else ExitCode.STOPPED,
    )


def _hash_ahead(run: RunFolder) -> None:
    """Begins to hash the base model. What stands in the way of that is an error of loading, and reported there."""
    from lorasmith.config import load_run_toml
    from lorasmith.families.identity import hash_ahead
    from lorasmith.inputs import base_weights

    with suppress(TrainerError, OSError):
        hash_ahead(base_weights(load_run_toml(run.staging / run.config.name)))


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Importing creates millions of objects that stay: collecting among them again and again would cost a second."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _nothing_begun(run: RunFolder) -> Iterator[None]:
    """Turns a lack of memory or disk space into an InputError: nothing was begun, so the user can correct it."""
    try:
        with map_disk_full(run.root):
            yield
    except ResourceError as error:
        raise InputError(error.code, **error.fields) from error


def _failure(error: Exception | SystemExit, attempt: int, *, step: int | None) -> RunStopped:
    """The event of an attempt that ended with `error` after `step` steps; None: it never began."""
    if isinstance(error, TrainerError):
        code, exit_code, fields = error.code, error.exit_code, error.fields
    elif isinstance(error, MemoryError) or is_memory_error(error):
        code, exit_code, fields = "out_of_memory_loading", ExitCode.NO_RESOURCE, {"reason": str(error)}
    elif isinstance(error, OSError) and is_disk_full(error):
        code, exit_code, fields = "disk_full", ExitCode.NO_RESOURCE, {"path": str(error.filename)}
    elif isinstance(error, ModuleNotFoundError) and not (error.name or "lorasmith").startswith("lorasmith"):
        module = str(error.name).split(".")[0]
        fields = {"module": module, "command": f"pip install {PACKAGES.get(module, module)}"}
        code, exit_code = "dependency_missing", ExitCode.BAD_INPUT
    else:
        code, exit_code, fields = "crashed", ExitCode.CRASHED, {"reason": f"{type(error).__name__}: {error}"}
    return RunStopped(
        attempt=attempt,
        time=time.time(),
        step=step,
        reason="asked" if exit_code == ExitCode.STOPPED else "failed",
        code=code,
        fields=fields,
        traceback="".join(traceback.format_exception(error)),
        exit_code=exit_code,
    )


def _write(ending: RunStopped, run: RunFolder) -> None:
    """Writes the last event: to the run's own ledger, or to that of the staging folder if the run has not begun."""
    try:
        with Ledger(run.early_ledger if run.staging.exists() else run.ledger) as ledger:
            ledger.append(ending)
            ledger.sync()
        fault_point("worker.told")
    except (OSError, ResourceError):
        traceback.print_exc()  # on a full disk the exit code alone says how the attempt ended


def _parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lorasmith.runtime.worker")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--stop-at", type=int, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--supervisor", type=int, help="process id; the worker stops when that process has exited")
    parser.add_argument("--stacks-every", type=float, help="seconds; where no signal requests the stacks")
    return parser.parse_args(argv)


class _Lossy(io.RawIOBase):
    """A stream for what libraries print: what cannot be written is dropped, and training goes on."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._handle

    def write(self, data: Any) -> int:
        with suppress(OSError):
            os.write(self._handle, data)
        return len(data)


def _lossy(handle: int) -> io.TextIOWrapper:
    buffer = io.BufferedWriter(_Lossy(handle))
    return io.TextIOWrapper(buffer, "utf-8", "backslashreplace", line_buffering=True)


def _settle(argv: list[str]) -> None:
    """Sets up the process: output streams that cannot fail, stacks for its supervisor, and lean imports."""
    sys.stdout, sys.stderr = _lossy(1), _lossy(2)
    faulthandler.enable(2)
    if STACK_SIGNAL in signal.Signals.__members__:
        faulthandler.register(signal.Signals[STACK_SIGNAL], 2, all_threads=True)
    every = _parsed(argv).stacks_every
    if every is not None:
        # Once in every stall time-out, so that a worker silent for that long has printed its stacks meanwhile.
        faulthandler.dump_traceback_later(every, repeat=True, file=2)
    import_diffusers_lean()


if __name__ == "__main__":
    _settle(sys.argv[1:])
    status = main(sys.argv[1:])
    # Everything is on disk, and taking down torch's modules one by one would take two seconds.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
