"""The order of operations of a run. No callbacks: what happens after a step is a line that can be read here."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Literal

from lorasmith.engine.state import TrainState
from lorasmith.engine.step import Repeat, StepContext, StepResult, train_step
from lorasmith.errors import NonFiniteError, ResourceError
from lorasmith.faults import fault_point
from lorasmith.runs.events import StepRepeated
from lorasmith.runs.process_files import StopFlag, monotonic
from lorasmith.runs.promotion import back_up_export
from lorasmith.session.outcome import digest_of, notice_of_training
from lorasmith.session.recorder import Recorder
from lorasmith.session.sanity import blamed_on_adapter

StopReason = Literal["reached", "asked"]


def train(state: TrainState, context: StepContext, recorder: Recorder, stop: StopFlag) -> StopReason:
    """Runs to exactly `plan.stop_at` completed steps, or to the first step boundary after a stop was asked for; then
    saves and exports whatever step the run stands on. What was learned is looked at last, when nothing can be lost.

    Raises:
        NonFiniteError: a step was not finite; saved as it stood before it. Or what was to be saved is not finite.
        ResourceError: out of memory, saved as it stood before the step; or the disk stayed full to the end.
    """
    recorder.step_began = monotonic()
    recorder.lrs = tuple(group["lr"] for group in state.optimizer.param_groups)
    first, before = state.step, digest_of(state.adapter)
    _owed_export(state, recorder)
    if recorder.owes_evaluation:
        recorder.evaluate(state, context, stop)
    try:
        _steps(state, context, recorder, stop)
    except NonFiniteError as error:
        if error.code == "non_finite":  # nothing of that step was applied, so what stands is whole
            _take_back(state, recorder, error.fields["step"] - 1)
            recorder.beat(state.step, "step")
            blamed = blamed_on_adapter(error, state, context, trust=recorder.trust, root=recorder.run.root)
            if blamed is not None:  # neither exported nor gone on from, but nothing is lost
                with suppress(NonFiniteError, ResourceError):
                    recorder.save(state)
                raise blamed from error
            # Too large for the file, or no room to the end: what is to be told is still why the run ends.
            with suppress(NonFiniteError, ResourceError):
                finish(state, recorder, stop)
        raise
    except ResourceError as error:
        if error.code == "out_of_memory":
            with suppress(ResourceError):
                finish(state, recorder, stop)
        raise
    finish(state, recorder, stop)
    lr = max(context.base_lrs.values())
    learned = notice_of_training(state.adapter, before=before, steps=state.step - first, lr=lr)
    for code, fields in [*learned, *recorder.plan.notices_of_file(state)]:
        recorder.warn(code, **fields)
    if state.step < recorder.plan.stop_at:
        return "asked"
    recorder.evaluate(state, context, stop, is_end=True)
    recorder.wait_for_room(state, stop)
    # Nobody asked an orphan to leave the last look out: the run has not come to its end.
    return "asked" if recorder.evaluator.owes(state.step) and stop.is_orphaned() else "reached"


def _steps(state: TrainState, context: StepContext, recorder: Recorder, stop: StopFlag) -> None:
    """The order of these lines is a contract. On a device that reads late, a step's numbers are read while the next one
    is being computed, and always before anything is saved.
    """
    plan = recorder.plan
    unread: StepResult | None = None
    while state.step < plan.stop_at and not context.world.any(stop.requested()):
        fault_point("step.boundary")
        recorder.beat(state.step, "step")
        try:
            outcome = train_step(state, context, beat=partial(recorder.beat, state.step, "step", micro_batches=1))
        finally:  # also where this step failed: the one before was applied
            if unread is not None:
                recorder.step_done(context, unread)
            unread = None
        if isinstance(outcome, Repeat):
            _repeated(recorder, state, outcome)
            continue
        fault_point("step.computed")
        export_is_due = plan.save_every > 0 and state.step % plan.save_every == 0
        save_is_due = export_is_due or recorder.minutes_are_up() or recorder.room.is_due()
        evaluation_is_due = recorder.evaluation_is_due(state.step)
        if context.device.is_async and not save_is_due and not evaluation_is_due:
            unread = outcome
            continue
        recorder.step_done(context, outcome)
        if save_is_due:
            recorder.save_or_defer(state)
        if export_is_due:
            recorder.export_or_defer(state, recorder.run.export(plan.export_name, state.step))
        if evaluation_is_due:
            recorder.evaluate(state, context, stop)
        if recorder.ledger.holds_no_more:
            recorder.wait_for_room(state, stop)
    if unread is not None:
        recorder.step_done(context, unread)


def _owed_export(state: TrainState, recorder: Recorder) -> None:
    """A run can die between a state and the export of the same step, and between that and its line."""
    plan = recorder.plan
    if not 0 < state.step <= plan.stop_at or plan.save_every == 0 or state.step % plan.save_every:
        return
    path = recorder.run.export(plan.export_name, state.step)
    if recorder.exported is None or not path.exists():
        recorder.export_or_defer(state, path)


def finish(state: TrainState, recorder: Recorder, stop: StopFlag) -> None:
    """Saves and exports whatever step the run stands on.

    Raises:
        ResourceError: the disk was full, and stayed so while it was waited for.
    """
    recorder.wait_for_room(
        state,
        stop,
        lambda: _saved(state, recorder),
        lambda: _backed_up(state, recorder),
        lambda: _exported(state, recorder),
    )


def _saved(state: TrainState, recorder: Recorder) -> None:
    recorder.save(state)
    fault_point("end.saved")


def _backed_up(state: TrainState, recorder: Recorder) -> None:
    if not recorder.has_exported(state.step):
        back_up_export(recorder.run, recorder.plan.export_name, datetime.now())
    fault_point("end.backed_up")


def _exported(state: TrainState, recorder: Recorder) -> None:
    if recorder.has_exported(state.step):
        recorder.tell_export_again()
    else:
        recorder.export(state, recorder.run.export(recorder.plan.export_name))
    fault_point("end.exported")


def _take_back(state: TrainState, recorder: Recorder, step: int) -> None:
    """The state as it was after `step`: the updates since were gated, their count and learning rate were not."""
    state.step = step
    state.found_inf = None
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
        recorder.save_or_defer(state)
