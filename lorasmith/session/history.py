"""Restores what earlier starts of a run have evaluated, chosen and exported. Changes no file but the best export."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from lorasmith.config.sections import LossConfig, NoiseConfig
from lorasmith.evaluation.best import BestKeeper, best_of, comparable_best
from lorasmith.runs.events import AdapterExported, Evaluated, Event, RunStarted, RunStopped, StepCompleted, Warned
from lorasmith.runs.ledger import read_events, surviving
from lorasmith.runs.process_files import read_heartbeat
from lorasmith.session.loaded import LoadedRun
from lorasmith.session.objective import objective_identity
from lorasmith.session.sanity import Trust, trusted


@dataclass(frozen=True, slots=True)
class PriorResults:
    """The results of earlier starts that this start builds on."""

    best: BestKeeper
    exported: AdapterExported | None  # of the step that the run resumes from
    numbered: dict[str, AdapterExported]  # the newest of each LoRA file, by its name
    evaluation_is_missing: bool  # of that step
    warnings: tuple[Event, ...]  # to be recorded
    trust: Trust  # after the losses so far


def restore_results(loaded: LoadedRun) -> PriorResults:
    """Reads the ledger of a run whose newest RunStarted is that of `loaded`."""
    events = surviving(read_events(loaded.run.ledger))
    evaluator, measured_on = loaded.evaluator, loaded.evaluator.measured_on
    pictures = "" if measured_on is None else measured_on.pictures
    warnings = [*_changed_pictures(loaded, events)]
    warnings += evaluator.restore(events, has_died=_died_evaluating(loaded, events))
    warnings += _changed_validation(loaded, events, pictures)
    examples = len(measured_on.validated) if measured_on is not None and measured_on.is_held_out else 0
    newest = comparable_best(events, examples=examples, pictures=pictures) if examples else best_of(events)
    best = BestKeeper(loaded.run, loaded.attempt, loaded.names, newest)
    warnings += best.put_back(events)
    if examples:
        warnings += best.catch_up(events, examples=examples, pictures=pictures)
    exports = [event for event in events if isinstance(event, AdapterExported)]
    of_this_step = [event for event in exports if event.step == loaded.resumed_from]
    return PriorResults(
        best=best,
        exported=of_this_step[-1] if of_this_step else None,
        numbered={event.path: event for event in exports},
        evaluation_is_missing=_evaluation_is_missing(loaded, events),
        warnings=tuple(warnings),
        trust=trusted((event.step, event.loss) for event in events if isinstance(event, StepCompleted)),
    )


def _changed_pictures(loaded: LoadedRun, events: Sequence[Event]) -> list[Event]:
    """A warning if the data folder now holds other pictures than at the last start. None if the settings name another
    folder or read it differently, which is a change of settings."""
    starts = [event for event in events if isinstance(event, RunStarted) and event.attempt < loaded.attempt]
    old, new = loaded.before, loaded.config
    if not starts or old is None or (old.dataset, old.captions) != (new.dataset, new.captions):
        return []
    if old.loss.has_mask_folder != new.loss.has_mask_folder:
        return []
    before = Counter((example["fingerprint"], example["repeats"]) for example in starts[-1].examples)
    now = Counter((example.example_hash, example.repeats) for example in loaded.trained)
    if before == now:
        return []
    fields = {"new": (now - before).total(), "gone": (before - now).total(), "pictures": now.total()}
    return [Warned(attempt=loaded.attempt, time=time.time(), code="pictures_changed", fields=fields)]


def _changed_validation(loaded: LoadedRun, events: Sequence[Event], pictures: str) -> list[Event]:
    """A warning if the validation loss is measured on other pictures than before, or on none, or is another loss: its
    curve is not comparable from here on."""
    if not loaded.evaluator.is_on:
        return []
    measured = [e for e in events if isinstance(e, Evaluated) and e.validation and not e.is_control]
    if not measured or (measured[-1].validation or {}).get("pictures") in (None, "", pictures):
        return []
    expected = len(loaded.config.dataset.held_out)
    left = len({example.image_sha256 for example in loaded.held_out})
    code = "held_out_changed" if left else "held_out_none_left"
    code = code if expected else "validation_pictures_changed"
    if left and _objective_at(measured[-1], events) != objective_identity(loaded.config.loss, loaded.config.noise):
        code = "validation_loss_changed"
    fields = {"step": loaded.resumed_from or 0, "left": left, "held_out": expected}
    return [Warned(attempt=loaded.attempt, time=time.time(), code=code, fields=fields)]


def _objective_at(evaluated: Evaluated, events: Sequence[Event]) -> str:
    """The identity of the loss that an evaluation has measured: that of the settings of its start."""
    starts = [event for event in events if isinstance(event, RunStarted) and event.attempt <= evaluated.attempt]
    settings = starts[-1].settings if starts else {}
    loss, noise = LossConfig(**settings.get("loss", {})), NoiseConfig(**settings.get("noise", {}))
    return objective_identity(loss, noise)


def _died_evaluating(loaded: LoadedRun, events: Sequence[Event]) -> bool:
    """Whether the previous attempt was killed during an evaluation: its last heartbeat has that phase, and it
    recorded no end."""
    beat = read_heartbeat(loaded.run.heartbeat)
    if loaded.resumed_from is None or beat is None or beat.phase != "evaluating":
        return False
    marks = [e for e in events if isinstance(e, RunStarted | RunStopped) and e.attempt < loaded.attempt]
    return bool(marks) and isinstance(marks[-1], RunStarted)


def _evaluation_is_missing(loaded: LoadedRun, events: Sequence[Event]) -> bool:
    """Whether the run was ended between a state and the evaluation of the same step.

    Only the first start from that state tries again: an evaluation that fails each time must not stop the run.
    """
    step, evaluator = loaded.resumed_from, loaded.evaluator
    if not step or step >= loaded.stop_at or not evaluator.is_on or not evaluator.occasions.is_due(step):
        return False
    if evaluator.evaluated_step == step:
        return False
    starts = [event for event in events if isinstance(event, RunStarted) and event.attempt < loaded.attempt]
    if any(start.resumed_from == step for start in starts):
        return False
    since = [event for event in events if isinstance(event, StepCompleted) and event.step > evaluator.evaluated_step]
    return evaluator.is_worth(fsum(event.seconds for event in since))
