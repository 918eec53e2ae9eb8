"""The files that supervisor and worker share besides the ledger: the heartbeat and the stop request."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.faults import fault_point
from lorasmith.runs.durable import map_disk_full, on_windows, write_atomically
from lorasmith.runs.layout import RunFolder

HEARTBEAT_BYTES = 128
SUPERVISOR = "supervisor"  # as the author of a stop request
# Each of these that the platform has is a stop request, for the supervisor and for the worker.
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The newest heartbeat of the training thread."""

    step: int
    phase: str  # loading, compiling, caching, step, saving, exporting, evaluating
    beat: int  # a counter: a reader sees progress without trusting a clock
    micro_batches: int = 0  # completed by this attempt
    waiting: int = 0  # events that are not in the ledger, since the disk is full


class HeartbeatWriter:
    """Overwrites a file of fixed size in place: after the first beat this works on a full disk too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with map_disk_full(path):
            self._file = path.open("wb", buffering=0)
        self._beat = self._micro_batches = 0

    def beat(self, step: int, phase: str, *, micro_batches: int = 0, waiting: int = 0) -> None:
        """Writes a heartbeat; the training thread calls this at each unit of work.

        `micro_batches`: completed since the last call.

        Raises:
            ResourceError: the disk is full.
        """
        self._beat += 1
        self._micro_batches += micro_batches
        plain = {"step": step, "phase": phase, "beat": self._beat, "micro_batches": self._micro_batches}
        text = json.dumps({**plain, "waiting": waiting} if waiting else plain)
        with map_disk_full(self._path):
            self._file.seek(0)
            self._file.write(text.ljust(HEARTBEAT_BYTES).encode())
            fault_point("heartbeat.written")

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()


def read_heartbeat(path: Path) -> Heartbeat | None:
    """Returns the newest heartbeat; None if there is none, or while it is being overwritten."""
    try:
        plain = json.loads(path.read_bytes())
        return Heartbeat(
            step=plain["step"],
            phase=plain["phase"],
            beat=plain["beat"],
            micro_batches=plain.get("micro_batches", 0),
            waiting=plain.get("waiting", 0),
        )
    except (FileNotFoundError, PermissionError, ValueError, TypeError, KeyError, AttributeError):
        return None


class StopFlag:
    """The stop flag of a worker. A signal, a request for its own attempt and the exit of its supervisor set it."""

    def __init__(self, run: RunFolder, attempt: int, *, supervisor_pid: int | None) -> None:
        self._run = run
        self._attempt = attempt
        self._supervisor_pid = supervisor_pid
        self._supervisor = _parent() if supervisor_pid is not None and on_windows() else None
        self._signalled = False

    def set(self) -> None:
        """Called by a signal handler."""
        self._signalled = True

    def requested(self) -> bool:
        return self._signalled or self.is_orphaned() or stop_requested(self._run, self._attempt)

    def is_orphaned(self) -> bool:
        """Whether the supervisor has exited: from then on another supervisor may own the run."""
        if self._supervisor_pid is None:
            return False
        if on_windows():  # a child keeps the number of a parent that has exited
            return self._supervisor is None or not self._supervisor.is_running()
        return os.getppid() != self._supervisor_pid


def _parent() -> Any:
    """The parent as a psutil.Process; None if it has exited, even where another process has its number now."""
    import psutil

    return psutil.Process().parent()


def request_stop(run: RunFolder, attempt: int, *, by_supervisor: bool = False) -> None:
    """Writes a stop request for the worker of `attempt`, which then completes its step, saves and exits.

    The request lies in the staging folder while that exists. It is lost if that folder is removed at the same moment:
    a caller that must be sure repeats it. `by_supervisor`: no person asked for this stop.

    Raises:
        ResourceError: the disk is full.
    """
    path = run.staging / run.stop_request.name if run.staging.exists() else run.stop_request
    request = {"attempt": attempt, **({"by": SUPERVISOR} if by_supervisor else {})}
    try:
        write_atomically(path, json.dumps(request).encode())
    except FileNotFoundError:
        return


def stop_requested(run: RunFolder, attempt: int) -> bool:
    """Whether there is a stop request for `attempt`; a request for an earlier attempt is ignored."""
    return any(request.get("attempt") == attempt for request in _stop_requests(run))


def stop_requested_by_user(run: RunFolder, attempt: int) -> bool:
    """Whether a user, a web page or a script wrote the request, and not the supervisor."""
    return any(request.get("attempt") == attempt and request.get("by") != SUPERVISOR for request in _stop_requests(run))


def _stop_requests(run: RunFolder) -> Iterator[dict[str, Any]]:
    for path in (run.staging / run.stop_request.name, run.stop_request):
        try:
            request = json.loads(path.read_bytes())
        except (FileNotFoundError, PermissionError, ValueError):
            continue  # absent, being written, or not a request of this program
        if isinstance(request, dict):
            yield request


def monotonic() -> float:
    """Returns seconds of a clock that is never set; every decision uses this clock."""
    return time.monotonic()
