"""One worker from its launch to its exit: its process, its events, and why it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lorasmith.runs.events import Event, RunStopped, WorkerHung
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Follower
from lorasmith.runtime.policy import StallDetector
from lorasmith.runtime.processes import Ending, Output, Watchable, end_process, is_stopped, stack_of


class AttemptEvents:
    """Reads the events of one attempt wherever the worker writes them.

    Until model and data have loaded it writes `early.jsonl` in the staging folder, then the ledger of the run, in which
    the early events are repeated.
    """

    def __init__(self, run: RunFolder, attempt: int, *, is_resumed: bool) -> None:
        self._run = run
        self._attempt = attempt
        self._early, self._late = Follower(), Follower()
        self._repeated = 0  # early events that the ledger will repeat
        self.is_staged = True
        if is_resumed:
            self._late.read(run.ledger)  # events of earlier attempts

    def read(self) -> list[Event]:
        """Returns the events since the last call, without those of other attempts."""
        self.is_staged = self._run.staging.exists()
        if self.is_staged:
            events = self._early.read(self._run.early_ledger)
            self._repeated += len(events)
        else:
            events = self._late.read(self._run.ledger)
            events, self._repeated = events[self._repeated :], max(0, self._repeated - len(events))
        return [event for event in events if event.attempt == self._attempt]


@dataclass(slots=True)
class Attempt:
    """A worker as the supervisor knows it."""

    number: int
    process: Watchable
    output: Output
    ending: RunStopped | None = None  # the last event of the worker
    exit_by: float = 0.0  # when a worker that has reported its end must have exited
    hung: WorkerHung | None = None
    is_over_limit: bool = False  # the supervisor ended it, since the time of the run was used up
    is_unkillable: bool = False

    @property
    def reason(self) -> str:
        """The reason of its end, by its last event or its exit status; "" if it hung."""
        if self.ending is not None:
            return str(self.ending.fields.get("reason", self.ending.code))
        return "" if self.hung is not None else f"exit status {self.process.poll()}"

    def end(self, *, start_with: Ending = "terminate") -> None:
        """Ends the process, by stronger means where weaker means fail."""
        self.is_unkillable = not end_process(self.process, start_with=start_with)

    def found_hung(self, stall: StallDetector) -> WorkerHung:
        """Records where the worker hangs, with the stacks of its threads."""
        is_halted = is_stopped(self.process.pid)
        self.hung = WorkerHung(
            attempt=self.number,
            time=time.time(),
            step=stall.step,
            phase=stall.phase,
            silent_seconds=round(stall.seconds, 3),
            limit_seconds=round(stall.limit, 3),
            stack="" if is_halted else stack_of(self.process, self.output),
            is_stopped=is_halted,
        )
        return self.hung
