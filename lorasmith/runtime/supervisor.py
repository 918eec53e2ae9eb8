"""The parent process: takes the lock, starts the worker, watches it, restarts it and decides how the run has ended.

Imports no torch and prints nothing. Supervisor and worker share files and exit codes only; the caller gets events.
`runtime.policy` has the rules, `runtime.attempt` one worker, `runtime.processes` what the system is asked to do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lorasmith.config import dump_run_toml
from lorasmith.errors import ExitCode, ResourceError
from lorasmith.runs.durable import map_disk_full, map_write_errors, on_windows, write_atomically
from lorasmith.runs.events import (
    AdapterExported,
    CheckpointSaved,
    Event,
    GivenUp,
    LimitRaised,
    RunStarted,
    RunStopped,
    StepCompleted,
    Warned,
    WorkerEnded,
    WorkerRestarted,
    WorkerStarted,
)
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import DeferredLedger, newest_trusted, read_events
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.naming import FileNames
from lorasmith.runs.process_files import monotonic, read_heartbeat, request_stop, stop_requested, stop_requested_by_user
from lorasmith.runs.states import damage_listed, newest_good
from lorasmith.runtime.attempt import Attempt, AttemptEvents
from lorasmith.runtime.cleanup import (
    clear_staging,
    end_orphan,
    leave_no_staging,
    refuse_foreign_staging,
    remove_stale_worker_lock,
    remove_unfinished,
)
from lorasmith.runtime.policy import (
    DISK_CODES,
    FAILURE_EXITS,
    DeferredLinesNotice,
    Ended,
    Failure,
    ObservedClock,
    Restarts,
    StallDetector,
    TimeBudget,
    meaning_of,
)
from lorasmith.runtime.processes import Output, Watchable, launch_worker
from lorasmith.runtime.stop_signals import StopSignals

if TYPE_CHECKING:
    from lorasmith.runtime.preflight import Start

POLL_SECONDS = 0.1
LOCK_SECONDS = 0.1  # a program that asks whether a run is going on may hold the lock for a moment
EXIT_SECONDS = 2.0  # a worker that has reported its end has this long to exit

Launch = Callable[[list[str], IO[bytes]], Watchable]


class Supervisor:
    """One start of one run."""

    def __init__(self, start: Start, *, launch: Launch = launch_worker) -> None:
        self._start = start
        self._run = start.run
        self._names = FileNames(start.run, start.config.export)
        self._launch = launch
        self._stops = StopSignals()
        self._log = DeferredLedger(start.run.supervisor_log)
        self._next_request_at = 0.0
        self._has_begun = False  # RunStarted was read: the run exists
        self._has_saved = False
        self._exported_step = -1  # of the file under the run's own name
        self._resume = start.resume
        self._resume_step: int | None = None
        self._attempt: Attempt | None = None
        self._given_up: GivenUp | None = None
        self.exit_code = ExitCode.CRASHED
        self.has_placed = False  # a worker has changed the run folder, though it may not have reported that

    def events(self) -> Iterator[Event | None]:
        """Yields every event of this start as it happens, and None about ten times a second while nothing happens.

        Raises:
            LockedError: another run holds the folder.
            InputError: the folder cannot be written, or the start, planned again under the lock, is not possible.
        """
        with ExitStack() as held:
            with map_write_errors(self._run.root):
                held.enter_context(FolderLock(self._run.lock, wait_seconds=LOCK_SECONDS))
                held.enter_context(self._stops)
                refuse_foreign_staging(self._run)
                orphan = end_orphan(self._run)
                clear_staging(self._run)
                remove_unfinished(self._run)
                self._run.stop_request.unlink(missing_ok=True)  # it was for an earlier start
                # The run may have changed since the start was planned: another start had not ended yet.
                self._start = self._start.replanned()
                held.callback(leave_no_staging, self._run)
                held.callback(self._kill_worker)
                self._stage(is_placed=False)
            self._set_rules()
            number = self._first_attempt()
            if orphan is not None:
                yield self._warned(number, "orphan_ended", pid=orphan)
            try:
                yield from self._attempts(number)
            except OSError as error:  # a share is offline, or the system has made the disk read-only
                if self._attempt is None:
                    raise  # not even a first worker could be started
                reason = str(error.strerror or error)
                self._give_up("output_not_writable", ExitCode.NO_RESOURCE, folder=str(self._run.root), reason=reason)
                self._kill_worker()
            if self._given_up is not None:
                yield self._log.add(self._given_up)
            if self._has_begun or (not self._start.is_new and self.exit_code in FAILURE_EXITS.values()):
                self._log.write()  # also if --continue failed while loading: the stacks must not be lost

    def newest_state(self) -> Path | None:
        """Returns the newest state that the run can be continued from."""
        good, _ = newest_good(self._run.root, most=newest_trusted(read_events(self._run.ledger)))
        return None if good is None else good.path

    # -- one attempt -------------------------------------------------------------------------------

    def _attempts(self, number: int) -> Iterator[Event | None]:
        """Runs attempts, the first with this number, until an end is final."""
        while True:
            ended = yield from self._run_worker(number)
            meaning = meaning_of(ended)
            if isinstance(meaning, ExitCode):
                self._conclude(ended, meaning)
                return
            if not self._prepare_restart(meaning):
                return
            number += 1
            yield self._log.add(self._restarted(number, meaning))

    def _run_worker(self, number: int) -> Generator[Event | None, None, Ended]:
        """Starts a worker and follows it to its end."""
        events = AttemptEvents(self._run, number, is_resumed=self._resume is not None)
        with closing(Output()) as output:
            process = self._launch(self._arguments(number), output.file)
            attempt = self._attempt = Attempt(number, process, output)
            self._stall.attempt_began()
            self._budget.attempt_began()
            self._clock = ObservedClock(monotonic())
            pids = {"worker_pid": process.pid, "supervisor_pid": os.getpid()}
            yield self._log.add(WorkerStarted(attempt=number, time=time.time(), **pids))
            yield from self._follow(attempt, events)
            status = process.poll()
            printed = "" if status == 0 else output.text()
        by_user = self._stops.stop_requested or stop_requested_by_user(self._run, number)
        with suppress(OSError):  # then the next start removes it
            self._run.stop_request.unlink(missing_ok=True)
        remove_stale_worker_lock(self._run)
        status = int(ExitCode.STUCK) if status is None else status
        yield self._log.add(WorkerEnded(attempt=number, time=time.time(), status=status, output=printed))
        return Ended(
            status=status,
            said=None if attempt.ending is None else attempt.ending.exit_code,
            is_hung=attempt.hung is not None,
            is_over_limit=attempt.is_over_limit or attempt.is_unkillable,
            stop_requested=by_user,
            is_complete=self._exported_step == self._start.stop_at,
            is_out_of_room=self._has_begun and (attempt.ending is None or attempt.ending.code in DISK_CODES),
        )

    def _follow(self, attempt: Attempt, events: AttemptEvents) -> Iterator[Event | None]:
        """Yields the worker's events until it has exited and all of them are read."""
        while True:
            status = attempt.process.poll()
            news = events.read()
            self.has_placed |= not events.is_staged
            for event in news:
                self._record(attempt, event)
                yield event
            if not news and (status is not None or attempt.is_unkillable):
                return
            if status is None:
                yield from self._poll(attempt)
            if not news:
                yield None
                time.sleep(POLL_SECONDS)

    def _poll(self, attempt: Attempt) -> Iterator[Event]:
        """Applies time limits, forwards stop requests, ends a worker that has reported its end but does not exit."""
        now = monotonic()
        seconds = self._clock.passed(now)
        staged = self._run.staging / self._run.heartbeat.name
        beat = read_heartbeat(staged if self._run.staging.exists() else self._run.heartbeat)
        if self._stall.observe(seconds, beat):
            self._budget.moved()
        self._budget.observe(seconds, self._stall.phase)
        if self._deferred.is_due(self._stall.waiting):  # its ledger cannot tell
            yield self._warned(attempt.number, "lines_wait", step=self._stall.step)
        attempt.output.trim()
        if self._stops.stop_requested and now >= self._next_request_at:
            # Repeated each second: a request is lost where the staging folder is removed at the same moment.
            self._request_stop(attempt)
            self._next_request_at = now + 1.0
        if self._stops.kill_requested:
            attempt.end(start_with="kill")
        elif attempt.ending is not None:
            attempt.exit_by = attempt.exit_by or now + EXIT_SECONDS
            if now > attempt.exit_by:
                attempt.end()
        elif self._stall.is_exceeded:
            yield self._log.add(attempt.found_hung(self._stall))
            self._terminate_worker(attempt)
        elif self._budget.is_exceeded:
            if self._budget.is_moving(self._stall.step_limit):
                yield self._log.add(self._raised_limit(attempt))
            else:
                attempt.is_over_limit = True
                self._terminate_worker(attempt)

    def _raised_limit(self, attempt: Attempt) -> Event:
        """Gives more time to a run that makes progress."""
        self._budget.raise_for(self._start.stop_at - self._restarts.highest)
        return LimitRaised(
            attempt=attempt.number,
            time=time.time(),
            spent_seconds=round(self._budget.spent, 3),
            limit_seconds=round(self._budget.limit, 3),
            seconds_per_step=round(self._budget.seconds_per_step, 3),
        )

    def _terminate_worker(self, attempt: Attempt) -> None:
        """Ends the worker on the supervisor's own decision."""
        self._request_stop(attempt)
        attempt.end(start_with="interrupt")

    def _request_stop(self, attempt: Attempt) -> None:
        """Requests a stop. A request that a person has written stays as it is."""
        if stop_requested(self._run, attempt.number):
            return
        try:
            request_stop(self._run, attempt.number, by_supervisor=True)
        except (OSError, ResourceError):  # the disk is full: the signal means the same
            attempt.process.interrupt()

    def _record(self, attempt: Attempt, event: Event) -> None:
        """Keeps what the rules and the end of the attempt need of an event."""
        if isinstance(event, RunStarted):
            self._has_begun = True
            self._log.write()
        elif isinstance(event, StepCompleted):
            self._stall.step_completed(event.seconds)
            self._budget.step_completed(event.seconds)
            self._restarts.step_completed(event.step)
        elif isinstance(event, CheckpointSaved):
            self._has_saved = True
            self._deferred = DeferredLinesNotice()
        elif isinstance(event, AdapterExported) and event.path == self._names.recorded(self._names.last):
            self._exported_step = event.step
        elif isinstance(event, RunStopped):
            attempt.ending = event

    # -- between attempts --------------------------------------------------------------------------

    def _prepare_restart(self, failure: Failure) -> bool:
        """Prepares the next attempt; False if there is none, with the exit code set."""
        self.exit_code = FAILURE_EXITS[failure]
        if not self._restarts.try_again():
            self._give_up_after(failure)
            return False
        try:
            is_placed = clear_staging(self._run)
            remove_unfinished(self._run)
            self._stage(is_placed=is_placed)
        except ResourceError as error:
            self._give_up(error.code, ExitCode.NO_RESOURCE, **error.fields)
            return False
        if not self._has_begun:
            self._resume_step = None if self._resume is None else self._start.first_step
            return True
        good, damaged = newest_good(self._run.root)
        if good is not None:
            self._resume, self._resume_step = good.path, good.step
            return True
        if self._start.is_new and not self._has_saved:
            return True  # nothing can be lost: the run begins again
        listed = damage_listed(damaged)
        self._give_up("no_usable_state", ExitCode.NO_STATE, folder=str(self._run.root), problems=listed)
        return False

    def _restarted(self, number: int, failure: Failure) -> Event:
        assert self._attempt is not None
        return WorkerRestarted(
            attempt=number,
            time=time.time(),
            after=failure,
            reason=self._attempt.reason,
            step=self._resume_step,
            in_vain=self._restarts.in_vain,
        )

    def _give_up_after(self, failure: Failure) -> None:
        """Explains why there is no restart; nothing is added to a crash that the worker has reported itself."""
        assert self._attempt is not None
        in_vain, hung = self._restarts.in_vain, self._attempt.hung
        if failure == "hung" and hung is not None:
            fields = {"step": hung.step, "phase": hung.phase, "seconds": round(hung.silent_seconds)}
            self._give_up("stuck", ExitCode.STUCK, restarts=in_vain, **fields)
        elif in_vain > 0:
            self._give_up("crashed_again", ExitCode.CRASHED, restarts=in_vain, reason=self._attempt.reason)

    def _conclude(self, ended: Ended, exit_code: ExitCode) -> None:
        """Sets the exit code, and explains an end that the worker cannot explain."""
        assert self._attempt is not None
        self.exit_code = exit_code
        if exit_code == ExitCode.STUCK and self._attempt.is_unkillable:
            self._give_up("worker_unkillable", exit_code, pid=self._attempt.process.pid)
        elif exit_code == ExitCode.STUCK and ended.is_over_limit:
            fields = {"seconds": round(self._budget.spent), "since": round(self._budget.since_step)}
            self._give_up("run_limit", exit_code, step=self._restarts.highest, **fields)
        elif exit_code == ExitCode.LOCKED:
            self._give_up("folder_locked", exit_code, folder=str(self._run.root))
        elif exit_code == ExitCode.NO_RESOURCE and self._has_begun and self._attempt.ending is None:
            self._give_up("disk_full", exit_code, path=str(self._run.root))  # the last event could not be written

    def _give_up(self, code: str, exit_code: ExitCode, **fields: Any) -> None:
        assert self._attempt is not None
        self.exit_code = exit_code
        self._given_up = GivenUp(
            attempt=self._attempt.number, time=time.time(), code=code, fields=fields, exit_code=int(exit_code)
        )

    def _warned(self, number: int, code: str, **fields: Any) -> Event:
        return self._log.add(Warned(attempt=number, time=time.time(), code=code, fields=fields))

    # -- setting up --------------------------------------------------------------------------------

    def _set_rules(self) -> None:
        watch, start = self._start.config.watch, self._start
        self._stall = StallDetector(watch.stall_timeout)
        self._budget = TimeBudget(watch.max_seconds_per_step, start.stop_at - start.first_step, watch.stall_timeout)
        self._restarts = Restarts(start.first_step, no_restart=watch.no_restart)
        self._deferred = DeferredLinesNotice()
        self._resume = start.resume

    def _first_attempt(self) -> int:
        if self._start.is_new:
            return 1
        earlier = [*read_events(self._run.ledger), *read_events(self._run.supervisor_log)]
        return 1 + max((event.attempt for event in earlier), default=0)

    def _stage(self, *, is_placed: bool) -> None:
        """Writes the config for the worker, which moves it into the run folder when everything has loaded."""
        with map_disk_full(self._run.staging):
            self._run.staging.mkdir(parents=True)
        staged = RunFolder(self._run.staging)
        # A restart uses the settings in the run folder: `auto` is resolved in them.
        is_resolved = is_placed and self._run.config.exists()
        settings = self._run.config.read_bytes() if is_resolved else dump_run_toml(self._start.config, self._run.root)
        write_atomically(staged.config, settings)
        write_atomically(self._run.staged_pictures, self._start.seen)

    def _arguments(self, number: int) -> list[str]:
        arguments = [str(self._run.root), "--attempt", str(number), "--stop-at", str(self._start.stop_at)]
        arguments += ["--supervisor", str(os.getpid())]
        if on_windows():  # no signal requests a stack there
            arguments += ["--stacks-every", str(self._start.config.watch.stall_timeout)]
        return arguments if self._resume is None else [*arguments, "--resume", str(self._resume)]

    def _kill_worker(self) -> None:
        """Kills the worker if the supervisor exits first."""
        if self._attempt is not None:
            self._attempt.end(start_with="kill")
            remove_stale_worker_lock(self._run)
