"""The parent: takes the lock, starts the worker, watches it, starts it again where that may help, says how it ended.

Knows no torch, no pictures and no words. It shares files and exit codes with the worker, nothing else; whoever runs it
gets events. What counts as stuck, and what then follows, is `runtime.policy`'s to say; how a process is ended,
`runtime.processes`'.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import IO, Any

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
from lorasmith.runs.ledger import Follower, newest_trusted, read_events
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.process_files import monotonic, read_heartbeat, request_stop, stop_requested, stop_requested_by_user
from lorasmith.runs.states import damage_listed, newest_good
from lorasmith.runtime.attempt import Attempt
from lorasmith.runtime.cleanup import (
    clear_staging,
    end_orphan,
    leave_no_staging,
    refuse_foreign_staging,
    remove_stale_worker_lock,
    remove_unfinished,
)
from lorasmith.runtime.own_log import OwnLog
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
from lorasmith.runtime.processes import Output, Watchable, end_process, launch_worker
from lorasmith.runtime.start import Start
from lorasmith.runtime.stop_signals import StopSignals

POLL_SECONDS = 0.1
LOCK_SECONDS = 0.1  # a program that asks whether a run is going on may hold the lock for a moment
EXIT_SECONDS = 2.0  # a worker that has reported its end has this long to exit

Launch = Callable[[list[str], IO[bytes]], Watchable]


class Supervisor:
    """One start of one run."""

    def __init__(self, start: Start, *, launch: Launch = launch_worker) -> None:
        self._start = start
        self._run = start.run
        self._launch = launch
        self._stops = StopSignals()
        self._log = OwnLog(start.run.supervisor_log)
        self._next_request_at = 0.0
        self._begun = False  # RunStarted was seen: the run exists
        self._has_saved = False
        self._exported_step = -1  # of the file under the run's own name
        self._resume = start.resume
        self._resume_step: int | None = None
        self._attempt: Attempt | None = None
        self._last_word: GivenUp | None = None
        self.exit_code = ExitCode.CRASHED
        self.has_placed = False  # whether a worker has changed the run folder, though it may not have said so

    def events(self) -> Iterator[Event | None]:
        """Every event of this start as it happens; None about ten times a second when nothing did.

        Raises:
            LockedError: another run holds the folder.
            InputError: nothing can be written there; or what had to be planned anew, now that the folder is held,
                cannot be done.
        """
        with ExitStack() as held:
            with map_write_errors(self._run.root):
                held.enter_context(FolderLock(self._run.lock, wait_seconds=LOCK_SECONDS))
                held.enter_context(self._stops)
                refuse_foreign_staging(self._run)
                orphan = end_orphan(self._run)
                clear_staging(self._run)
                remove_unfinished(self._run)
                self._run.stop_request.unlink(missing_ok=True)  # nobody has asked this start yet
                # What was planned may no longer hold: a run that was still going on has ended meanwhile.
                self._start = self._start.again()
                held.callback(leave_no_staging, self._run)
                held.callback(self._end_worker)
                self._stage(is_placed=False)
            self._set_rules()
            number = self._next_attempt()
            if orphan is not None:
                fields = {"pid": orphan}
                yield self._log.add(Warned(attempt=number, time=time.time(), code="orphan_ended", fields=fields))
            try:
                yield from self._attempts(number)
            except OSError as error:  # a share that is gone, a disk that the system has made read-only
                if self._attempt is None:
                    raise  # not even a first worker could be started
                reason = str(error.strerror or error)
                self._give_up("output_not_writable", ExitCode.NO_RESOURCE, folder=str(self._run.root), reason=reason)
                self._end_worker()
            if self._last_word is not None:
                yield self._log.add(self._last_word)
            if self._begun or (not self._start.is_new and self.exit_code in FAILURE_EXITS.values()):
                self._log.write()  # also of a start that failed before it went on with its run: no stack may be lost

    def newest_state(self) -> Path | None:
        """The newest state that can be continued from."""
        good, _ = newest_good(self._run.root, most=newest_trusted(read_events(self._run.ledger)))
        return None if good is None else good.path

    # -- one attempt -------------------------------------------------------------------------------

    def _attempts(self, number: int) -> Iterator[Event | None]:
        """From the one of that number to the last."""
        while True:
            ended = yield from self._watched(number)
            meaning = meaning_of(ended)
            if isinstance(meaning, ExitCode):
                self._finally(ended, meaning)
                return
            if not self._tried_again(meaning):
                return
            number += 1
            yield self._log.add(self._restarted(number, meaning))

    def _watched(self, number: int) -> Generator[Event | None, None, Ended]:
        """Starts a worker and follows it to its end; returns what is known of that."""
        late = Follower()  # of the run's own ledger, where what earlier attempts wrote is not news
        if self._resume is not None:
            late.read(self._run.ledger)
        with closing(Output()) as output:
            process = self._launch(self._arguments(number), output.file)
            now = self._attempt = Attempt(number, process, output)
            self._silence.attempt_began()
            self._budget.attempt_began()
            self._time = ObservedClock(monotonic())
            pids = {"worker_pid": process.pid, "supervisor_pid": os.getpid()}
            yield self._log.add(WorkerStarted(attempt=number, time=time.time(), **pids))
            yield from self._followed(now, late)
            status = process.poll()
            said = "" if status == 0 else output.text()
        requested = self._stops.stop_requested or stop_requested_by_user(self._run, number)
        with suppress(OSError):  # the next start takes it away
            self._run.stop_request.unlink(missing_ok=True)
        remove_stale_worker_lock(self._run)
        status = int(ExitCode.STUCK) if status is None else status
        yield self._log.add(WorkerEnded(attempt=number, time=time.time(), status=status, output=said))
        return Ended(
            status=status,
            said=None if now.ending is None else now.ending.exit_code,
            is_hung=now.hung is not None,
            is_over_limit=now.is_over_limit or not now.is_gone,
            stop_requested=requested,
            is_complete=self._exported_step == self._start.stop_at,
            is_out_of_room=self._begun and (now.ending is None or now.ending.code in DISK_CODES),
        )

    def _followed(self, now: Attempt, late: Follower) -> Iterator[Event | None]:
        """What the worker says, until it is gone and everything is heard."""
        # Until model and data have loaded it speaks in the staging folder, then in the run's own ledger.
        early = Follower()
        heard = 0  # of the early events: the run's own ledger begins this attempt with all of them
        while True:
            status = now.process.poll()
            is_staged = self._run.staging.exists()
            self.has_placed |= not is_staged
            news = early.read(self._run.early_ledger) if is_staged else late.read(self._run.ledger)
            if is_staged:
                heard += len(news)
            else:
                news, heard = news[heard:], max(0, heard - len(news))
            for event in news:
                if event.attempt == now.number:  # nobody else's word counts
                    self._note(event)
                    yield event
            if not news and (status is not None or not now.is_gone):
                return
            if status is None:
                yield from self._look(now)
            if not news:
                yield None
                time.sleep(POLL_SECONDS)

    def _look(self, now: Attempt) -> Iterator[Event]:
        """What time that has passed, a stop request, or a worker that is done and stays, asks for."""
        seconds = self._time.passed(monotonic())
        staged = self._run.staging / self._run.heartbeat.name
        beat = read_heartbeat(staged if self._run.staging.exists() else self._run.heartbeat)
        if self._silence.look(seconds, beat):
            self._budget.moved()
        if self._backlog.is_news(self._silence.waiting):  # what its ledger cannot say
            fields = {"step": self._silence.step}
            yield self._log.add(Warned(attempt=now.number, time=time.time(), code="lines_wait", fields=fields))
        self._budget.look(seconds, self._silence.phase)
        now.output.trim()
        clock = monotonic()
        if self._stops.stop_requested and clock >= self._next_request_at:
            # Repeated each second: a request is lost where the staging folder is removed in the same moment.
            self._request_stop(now)
            self._next_request_at = clock + 1.0
        if self._stops.kill_requested:
            now.is_gone = end_process(now.process, start_with="kill")
        elif now.ending is not None:
            now.leave_by = now.leave_by or clock + EXIT_SECONDS
            if clock > now.leave_by:
                now.is_gone = end_process(now.process)
        elif self._silence.is_broken:
            yield from self._hung(now)
        elif self._budget.is_reached:
            yield from self._over_limit(now)

    def _hung(self, now: Attempt) -> Iterator[Event]:
        yield self._log.add(now.found_hung(self._silence))
        self._terminate_worker(now)

    def _over_limit(self, now: Attempt) -> Iterator[Event]:
        """More time for a run that is moving; the end of one that is not."""
        if self._budget.is_moving(self._silence.step_limit):
            self._budget.raise_for(self._start.stop_at - self._restarts.highest)
            yield self._log.add(
                LimitRaised(
                    attempt=now.number,
                    time=time.time(),
                    spent_seconds=round(self._budget.spent, 3),
                    limit_seconds=round(self._budget.limit, 3),
                    seconds_per_step=round(self._budget.seconds_per_step, 3),
                )
            )
            return
        now.is_over_limit = True
        self._terminate_worker(now)

    def _terminate_worker(self, now: Attempt) -> None:
        """Ends the worker on the supervisor's own decision."""
        self._request_stop(now)
        now.is_gone = end_process(now.process, start_with="interrupt")

    def _note(self, event: Event) -> None:
        """What the worker of this attempt says."""
        assert self._attempt is not None
        if isinstance(event, RunStarted):
            self._begun = True
            self._log.write()
        elif isinstance(event, StepCompleted):
            self._silence.step_completed(event.seconds)
            self._budget.step_completed(event.seconds)
            self._restarts.step_completed(event.step)
        elif isinstance(event, CheckpointSaved):
            self._has_saved = True
            self._backlog = DeferredLinesNotice()
        elif isinstance(event, AdapterExported) and event.path == self._run.export(self._start.config.export.name).name:
            self._exported_step = event.step
        elif isinstance(event, RunStopped):
            self._attempt.ending = event

    # -- between attempts --------------------------------------------------------------------------

    def _tried_again(self, failure: Failure) -> bool:
        """Whether there is a next attempt: then all is set for it. Else the exit code is, and the last word."""
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
        if not self._begun:
            self._resume_step = None if self._resume is None else self._start.first_step
            return True
        good, damaged = newest_good(self._run.root)
        if good is not None:
            self._resume, self._resume_step = good.path, good.step
            return True
        if self._start.is_new and not self._has_saved:
            return True  # it had nothing to lose yet: once more from the beginning
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
        """Says nothing more where what the worker itself said is all there is to say."""
        assert self._attempt is not None
        in_vain, hung = self._restarts.in_vain, self._attempt.hung
        if failure == "hung" and hung is not None:
            fields = {"step": hung.step, "phase": hung.phase, "seconds": round(hung.silent_seconds)}
            self._give_up("stuck", ExitCode.STUCK, restarts=in_vain, **fields)
        elif in_vain > 0:
            self._give_up("crashed_again", ExitCode.CRASHED, restarts=in_vain, reason=self._attempt.reason)

    def _finally(self, ended: Ended, meaning: ExitCode) -> None:
        """The end of the last attempt, and what the worker could not say of it."""
        assert self._attempt is not None
        self.exit_code = meaning
        if meaning == ExitCode.STUCK and not self._attempt.is_gone:
            self._give_up("worker_unkillable", meaning, pid=self._attempt.process.pid)
        elif meaning == ExitCode.STUCK and ended.is_over_limit:
            fields = {"seconds": round(self._budget.spent), "since": round(self._budget.since_step)}
            self._give_up("run_limit", meaning, step=self._restarts.highest, **fields)
        elif meaning == ExitCode.LOCKED:
            self._give_up("folder_locked", meaning, folder=str(self._run.root))
        elif meaning == ExitCode.NO_RESOURCE and self._begun and self._attempt.ending is None:
            self._give_up("disk_full", meaning, path=str(self._run.root))  # it took no last line

    def _give_up(self, code: str, exit_code: ExitCode, **fields: Any) -> None:
        assert self._attempt is not None
        self.exit_code = exit_code
        self._last_word = GivenUp(
            attempt=self._attempt.number, time=time.time(), code=code, fields=fields, exit_code=int(exit_code)
        )

    # -- files, signals, the process ---------------------------------------------------------------

    def _set_rules(self) -> None:
        watch, start = self._start.config.watch, self._start
        self._silence = StallDetector(watch.stall_timeout)
        self._budget = TimeBudget(watch.max_seconds_per_step, start.stop_at - start.first_step, watch.stall_timeout)
        self._restarts = Restarts(start.first_step, no_restart=watch.no_restart)
        self._backlog = DeferredLinesNotice()
        self._resume = start.resume

    def _next_attempt(self) -> int:
        if self._start.is_new:
            return 1
        earlier = [*read_events(self._run.ledger), *read_events(self._run.supervisor_log)]
        return 1 + max((event.attempt for event in earlier), default=0)

    def _stage(self, *, is_placed: bool) -> None:
        """The config that the worker reads; it takes its place in the run when everything has loaded."""
        with map_disk_full(self._run.staging):
            self._run.staging.mkdir(parents=True)
        staged = RunFolder(self._run.staging)
        # Once the run has its place its own settings hold what `auto` has become: a restart is on the same terms.
        is_resolved = is_placed and self._run.config.exists()
        settings = self._run.config.read_bytes() if is_resolved else dump_run_toml(self._start.config, self._run.root)
        write_atomically(staged.config, settings)
        write_atomically(self._run.staged_pictures, self._start.seen)

    def _arguments(self, number: int) -> list[str]:
        arguments = [str(self._run.root), "--attempt", str(number), "--stop-at", str(self._start.stop_at)]
        arguments += ["--supervisor", str(os.getpid())]
        if on_windows():  # no signal asks for a stack there
            arguments += ["--stacks-every", str(self._start.config.watch.stall_timeout)]
        return arguments if self._resume is None else [*arguments, "--resume", str(self._resume)]

    def _request_stop(self, now: Attempt) -> None:
        """Requests a stop, unless a person has: their request stays as it is."""
        if stop_requested(self._run, now.number):
            return
        try:
            request_stop(self._run, now.number, by_supervisor=True)
        except (OSError, ResourceError):  # a full disk takes no request: the signal means the same
            now.process.interrupt()

    def _end_worker(self) -> None:
        """Of a supervisor that leaves before its worker did."""
        if self._attempt is not None:
            end_process(self._attempt.process, start_with="kill")
            remove_stale_worker_lock(self._run)
