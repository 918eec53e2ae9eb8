"""Runs that are looked at while they train, for the tests that disturb them: settings, losses known beforehand, and
what has to be the same in the end.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from lorasmith.evaluation import evaluator
from lorasmith.evaluation.evaluator import Evaluator
from lorasmith.runs.events import BestChosen, Evaluated
from tests.end_to_end.workshop import Workshop
from tests.evaluation.few_steps import sample_in

EVALUATED: Mapping[tuple[str, str], Any] = {
    ("evaluation", "every"): 2,
    ("evaluation", "examples"): 1,
    ("dataset", "hold_out"): 1,
}


def know_losses(patch: pytest.MonkeyPatch, losses: Mapping[int, float]) -> None:
    """Of the steps that are looked at, where the real ones hardly differ. Steps are shorter than looking at them here,
    and nobody looks at the pictures."""
    patch.setattr(evaluator, "MAX_SHARE", 1.0)
    sample_in(patch, 3)
    real = Evaluator._validation

    def validation(self: Evaluator, context: Any, unavailable: dict[str, str], alive: Any) -> Any:
        described = real(self, context, unavailable, alive)
        assert described is not None
        described["loss"] = losses[alive.step]
        return described

    patch.setattr(Evaluator, "_validation", validation)


class Close(float):
    """Equals what differs in its last digits. Rounded, two such numbers may fall on two sides of a border."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(self - other) < 1e-4

    __hash__ = None


def told(workshop: Workshop) -> list[tuple[Any, ...]]:
    """What was measured and chosen. After a death while looking it is done in smaller batches, whose last digits are
    others."""
    found: list[tuple[Any, ...]] = []
    for event in workshop.events():
        if isinstance(event, Evaluated):
            found.append(measured(event))
        if isinstance(event, BestChosen):
            found.append((event.step, event.loss))
    return found


def measured(event: Evaluated) -> tuple[Any, ...]:
    assert event.visual is not None and event.color is not None and event.validation is not None
    quantiles = [Close(loss) for loss in event.validation["by_quantile"]]
    return event.step, event.is_control, Close(event.visual), Close(event.color), quantiles


def check_best(workshop: Workshop) -> None:
    """The file of the best step is the one that is told, and what is told is the step's own export."""
    chosen = [event for event in workshop.events() if isinstance(event, BestChosen)]
    file = workshop.run.export("last-best")
    if not chosen:
        assert not file.exists()
        return
    kept = file.read_bytes()
    assert hashlib.sha256(kept).hexdigest() == chosen[-1].sha256
    assert chosen[-1].loss == min(one.loss for one in chosen)
    export = workshop.run.export("last", chosen[-1].step)
    assert not export.exists() or export.read_bytes() == kept
