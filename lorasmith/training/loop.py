"""The order of operations of a run. No callbacks: what happens after a step is a line that can be read here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor

from lorasmith.control import HeartbeatWriter, StopFlag, monotonic
from lorasmith.errors import NonFiniteError, ResourceError
from lorasmith.events import AdapterExported, CheckpointSaved, Evaluated, StepCompleted, StepRepeated
from lorasmith.exporting.verify import ExportError
from lorasmith.faults import fault_point
from lorasmith.ledger import Ledger
from lorasmith.promotion import back_up_export
from lorasmith.run_folder import RunFolder
from lorasmith.training.best import BestKeeper
from lorasmith.training.checkpoint import StateFacts, prune_states, save_state
from lorasmith.training.evaluation import Evaluator
from lorasmith.training.state import TrainState
from lorasmith.training.step import Parts, Repeat, StepResult, non_finite, train_step

StopReason = Literal["reached", "asked"]


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


@dataclass(slots=True)
class Recorder:
    """Where a run says what happened: ledger, heartbeat, and the saves themselves."""

    run: RunFolder
    ledger: Ledger
    heart: HeartbeatWriter
    plan: Plan
    evaluator: Evaluator
    best: BestKeeper
    saved_step: int  # of the newest state on disk; -1: none yet
    saved_at: float  # monotonic seconds
    step_began: float  # monotonic seconds
    lrs: tuple[float, ...] = ()  # of the last step that was applied, by group
    exported: AdapterExported | None = None  # the newest

    def beat(self, step: int, phase: str) -> None:
        self.heart.beat(step, phase)

    def close(self) -> None:
        self.ledger.close()
        self.heart.close()

    def minutes_are_up(self) -> bool:
        """Whether the newest state is older than it may be."""
        return self.plan.save_seconds > 0 and monotonic() - self.saved_at >= self.plan.save_seconds

    def step_done(self, parts: Parts, result: StepResult) -> None:
        """Reads the step's numbers from the device and writes them down.

        Raises:
            NonFiniteError: they are not finite, and nothing of the step was applied.
        """
        if result.is_bad is not None and float(result.is_bad) > 0:
            raise non_finite(parts, result.step)
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
            peak_memory=parts.device.peak_memory(),
        )
        self.step_began = now
        self.ledger.append(event)
        fault_point("step.told")
        self.lrs = tuple(result.lr.values())
        self.beat(result.step, "step")

    def save(self, state: TrainState) -> None:
        """A state, and then no more old ones than were asked for."""
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
        self.ledger.sync()
        prune_states(self.run, keep=plan.keep_states, protect=self.best.protected)
        self.step_began = monotonic()

    def export(self, state: TrainState, path: Path) -> None:
        self.beat(state.step, "exporting")
        written, sha256 = self.plan.export(state, path)
        self.exported = AdapterExported(
            attempt=self.plan.attempt, time=time.time(), step=state.step, path=written.name, sha256=sha256
        )
        self.ledger.append(self.exported)
        self.step_began = monotonic()

    def evaluate(self, state: TrainState, parts: Parts, stop: StopFlag, *, is_end: bool = False) -> None:
        """What was learned so far, and whether that is the best; nothing where a stop is asked for meanwhile."""
        events = self.evaluator.evaluate(state, parts, is_end=is_end, beat=self.beat, stop_requested=stop.requested)
        for event in events:
            self.ledger.append(event)
            if isinstance(event, Evaluated):
                for choice in self.best.look_at(event, self.exported):
                    self.ledger.append(choice)
        if events:
            self.ledger.sync()
        self.step_began = monotonic()

    def evaluation_is_due(self, step: int) -> bool:
        """At the last step it is not: that one is looked at when everything of it is on the disk."""
        if step >= self.plan.stop_at:
            return False
        postponed = self.evaluator.postponed(step)
        if postponed is not None:
            self.ledger.append(postponed)
        return self.evaluator.is_due(step)


def train(state: TrainState, parts: Parts, recorder: Recorder, stop: StopFlag) -> StopReason:
    """Runs to exactly `plan.stop_at` completed steps, or to the first step boundary after a stop was asked for; then
    saves and exports whatever step the run stands on. What was learned is looked at last, when nothing can be lost.

    Raises:
        NonFiniteError: a step was not finite; saved as it stood before it. Or what was to be saved is not finite.
        ResourceError: out of memory, saved as it stood before the step; or the disk is full.
    """
    recorder.step_began = monotonic()
    recorder.lrs = tuple(group["lr"] for group in state.optimizer.param_groups)
    _owed_export(state, recorder)
    try:
        _steps(state, parts, recorder, stop)
    except NonFiniteError as error:
        if error.code == "non_finite":  # nothing of that step was applied, so what stands is whole
            _take_back(state, recorder, error.fields["step"] - 1)
            with suppress(ExportError):  # too large for the file's precision; the state has the numbers whole
                finish(state, recorder)
        raise
    except ResourceError as error:
        if error.code == "out_of_memory":
            finish(state, recorder)
        raise
    finish(state, recorder)
    if state.step < recorder.plan.stop_at:
        return "asked"
    recorder.evaluate(state, parts, stop, is_end=True)
    return "reached"


def _steps(state: TrainState, parts: Parts, recorder: Recorder, stop: StopFlag) -> None:
    """The order of these lines is a contract. On a device that reads late, a step's numbers are read while the next one
    is being computed, and always before anything is saved.
    """
    plan = recorder.plan
    unread: StepResult | None = None
    while state.step < plan.stop_at and not stop.requested():
        fault_point("step.boundary")
        try:
            outcome = train_step(state, parts, beat=partial(recorder.beat, state.step, "step"))
        finally:  # also where this step failed: the one before was applied
            if unread is not None:
                recorder.step_done(parts, unread)
            unread = None
        if isinstance(outcome, Repeat):
            _repeated(recorder, state, outcome)
            continue
        fault_point("step.computed")
        export_is_due = plan.save_every > 0 and state.step % plan.save_every == 0
        save_is_due = export_is_due or recorder.minutes_are_up()
        evaluation_is_due = recorder.evaluation_is_due(state.step)
        if parts.device.reads_late and not save_is_due and not evaluation_is_due:
            unread = outcome
            continue
        recorder.step_done(parts, outcome)
        if save_is_due:
            recorder.save(state)
        if export_is_due:
            recorder.export(state, recorder.run.export(plan.export_name, state.step))
        if evaluation_is_due:
            recorder.evaluate(state, parts, stop)
    if unread is not None:
        recorder.step_done(parts, unread)


def _owed_export(state: TrainState, recorder: Recorder) -> None:
    """A run can die between a state and the export of the same step."""
    plan = recorder.plan
    if not 0 < state.step < plan.stop_at or plan.save_every == 0 or state.step % plan.save_every:
        return
    path = recorder.run.export(plan.export_name, state.step)
    if not path.exists():
        recorder.export(state, path)


def finish(state: TrainState, recorder: Recorder) -> None:
    """Saves and exports whatever step the run stands on."""
    recorder.save(state)
    fault_point("end.saved")
    back_up_export(recorder.run, recorder.plan.export_name, datetime.now())
    fault_point("end.backed_up")
    recorder.export(state, recorder.run.export(recorder.plan.export_name))
    fault_point("end.exported")


def _take_back(state: TrainState, recorder: Recorder, step: int) -> None:
    """The state as it was after `step`: the updates since were gated, their count and learning rate were not."""
    state.step = step
    state.found_bad = None
    for group, lr in zip(state.optimizer.param_groups, recorder.lrs, strict=True):
        group["lr"] = lr


def _repeated(recorder: Recorder, state: TrainState, repeat: Repeat) -> None:
    recorder.ledger.append(
        StepRepeated(
            attempt=recorder.plan.attempt,
            time=time.time(),
            step=repeat.step,
            reason=repeat.reason,
            scale=repeat.scale,
            micro_split=repeat.micro_split,
            gradient_checkpointing=repeat.gradient_checkpointing,
        )
    )
    recorder.beat(state.step, "step")
    if repeat.reason == "out_of_memory":
        recorder.saved_step = -1  # the new split decides the bytes from here on: it must be in a state
        recorder.save(state)


def _number(value: Tensor) -> float:
    number = float(value)
    assert math.isfinite(number), "a step that was applied has finite numbers"
    return number
