"""Where a run records what happens: ledger, heartbeat, states, exports and evaluations. No step is made here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lorasmith.engine.state import TrainState
from lorasmith.engine.step import StepContext, StepResult, non_finite
from lorasmith.errors import NonFiniteError, ResourceError
from lorasmith.evaluation.best import BestKeeper
from lorasmith.evaluation.evaluator import Evaluator
from lorasmith.exporting.verify import ExportError
from lorasmith.faults import fault_point
from lorasmith.runs.events import AdapterExported, CheckpointSaved, Evaluated, StepCompleted, Warned
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import PatientLedger
from lorasmith.runs.process_files import HeartbeatWriter, StopFlag, monotonic
from lorasmith.runs.states import has_sha256, newest_good
from lorasmith.session.checkpoint import StateFacts, prune_states, save_state
from lorasmith.session.disk_full import FULL, MAX_SECONDS, DiskFullRetry
from lorasmith.session.outcome import Notice
from lorasmith.session.sanity import Trust


@dataclass(frozen=True, slots=True)
class Plan:
    """How far this start goes and what is written on the way. None of it changes what is learned."""

    attempt: int
    stop_at: int
    save_every: int  # steps; 0 never
    save_seconds: float  # 0 never
    keep_states: int
    state_prefix: str
    export_name: str
    facts_at: Callable[[TrainState], StateFacts]
    export: Callable[[TrainState, Path], tuple[Path, str]]  # writes and checks a LoRA; where it lies, and its SHA-256
    notices_of_file: Callable[[TrainState], list[Notice]]  # what such a file does not hold


@dataclass(slots=True)
class Recorder:
    """Where a run says what happened: ledger, heartbeat, and the saves themselves."""

    run: RunFolder
    ledger: PatientLedger
    heart: HeartbeatWriter
    plan: Plan
    evaluator: Evaluator
    best: BestKeeper
    saved_step: int  # of the newest state on disk; -1: none yet
    saved_at: float  # monotonic seconds
    step_began: float  # monotonic seconds
    lrs: tuple[float, ...] = ()  # of the last step that was applied, by group
    exported: AdapterExported | None = None  # the newest
    owes_evaluation: bool = False  # of the step that is gone on from
    trust: Trust = field(default_factory=Trust)
    room: DiskFullRetry = field(default_factory=DiskFullRetry)

    def beat(self, step: int, phase: str, *, micro_batches: int = 0) -> None:
        # Overwritten in place, so a full disk takes it. One that copies on write may not: whoever watches then finds
        # the run silent, and that is for them to judge.
        with suppress(ResourceError):
            self.heart.beat(step, phase, micro_batches=micro_batches, waiting=self.ledger.waiting)

    def close(self) -> None:
        self.ledger.close()
        self.heart.close()

    def minutes_are_up(self) -> bool:
        """Whether the newest state is older than it may be. While saves find no room, `room` says when to try again."""
        is_old = self.plan.save_seconds > 0 and monotonic() - self.saved_at >= self.plan.save_seconds
        return is_old and not self.room.is_lacking

    def step_done(self, context: StepContext, result: StepResult) -> None:
        """Reads the step's numbers from the device and writes them down.

        Raises:
            NonFiniteError: they are not finite, and nothing of the step was applied.
        """
        if result.found_inf is not None and float(result.found_inf) > 0:
            raise non_finite(context, result.step)
        loss, norm = _number(result.loss), _number(result.grad_norm)
        now = monotonic()
        event = StepCompleted(
            attempt=self.plan.attempt,
            time=time.time(),
            step=result.step,
            epoch=result.epoch,
            loss=loss,
            lr=result.lr,
            grad_norm=norm,
            example_ids=list(result.example_ids),
            seconds=now - self.step_began,
            peak_memory=context.device.peak_memory(),
        )
        self.step_began = now
        self.ledger.append(event)
        self.trust.add(result.step, loss)
        fault_point("step.told")
        self.lrs = tuple(result.lr.values())
        self.beat(result.step, "step")

    def save(self, state: TrainState) -> None:
        """A state, and then no more old ones than were asked for.

        Raises:
            ResourceError: the disk is full; it is as if nothing had been tried.
        """
        if state.step == self.saved_step:
            return
        self.beat(state.step, "saving")
        self.ledger.sync()  # no state may be on disk whose steps are not
        began = monotonic()
        plan = self.plan
        now = datetime.now()
        path, sha256 = save_state(state, self.run, plan.facts_at(state), prefix=plan.state_prefix, now=now)
        self.saved_step, self.saved_at = state.step, monotonic()
        self.ledger.append(
            CheckpointSaved(
                attempt=plan.attempt,
                time=time.time(),
                step=state.step,
                path=path.name,
                sha256=sha256,
                seconds=self.saved_at - began,
            )
        )
        if self.room.found():
            self.warn("room_again", step=state.step)
        with suppress(ResourceError):  # the state is whole without its line; that waits for the room pruning makes
            self.ledger.sync()
        protect = self.best.protected | self.trust.protected(state, self.run.root)
        prune_states(self.run, keep=plan.keep_states, protect=protect)
        self.step_began = monotonic()

    def warn(self, code: str, **fields: Any) -> None:
        self.ledger.append(Warned(attempt=self.plan.attempt, time=time.time(), code=code, fields=fields))

    def save_or_defer(self, state: TrainState) -> None:
        """On a full disk the save is owed, and training goes on: the states that are there stay whole."""
        try:
            self.save(state)
        except ResourceError as error:
            if error.code != FULL:
                raise
            if self.room.lacked():
                self.warn("save_waits", step=state.step, path=str(self.run.root))
            self.step_began = monotonic()

    def export_or_defer(self, state: TrainState, path: Path) -> None:
        """On a full disk, or with numbers too large for the file, there is none of this step, and that is said."""
        try:
            self.export(state, path)
        except NonFiniteError as error:
            self.warn(error.code, **error.fields)
            self.step_began = monotonic()
        except ResourceError as error:
            if error.code != FULL:
                raise
            self.warn("export_left_out", step=state.step, path=path.name)
            self.step_began = monotonic()

    def wait_for_room(self, state: TrainState, stop: StopFlag, *actions: Callable[[], None]) -> None:
        """Does the actions, and has all that was told on the disk then; on a full disk they are waited for.

        Raises:
            ResourceError: it stayed full; the newest good state is named.
        """
        try:
            self.room.wait(
                [*actions, self.ledger.sync],
                begins=lambda: self.warn(
                    "end_waits", step=state.step, path=str(self.run.root), minutes=round(MAX_SECONDS / 60)
                ),
                alive=partial(self.beat, state.step, "saving"),
                stop_requested=stop.requested,
            )
        except ResourceError as error:
            good, _ = newest_good(self.run.root)
            if error.code != FULL or good is None:
                raise
            fields = {"step": state.step, "state": good.path.name, "saved": good.step}
            raise ResourceError("disk_stayed_full", path=error.fields["path"], **fields) from error
        self.step_began = monotonic()

    def export(self, state: TrainState, path: Path) -> None:
        self.beat(state.step, "exporting")
        try:
            written, sha256 = self.plan.export(state, path)
        except ExportError as error:
            if error.fields["reason"] != "not_finite":
                raise
            raise NonFiniteError("export_too_large", step=state.step, path=path.name) from error
        self.exported = AdapterExported(
            attempt=self.plan.attempt, time=time.time(), step=state.step, path=written.name, sha256=sha256
        )
        self.ledger.append(self.exported)
        self.step_began = monotonic()

    def has_exported(self, step: int) -> bool:
        """Whether the run's own export is this step's, and whole: an earlier attempt came that far."""
        told, path = self.exported, self.run.export(self.plan.export_name)
        return told is not None and (told.step, told.path) == (step, path.name) and has_sha256(path, told.sha256)

    def tell_export_again(self) -> None:
        """For whoever watches this attempt."""
        assert self.exported is not None
        self.exported = replace(self.exported, attempt=self.plan.attempt, time=time.time())
        self.ledger.append(self.exported)

    def evaluate(self, state: TrainState, context: StepContext, stop: StopFlag, *, is_end: bool = False) -> None:
        """What was learned so far, and whether that is the best; nothing where a stop is asked for meanwhile."""
        events = self.evaluator.evaluate(state, context, is_end=is_end, beat=self.beat, stop_requested=stop.requested)
        for event in events:
            self.ledger.append(event)
            if isinstance(event, Evaluated):
                for choice in self.best.look_at(event, self.exported):
                    self.ledger.append(choice)
        if events:
            with suppress(ResourceError):  # the lines wait, and the next save waits for them
                self.ledger.sync()
            fault_point("evaluation.told")
        self.step_began = monotonic()

    def evaluation_is_due(self, step: int) -> bool:
        """At the last step it is not: that one is looked at when everything of it is on the disk."""
        if step >= self.plan.stop_at:
            return False
        postponed = self.evaluator.postponed(step)
        if postponed is not None:
            self.ledger.append(postponed)
        return self.evaluator.is_due(step)


def _number(value: Tensor) -> float:
    number = float(value)
    assert math.isfinite(number), "a step that was applied has finite numbers"
    return number
