"""The order of operations of a run. No callbacks: whatever happens after a step is a line here."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Literal

from lorasmith.engine.optimizers import set_rates
from lorasmith.engine.state import TrainState
from lorasmith.engine.step import Repeat, StepContext, train_step
from lorasmith.errors import DatasetError, NonFiniteError, ResourceError
from lorasmith.runs.process_files import StopFlag
from lorasmith.session.loaded import LoadedRun
from lorasmith.session.notices import adapter_digest, training_notices
from lorasmith.session.outputs import Outputs
from lorasmith.session.sanity import blamed_on_adapter

StopReason = Literal["reached", "asked"]


def train(loaded: LoadedRun, outputs: Outputs, stop: StopFlag) -> StopReason:
    """Trains to exactly `stop_at` completed steps, or to the first step boundary after a stop request, then saves and
    exports. Evaluates the last step at the very end, when nothing can be lost any more.

    Raises:
        NonFiniteError: a step was not finite, and the state before it was saved; or the state itself is not finite.
        ResourceError: out of memory, and the state before the step was saved; or the disk stayed full.
        DatasetError: a picture cannot be read any more, and the state before the step was saved.
    """
    state, context = loaded.state, loaded.context
    first, before = state.step, adapter_digest(state.adapter)
    outputs.catch_up(state, stop)
    try:
        _steps(state, context, outputs, stop)
    except NonFiniteError as error:
        if error.code == "non_finite":
            _save_before(error, state, context, outputs, stop)
        raise
    except ResourceError as error:
        if error.code == "out_of_memory":
            with suppress(ResourceError):  # the first error is why the run ends
                outputs.finish(state, stop)
        raise
    except DatasetError:  # a picture that is encoded as it is used
        with suppress(ResourceError):
            outputs.finish(state, stop)
        raise
    outputs.finish(state, stop)
    lr = max(context.base_lrs.values())
    learned = training_notices(state.adapter, digest_before=before, steps=state.step - first, lr=lr)
    with state.evaluation_weights():
        of_the_file = loaded.exporter.notices(state)
    for code, fields in [*learned, *of_the_file]:
        outputs.recorder.warn(code, **fields)
    if state.step < loaded.stop_at:
        return "asked"
    outputs.evaluate(state, stop, is_end=True)
    outputs.wait_for_disk(state, stop)
    # An orphaned worker skips the final evaluation, so the run is not finished.
    return "asked" if loaded.evaluator.misses(state.step) and stop.is_orphaned() else "reached"


def _steps(state: TrainState, context: StepContext, outputs: Outputs, stop: StopFlag) -> None:
    """The training loop. The order of these lines is a contract."""
    recorder = outputs.recorder
    while state.step < outputs.loaded.stop_at and not context.world.any(stop.requested()):
        recorder.begin_step(state.step)
        with recorder.flush_on_exit():  # reads the previous step, while the device computes this step
            result = train_step(state, context, beat=partial(recorder.beat, state.step, "step", micro_batches=1))
        if isinstance(result, Repeat):
            outputs.record_repeat(state, result)
            continue
        recorder.record(result)
        outputs.save_if_due(state)
        outputs.export_if_due(state)
        outputs.evaluate_if_due(state, stop)
        outputs.wait_if_ledger_is_full(state, stop)
    recorder.flush()


def _save_before(
    error: NonFiniteError, state: TrainState, context: StepContext, outputs: Outputs, stop: StopFlag
) -> None:
    """Saves and exports the state before the step of `error`: nothing of that step was applied.

    Raises:
        NonFiniteError: `non_finite_weights`, the weights themselves are to blame. They are saved but not exported, and
            the error names an older state to continue from.
    """
    recorder = outputs.recorder
    # The updates since were skipped on the device, but their steps and learning rates were counted.
    state.step = error.fields["step"] - 1
    set_rates(state.optimizer, recorder.lrs)
    recorder.beat(state.step, "step")
    blamed = blamed_on_adapter(error, state, context, trust=recorder.trust, root=outputs.loaded.run.root)
    # A failed save or export is ignored here: the first error is why the run ends.
    with suppress(NonFiniteError, ResourceError):
        if blamed is None:
            outputs.finish(state, stop)
        else:
            outputs.save(state)
    if blamed is not None:
        raise blamed from error
