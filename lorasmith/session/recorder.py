"""Records what a run does while it trains: the events of its steps in the ledger, and the heartbeat."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from lorasmith.engine.step import Repeat, StepContext, StepResult, non_finite
from lorasmith.errors import ResourceError
from lorasmith.faults import fault_point
from lorasmith.runs.events import StepCompleted, StepRepeated, Warned
from lorasmith.runs.ledger import PatientLedger
from lorasmith.runs.process_files import HeartbeatWriter, monotonic
from lorasmith.session.sanity import Trust


@dataclass(slots=True)
class Recorder:
    """Writes the ledger and the heartbeat of an attempt.

    On an asynchronous device the numbers of a step are read while the device computes the next step; until then they
    are `pending`. Whatever saves, exports or evaluates calls `flush` first.
    """

    attempt: int
    ledger: PatientLedger
    heart: HeartbeatWriter
    context: StepContext
    trust: Trust
    lrs: tuple[float, ...]  # learning rates of the newest recorded step, by parameter group
    step_began: float  # monotonic seconds
    pending: StepResult | None = None

    def beat(self, step: int, phase: str, *, micro_batches: int = 0) -> None:
        # In-place overwriting needs no space, except on copy-on-write file systems: there the supervisor sees a silent
        # worker and judges it by the time limits.
        with suppress(ResourceError):
            self.heart.beat(step, phase, micro_batches=micro_batches, waiting=self.ledger.waiting)

    def warn(self, code: str, **fields: Any) -> None:
        self.ledger.append(Warned(attempt=self.attempt, time=time.time(), code=code, fields=fields))

    def begin_step(self, done: int) -> None:
        """Marks the boundary after `done` completed steps."""
        fault_point("step.boundary")
        self.beat(done, "step")

    @contextmanager
    def flush_on_exit(self) -> Iterator[None]:
        """Flushes afterwards, also if the step inside fails: the step before it was applied."""
        try:
            yield
        finally:
            self.flush()

    def record(self, result: StepResult) -> None:
        """Records a step, at the latest with the next call of `flush`.

        Raises:
            NonFiniteError: as `flush`.
        """
        fault_point("step.computed")
        self.pending = result
        if not self.context.device.is_async:
            self.flush()

    def flush(self) -> None:
        """Reads the numbers of a pending step from the device and writes them to the ledger.

        Raises:
            NonFiniteError: they are not finite, so nothing of the step was applied.
        """
        result, self.pending = self.pending, None
        if result is not None:
            self.write_step(result)

    def write_step(self, result: StepResult) -> None:
        """Writes the event of a completed step.

        Raises:
            NonFiniteError: as `flush`.
        """
        numbers = result.numbers()
        if numbers.found_inf > 0:
            raise non_finite(self.context, result.step)
        assert all(map(math.isfinite, numbers)), "a step that was applied has finite numbers"
        now = monotonic()
        event = StepCompleted(
            attempt=self.attempt,
            time=time.time(),
            step=result.step,
            epoch=result.epoch,
            loss=numbers.loss,
            lr=result.lr,
            grad_norm=numbers.grad_norm,
            example_ids=list(result.example_ids),
            seconds=now - self.step_began,
            peak_memory=self.context.device.peak_memory(),
        )
        self.step_began = now
        self.ledger.append(event)
        self.trust.add(result.step, numbers.loss)
        fault_point("step.told")
        self.lrs = tuple(result.lr.values())
        self.beat(result.step, "step")

    def write_repeat(self, done: int, repeat: Repeat) -> None:
        """Writes the event of a step that was not applied, after `done` completed steps."""
        self.ledger.append(
            StepRepeated(
                attempt=self.attempt,
                time=time.time(),
                step=repeat.step,
                reason=repeat.reason,
                scale=repeat.scale,
                micro_split=repeat.micro_split,
                gradient_checkpointing=repeat.gradient_checkpointing,
            )
        )
        self.beat(done, "step")

    @contextmanager
    def apart_from_steps(self) -> Iterator[None]:
        """Keeps the time inside out of the seconds of the next step."""
        try:
            yield
        finally:
            self.step_began = monotonic()

    def close(self) -> None:
        self.ledger.close()
        self.heart.close()
