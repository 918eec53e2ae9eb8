"""The parent: takes the lock, starts the worker, follows its ledger, passes on a stop, says how it ended.

Knows no torch, no pictures and no words. It shares files and exit codes with the worker, nothing else; whoever runs it
gets events. (Restarts and time limits of a run that hangs come with the supervision issue: `_watch` is their place.)
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lorasmith.config import dump_run_toml
from lorasmith.control import STOP_SIGNALS, monotonic, request_stop
from lorasmith.errors import ExitCode, InputError, ResourceError
from lorasmith.events import Event, RunStarted, RunStopped, WorkerEnded, WorkerStarted
from lorasmith.ledger import Follower, Ledger, read_events
from lorasmith.locking import FolderLock
from lorasmith.promotion import finish_promotion
from lorasmith.run_folder import RunFolder, no_space_named, write_atomically
from lorasmith.runtime.start import Start
from lorasmith.saved_states import newest_good

POLL_SECONDS = 0.1
LEAVE_SECONDS = 2.0  # a worker that said it is done has this long to leave
TERMINATE_SECONDS = 1.0

Launch = Callable[[list[str]], "subprocess.Popen[bytes]"]


def launch_worker(arguments: list[str]) -> subprocess.Popen[bytes]:
    """A Python of its own, in a process group of its own: Ctrl+C reaches the supervisor alone. Inherits no lock."""
    command = [sys.executable, "-m", "lorasmith.runtime.worker", *arguments]
    package_root = Path(__file__).resolve().parents[2]
    search = [str(package_root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search), "PYTHONIOENCODING": "utf-8"}
    apart: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined, unused-ignore]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, **apart)


class Supervisor:
    """One start of one run."""

    def __init__(self, start: Start, *, launch: Launch = launch_worker) -> None:
        self._start = start
        self._run = start.run
        self._launch = launch
        self._stops = 0
        self._ask_again_at = 0.0
        self._leave_by = 0.0
        self._begun = False  # RunStarted was seen: the run exists
        self._ending: RunStopped | None = None
        self._own_events: list[Event] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.exit_code = ExitCode.CRASHED

    def events(self) -> Iterator[Event | None]:
        """Every event of this start as it happens; None about ten times a second when nothing did.

        Raises:
            LockedError: another run holds the folder.
            InputError: nothing can be written there.
        """
        with ExitStack() as held:
            with _refusals_named(self._run.root):
                held.enter_context(FolderLock(self._run.lock))
                held.enter_context(self._stop_signals())
                _clear_staging(self._run)
                held.callback(_clear_staging, self._run)
                held.callback(self._end_worker, patience=0.0)
                self._stage()
            earlier = [] if self._start.is_new else read_events(self._run.ledger)
            yield from self._watch(1 + max((event.attempt for event in earlier), default=0))

    def newest_state(self) -> Path | None:
        """The newest state that can be continued from."""
        good, _ = newest_good(self._run.root)
        return None if good is None else good.path

    def _stage(self) -> None:
        """The config that the worker reads; it takes its place in the run when everything has loaded."""
        self._run.staging.mkdir(parents=True)
        staged = RunFolder(self._run.staging)
        write_atomically(staged.config, dump_run_toml(self._start.config))

    def _watch(self, attempt: int) -> Iterator[Event | None]:
        """Starts the worker and follows it to its end."""
        self._process = self._launch(self._arguments(attempt))
        pid = self._process.pid
        yield self._own(WorkerStarted(attempt=attempt, time=time.time(), worker_pid=pid, supervisor_pid=os.getpid()))
        # Until model and data have loaded the worker speaks in the staging folder, then in the run's own ledger.
        early, late = Follower(), Follower()
        if not self._start.is_new:
            late.read(self._run.ledger)  # what earlier attempts wrote is not news
        heard = 0  # of the early events: the run's own ledger begins this start with all of them
        while True:
            status = self._process.poll()
            is_staged = self._run.staging.exists()
            news = early.read(self._run.early_ledger) if is_staged else late.read(self._run.ledger)
            if is_staged:
                heard += len(news)
            else:
                news, heard = news[heard:], max(0, heard - len(news))
            for event in news:
                self._note(event)
                yield event
            if status is not None and not news:
                break
            self._act(attempt)
            if not news:
                yield None
                time.sleep(POLL_SECONDS)
        self._run.stop_request.unlink(missing_ok=True)
        yield self._own(WorkerEnded(attempt=attempt, time=time.time(), status=status))
        self.exit_code = self._meaning_of(status)

    def _act(self, attempt: int) -> None:
        """What a stop request, or a worker that said it is done and does not leave, asks for."""
        now = monotonic()
        if self._stops and now >= self._ask_again_at:
            # Asked again each second: a request can fall between the staging folder and the run.
            self._ask_to_stop(attempt)
            self._ask_again_at = now + 1.0
        if self._stops > 1:
            self._end_worker(patience=0.0)
        if self._ending is not None:
            self._leave_by = self._leave_by or now + LEAVE_SECONDS
            if now > self._leave_by:
                self._end_worker(patience=TERMINATE_SECONDS)

    def _ask_to_stop(self, attempt: int) -> None:
        try:
            request_stop(self._run, attempt)
        except (OSError, ResourceError):  # a full disk takes no request: the signal means the same
            assert self._process is not None
            self._process.terminate()

    def _note(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._begun = True
            self._write_own()
        elif isinstance(event, RunStopped):
            self._ending = event

    def _own(self, event: Event) -> Event:
        """An event of the supervisor's own log, kept back until there is a run to log it in."""
        self._own_events.append(event)
        if self._begun:
            self._write_own()
        return event

    def _write_own(self) -> None:
        with Ledger(self._run.supervisor_log) as log:
            for event in self._own_events:
                log.append(event)
        self._own_events.clear()

    def _meaning_of(self, status: int) -> ExitCode:
        """A worker that said how it ended is believed, even where it had to be ended afterwards."""
        if self._ending is not None:
            return ExitCode(self._ending.exit_code)
        if self._stops:
            return ExitCode.STOPPED
        return ExitCode.CRASHED if status not in set(ExitCode) else ExitCode(status)

    def _arguments(self, attempt: int) -> list[str]:
        arguments = [str(self._run.root), "--attempt", str(attempt), "--stop-at", str(self._start.stop_at)]
        arguments += ["--supervisor", str(os.getpid())]
        return arguments if self._start.resume is None else [*arguments, "--resume", str(self._start.resume)]

    def _end_worker(self, *, patience: float) -> None:
        """Terminates, waits, kills; with no patience kills at once. Does nothing where the worker is gone."""
        if self._process is None or self._process.poll() is not None:
            return
        if patience > 0:
            self._process.terminate()
            try:
                self._process.wait(timeout=patience)
                return
            except subprocess.TimeoutExpired:
                pass  # it was asked; now it is not asked any more
        self._process.kill()
        self._process.wait()

    @contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """Counts the stop signals of this platform while a worker is watched over."""
        before: dict[int, Any] = {}
        for name in STOP_SIGNALS:
            if name in signal.Signals.__members__:
                number = signal.Signals[name]
                before[number] = signal.signal(number, self._count_stop)
        try:
            yield
        finally:
            for taken, handler in before.items():
                signal.signal(taken, handler)

    def _count_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stops += 1


@contextmanager
def _refusals_named(folder: Path) -> Iterator[None]:
    """A folder that cannot be written, and a disk that is full already, as the InputErrors they are before a run."""
    try:
        with no_space_named(folder):
            yield
    except ResourceError as error:
        raise InputError(error.code, **error.fields) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError("output_not_writable", folder=str(folder), reason=str(error.strerror)) from error
        raise


def _clear_staging(run: RunFolder) -> None:
    """Staging is ours alone: nothing of the user's is in it. But half of a promotion must not stay: it is finished."""
    if not finish_promotion(run) and run.staging.exists():
        shutil.rmtree(run.staging)
