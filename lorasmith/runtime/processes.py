"""Launches processes in a group of their own, keeps their output, gets their stacks, and ends them with their children.

Knows nothing of a run, neither its files nor why a worker should end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, Literal, Protocol

from lorasmith.processor import read_processor
from lorasmith.runtime.worker_environment import worker_environment

# Requests a stop from one process, as Ctrl+C does.
INTERRUPT = signal.Signals["CTRL_BREAK_EVENT" if sys.platform == "win32" else "SIGINT"]
STACK_SIGNAL = "SIGUSR1"  # a worker prints the stacks of all its threads when it gets it
STACK_SECONDS = 1.0
STACK_PAUSE_SECONDS = 0.1  # in which no more of it comes: then it is whole
MAX_OUTPUT = 1 << 20  # bytes
KEPT_OUTPUT = 1 << 14  # bytes
INTERRUPT_SECONDS = 2.0
TERMINATE_SECONDS = 1.0
KILL_SECONDS = 10.0  # a process that a driver holds in the kernel cannot be killed

Ending = Literal["interrupt", "terminate", "kill"]


class Output:
    """The output of a worker and its libraries, in a file without a name: it cannot stay behind, nor mix with the
    lines on the screen. If it grows too large only its end is kept."""

    def __init__(self) -> None:
        try:
            self.file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the worker
        except OSError:  # there is no place for it: then it is not kept
            self.file = open(os.devnull, "w+b", buffering=0)  # noqa: SIM115
        _append_only(self.file.fileno())

    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def text(self, begin: int = 0) -> str:
        """Returns the output from byte `begin` on, at most the last 16 KiB."""
        end = self.size()
        self.file.seek(max(begin, end - KEPT_OUTPUT))
        return self.file.read(KEPT_OUTPUT).replace(b"\0", b"").decode(errors="replace").strip()

    def trim(self) -> None:
        """Cuts a file that has grown too large down to its end."""
        if self.size() > MAX_OUTPUT:
            kept = self.text().encode()
            with suppress(OSError):  # the next call tries again
                self.file.truncate(0)
                self.file.write(kept)

    def close(self) -> None:
        self.file.close()


class WorkerProcess(subprocess.Popen[bytes]):
    """A process that leads a group of its own and is ended together with all processes it has started."""

    def interrupt(self) -> None:
        """Sends the signal of Ctrl+C to this process alone."""
        with suppress(OSError, ValueError):  # it has exited, or has no console
            self.send_signal(INTERRUPT)

    def dump_stacks(self) -> bool:
        """Makes the process print the stacks of its threads; False on a system without such a signal."""
        if STACK_SIGNAL not in signal.Signals.__members__:
            return False
        self.send_signal(signal.Signals[STACK_SIGNAL])
        return True

    def terminate(self) -> None:
        if self.poll() is None:
            end_tree(self.pid)

    def kill(self) -> None:
        if self.poll() is None:
            end_tree(self.pid, kill=True)


class Watchable(Protocol):
    """The part of a process that the supervisor uses."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def interrupt(self) -> None: ...
    def dump_stacks(self) -> bool: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def launch_worker(arguments: list[str], output: IO[bytes] | None = None) -> WorkerProcess:
    """Starts a worker in its own process group, so that Ctrl+C reaches the supervisor alone.

    The worker inherits no lock, and does not import the user's files in the current folder.
    """
    return launch([sys.executable, "-P", "-m", "lorasmith.runtime.worker", *arguments], output)


def launch(command: list[str], output: IO[bytes] | int | None = None) -> WorkerProcess:
    """Starts `command` in its own process group, with its output in `output`."""
    environment = worker_environment(os.environ, read_processor())
    return WorkerProcess(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, **_own_group()
    )


def _own_group() -> dict[str, Any]:
    """Arguments of Popen that start a process in a process group of its own: Ctrl+C does not reach it."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined, unused-ignore]
    return {"start_new_session": True}


def stack_of(process: Watchable, output: Output) -> str:
    """Returns the stacks of all threads of a worker that hangs; "" if it prints none within a second."""
    begin = output.size()
    if not process.dump_stacks():  # then the worker prints them by itself, once per stall time-out
        printed = output.text()
        return printed[max(0, printed.rfind("Timeout (")) :]
    give_up_at = time.monotonic() + STACK_SECONDS
    before = begin
    while time.monotonic() < give_up_at:
        time.sleep(STACK_PAUSE_SECONDS)
        size = output.size()
        if size > begin and size == before:
            break
        before = size
    return output.text(begin)


def is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped the process."""
    import psutil

    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def end_process(process: Watchable, *, start_with: Ending = "terminate") -> bool:
    """Ends a process by ever stronger means: interrupts and waits 2 s, terminates and waits 1 s, kills.

    Returns whether it has exited.
    """
    if process.poll() is not None:
        return True
    ways: list[tuple[Ending, Callable[[], None], float]] = [
        ("interrupt", process.interrupt, INTERRUPT_SECONDS),
        ("terminate", process.terminate, TERMINATE_SECONDS),
        ("kill", process.kill, KILL_SECONDS),
    ]
    begin = [name for name, _, _ in ways].index(start_with)
    for _, end, patience in ways[begin:]:
        end()
        if _has_exited(process, patience):
            return True
    return False


def end_tree(pid: int, *, kill: bool = False) -> None:
    """Terminates or kills a process started by `launch` and every process that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # it has exited, or is about to
            os.killpg(pid, signal.SIGKILL if kill else signal.SIGTERM)
        return
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                member.kill() if kill else member.terminate()


def _has_exited(process: Watchable, seconds: float) -> bool:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _append_only(handle: int) -> None:
    """Makes every write go to the end of the file: reader and writer share one position in it."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_APPEND)
