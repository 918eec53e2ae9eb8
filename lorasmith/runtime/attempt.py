"""What the supervisor knows of one worker."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lorasmith.runs.events import RunStopped, WorkerHung
from lorasmith.runtime.policy import StallDetector
from lorasmith.runtime.processes import Output, Watchable, is_stopped, stack_of


@dataclass(slots=True)
class Attempt:
    """One worker, from its start to its end."""

    number: int
    process: Watchable
    output: Output
    ending: RunStopped | None = None
    leave_by: float = 0.0
    hung: WorkerHung | None = None
    is_over_limit: bool = False
    is_gone: bool = True  # False: nothing could end it

    @property
    def reason(self) -> str:
        """Why it ended, as far as the worker or its exit status tells; "" where it was ended because it hung."""
        if self.ending is not None:
            return str(self.ending.fields.get("reason", self.ending.code))
        return "" if self.hung is not None else f"exit status {self.process.poll()}"

    def found_hung(self, silence: StallDetector) -> WorkerHung:
        """Notes where it hangs, with the stacks of its threads."""
        is_halted = is_stopped(self.process.pid)
        self.hung = WorkerHung(
            attempt=self.number,
            time=time.time(),
            step=silence.step,
            phase=silence.phase,
            silent_seconds=round(silence.seconds, 3),
            limit_seconds=round(silence.limit, 3),
            stack="" if is_halted else stack_of(self.process, self.output),
            is_stopped=is_halted,
        )
        return self.hung
