"""The child: builds the run, trains it, and turns whatever goes wrong into an event and an exit code.

Started by the supervisor as `python -m lorasmith.runtime.worker RUN_FOLDER --attempt K --stop-at N [--resume STATE]`;
the config is read from the folder. Says nothing to people. Holds a lock of its own while it lives: no two workers write
one ledger, whatever became of their supervisors.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import gc
import io
import os
import signal
import sys
import time
import traceback
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from lorasmith.errors import ExitCode, InputError, LockedError, ResourceError, TrainerError
from lorasmith.faults import fault_point
from lorasmith.libraries import PACKAGES, importing_library
from lorasmith.runs.durable import map_disk_full
from lorasmith.runs.events import RunStopped
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.process_files import STOP_SIGNALS, HeartbeatWriter, StopFlag
from lorasmith.runtime.processes import STACK_SIGNAL

PREDECESSOR_SECONDS = 10.0  # that one which was just killed may take to be gone


def main(argv: list[str]) -> int:
    """Does one attempt and returns its exit code."""
    arguments = _parsed(argv)
    run = RunFolder(arguments.run_folder)
    stop = StopFlag(run, arguments.attempt, supervisor_pid=arguments.supervisor)
    for name in STOP_SIGNALS:
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], lambda _number, _frame: stop.set())
    facts = {"pid": os.getpid(), "attempt": arguments.attempt}
    try:
        with FolderLock(run.worker_lock, wait_seconds=PREDECESSOR_SECONDS, facts=facts):
            # Looked at only now that the next supervisor would see the lock: there is no moment between the two.
            return ExitCode.STOPPED if stop.is_orphaned() else _told(arguments, run, stop)
    except LockedError:
        return ExitCode.LOCKED
    except OSError as error:  # of the lock itself: what goes wrong later has been turned into an exit code
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return ExitCode.BAD_INPUT  # nothing was begun; where a run had, its supervisor knows


def _told(arguments: argparse.Namespace, run: RunFolder, stop: StopFlag) -> int:
    """Does the attempt and writes down how it ended."""
    ending = _attempt(arguments, run, stop)
    # StartupContext where the run stands: in its own ledger, or beside it while it has not taken its place.
    try:
        with Ledger(run.early_ledger if run.staging.exists() else run.ledger) as ledger:
            ledger.append(ending)
            ledger.sync()
        fault_point("worker.told")
    except (OSError, ResourceError):
        traceback.print_exc()  # a full disk takes no last line: then the exit code alone tells
    return ending.exit_code


def _attempt(arguments: argparse.Namespace, run: RunFolder, stop: StopFlag) -> RunStopped:
    """Loads, takes its place and trains; how it ended."""
    step = None
    # Importing makes millions of objects that stay: looking through them for garbage again and again costs a second.
    gc.disable()
    with ExitStack() as closing:
        closing.callback(gc.enable)
        try:
            # Importing torch takes seconds, in which a stop must already be heard and a failure already be reported.
            with importing_library():
                from lorasmith.engine.thread_waiting import threads_waiting_by_need
                from lorasmith.session import begin, build
                from lorasmith.session.loop import train
                from lorasmith.session.startup import StartupContext

            closing.enter_context(threads_waiting_by_need())
            heart = HeartbeatWriter(run.staging / run.heartbeat.name)
            startup = StartupContext(Ledger(run.early_ledger), heart, stop, arguments.attempt)
            closing.callback(startup.close)
            gc.enable()
            try:
                with map_disk_full(run.root):
                    loaded = build.load(
                        run,
                        attempt=arguments.attempt,
                        stop_at=arguments.stop_at,
                        resume=arguments.resume,
                        startup=startup,
                    )
            except ResourceError as error:
                raise InputError(error.code, **error.fields) from error  # nothing was begun: the user's to mend
            recorder = begin.begin(loaded)
            closing.callback(recorder.close)
            try:
                reason = train(loaded.state, loaded.context, recorder, stop)
            finally:
                step = loaded.state.step
            return RunStopped(
                attempt=arguments.attempt,
                time=time.time(),
                step=step,
                reason=reason,
                exit_code=ExitCode.FINISHED if reason == "reached" else ExitCode.STOPPED,
            )
        # The boundary of the process: it becomes an event and an exit code. A library may have called sys.exit().
        except (Exception, SystemExit) as error:  # noqa: BLE001
            return _failure(error, arguments.attempt, step)


def _failure(error: Exception | SystemExit, attempt: int, step: int | None) -> RunStopped:
    if isinstance(error, TrainerError):
        code, exit_code, fields = error.code, error.exit_code, error.fields
    elif isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error):
        code, exit_code, fields = "out_of_memory_loading", ExitCode.NO_RESOURCE, {"reason": str(error)}
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
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


def _parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lorasmith.runtime.worker")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--stop-at", type=int, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--supervisor", type=int, help="process id; the worker stops when that process is gone")
    parser.add_argument("--stacks-every", type=float, help="seconds; where no signal can ask for the stacks")
    return parser.parse_args(argv)


class _Lossy(io.RawIOBase):
    """A file that what libraries print goes to: where it cannot be written, it is lost, and training goes on."""

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
    """What a process of its own sets up before anything else: streams that cannot fail, and stacks for its watcher."""
    sys.stdout, sys.stderr = _lossy(1), _lossy(2)
    faulthandler.enable(2)
    if STACK_SIGNAL in signal.Signals.__members__:
        faulthandler.register(signal.Signals[STACK_SIGNAL], 2, all_threads=True)
    every = _parsed(argv).stacks_every
    if every is not None:
        # Once a stall time-out: of a worker that was silent for so long, one falls into its silence.
        faulthandler.dump_traceback_later(every, repeat=True, file=2)


if __name__ == "__main__":
    _settle(sys.argv[1:])
    status = main(sys.argv[1:])
    # Everything is on disk: taking down torch's modules one by one would cost two seconds.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
