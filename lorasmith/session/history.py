"""What earlier starts of a run have measured and chosen, for the start that goes on from them. Changes nothing but the
file of the best step.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from lorasmith.evaluation.best import BestKeeper, best_of, comparable_best
from lorasmith.runs.events import AdapterExported, Evaluated, Event, RunStarted, RunStopped, StepCompleted, Warned
from lorasmith.runs.ledger import read_events, surviving
from lorasmith.runs.process_files import read_heartbeat
from lorasmith.session.loaded import Loaded
from lorasmith.session.sanity import Trust, trusted


@dataclass(frozen=True, slots=True)
class PriorResults:
    """For the recorder."""

    best: BestKeeper
    exported: AdapterExported | None  # of the step that is gone on from
    owes_evaluation: bool  # of that step
    said: tuple[Event, ...]  # belongs into the ledger
    trust: Trust  # by the losses so far


def recall(loaded: Loaded) -> PriorResults:
    """Once the start has its place, and RunStarted in the ledger."""
    events = surviving(read_events(loaded.run.ledger))
    said = [*_told_of_pictures(loaded, events)]
    said += loaded.evaluator.recall(events, has_died=_died_measuring(loaded, events))
    measured_on = loaded.evaluator.measured_on
    is_apart = measured_on is not None and measured_on.is_held_out and measured_on.validated
    examples = len(measured_on.validated) if measured_on is not None and is_apart else None
    pictures = "" if measured_on is None else measured_on.pictures
    said += _told_of_validation(loaded, events, pictures)
    best = best_of(events) if examples is None else comparable_best(events, examples=examples, pictures=pictures)
    keeper = BestKeeper(loaded.run, loaded.attempt, loaded.config.export.name, best)
    said += keeper.put_back(events)
    if examples is not None:
        said += keeper.catch_up(events, examples=examples, pictures=pictures)
    exported = [one for one in events if isinstance(one, AdapterExported) and one.step == loaded.resumed_from]
    owes = _owes_evaluation(loaded, events)
    trust = trusted((one.step, one.loss) for one in events if isinstance(one, StepCompleted))
    return PriorResults(keeper, exported[-1] if exported else None, owes, tuple(said), trust)


def _told_of_pictures(loaded: Loaded, events: Sequence[Event]) -> tuple[Event, ...]:
    """What lies in the folder by now is trained on, also where a worker is only started again: that is to be said. Not
    where the settings say that it is another folder, or another way to look at it."""
    starts = [one for one in events if isinstance(one, RunStarted) and one.attempt < loaded.attempt]
    if not starts or loaded.before is None or loaded.before.dataset != loaded.config.dataset:
        return ()
    before = Counter((one["fingerprint"], one["repeats"]) for one in starts[-1].examples)
    now = Counter((one.example_hash, one.repeats) for one in loaded.trained)
    if before == now:
        return ()
    fields = {"new": (now - before).total(), "gone": (before - now).total(), "pictures": now.total()}
    return (Warned(attempt=loaded.attempt, time=time.time(), code="pictures_changed", fields=fields),)


def _told_of_validation(loaded: Loaded, events: Sequence[Event], pictures: str) -> tuple[Event, ...]:
    """Where the validation loss is measured on other pictures than it was, or on none any more: that is to be said, as
    its curve goes on from there as another one."""
    if not loaded.evaluator.is_on:
        return ()
    measured = [
        one.validation for one in events if isinstance(one, Evaluated) and one.validation and not one.is_control
    ]
    before = measured[-1] if measured else {}
    if before.get("pictures") in (None, "", pictures):
        return ()
    expected = len(loaded.config.dataset.held_out)
    fields = {"step": loaded.resumed_from or 0, "left": len({one.image_sha256 for one in loaded.held_out})}
    code = "held_out_changed" if fields["left"] else "held_out_none_left"
    code = code if expected else "validation_pictures_changed"
    return (Warned(attempt=loaded.attempt, time=time.time(), code=code, fields={**fields, "held_out": expected}),)


def _died_measuring(loaded: Loaded, events: Sequence[Event]) -> bool:
    """Whether the attempt before this one was ended from outside while it was measuring: its last sign of life says
    so, and it had no last word."""
    beat = read_heartbeat(loaded.run.heartbeat)
    if loaded.resumed_from is None or beat is None or beat.phase != "evaluating":
        return False
    marks = [one for one in events if isinstance(one, RunStarted | RunStopped) and one.attempt < loaded.attempt]
    return bool(marks) and isinstance(marks[-1], RunStarted)


def _owes_evaluation(loaded: Loaded, events: Sequence[Event]) -> bool:
    """A run can die, or be asked to stop, between a state and the evaluation of the same step. Tried by one start only:
    what fails there again must not keep the run from going on."""
    step, evaluator = loaded.resumed_from, loaded.evaluator
    if not step or step >= loaded.stop_at or not evaluator.is_on or step % evaluator.every != 0:
        return False
    if evaluator.evaluated_step == step:
        return False
    if any(isinstance(one, RunStarted) and one.resumed_from == step and one.attempt < loaded.attempt for one in events):
        return False
    since = [one for one in events if isinstance(one, StepCompleted) and one.step > evaluator.evaluated_step]
    return evaluator.is_worth(fsum(one.seconds for one in since))
