"""Looks at what was learned, at steps that are due: validation loss, samples, and how far those are from the examples.

Watching changes nothing: the adapter and the models are left as they were found, no number of training's streams is
drawn, and nothing that goes wrong here ends the training. Appends nothing itself: it returns what there is to say.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config.sections import EvaluationConfig
from lorasmith.engine.device import is_out_of_memory
from lorasmith.engine.state import TrainState
from lorasmith.engine.step import StepContext
from lorasmith.errors import ModelError, ResourceError
from lorasmith.evaluation.choose import EvaluationSet
from lorasmith.evaluation.limits import MAX_SHARE
from lorasmith.evaluation.metrics import NOT_FINITE, OUT_OF_MEMORY, PictureMetrics, PictureScores
from lorasmith.evaluation.samples import Sample, generate
from lorasmith.evaluation.validation import validation_losses
from lorasmith.faults import fault_point
from lorasmith.runs.durable import write_atomically
from lorasmith.runs.events import Evaluated, Event, RunStarted, Warned
from lorasmith.runs.layout import RunFolder, free_name
from lorasmith.runs.process_files import monotonic

MODEL_FAILED, NOT_WRITTEN = "base_model_failed", "samples_not_written"
DIED, OFF = "evaluation_died", "evaluation_off"
HELD_OUT_GONE = "held_out_gone"
AT_ONCE = 8
"""Pictures, or predictions for the validation loss, in a batch."""
PICTURE_MEASURES = ("visual", "semantic", "color")
CONTROL = "control"

Beat = Callable[[int, str], None]


class EvaluationStoppedError(Exception):
    """A stop was asked for meanwhile: what was not finished is not told."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """A sign of life at each unit of work, where a stop request takes effect."""

    step: int
    beat: Beat
    stop_requested: Callable[[], bool]

    def __call__(self) -> None:
        self.beat(self.step, "evaluating")
        if self.stop_requested():
            raise EvaluationStoppedError


@dataclass(slots=True)
class Evaluator:
    """Made once a start; `recall` tells it what earlier starts have done."""

    run: RunFolder
    attempt: int
    every: int  # steps; 0 never
    settings: EvaluationConfig
    measured_on: EvaluationSet | None  # None: never
    comparer: PictureMetrics
    has_control: bool = False
    control_folder: str = CONTROL
    evaluated_step: int = -1  # the newest one
    cost_seconds: float = 0.0  # of the newest evaluation, without the control; 0: none yet
    spent_seconds: float = 0.0  # on all evaluations of this start, with the control
    began_at: float = 0.0  # monotonic: when training began
    has_said_less: bool = False
    at_once: int = AT_ONCE

    @property
    def is_on(self) -> bool:
        return self.every > 0 and self.measured_on is not None

    def recall(self, events: Sequence[Event], *, has_died: bool = False) -> list[Event]:
        """Takes from the surviving events of the run what need not be done again.

        `has_died`: the last attempt was ended from outside while it was measuring, as happens where the system has no
        memory left. Then one picture is made at a time; after the second time in a row, none in this start.
        """
        self.began_at = monotonic()
        settings: Mapping[str, Any] = {}
        deaths = 0
        for event in events:
            if isinstance(event, RunStarted):
                settings = event.settings.get("evaluation", {})
            if isinstance(event, Warned) and event.code in (DIED, OFF):
                deaths += 1
            if not isinstance(event, Evaluated):
                continue
            if event.is_control:
                self.has_control = self._is_same(event, settings)
                if not self.has_control:  # its pictures stay where they are
                    self.control_folder = free_name(self.run.samples / CONTROL).name
            else:
                self.evaluated_step, self.cost_seconds = event.step, event.seconds
                deaths = 0
        if not self.is_on or not has_died:
            return []
        self.at_once = 1
        if deaths > 0:
            self.every = 0
        return [Warned(attempt=self.attempt, time=time.time(), code=OFF if deaths > 0 else DIED)]

    def is_due(self, step: int) -> bool:
        """Whether to evaluate at a step that is not the last."""
        if not self.is_on or step % self.every != 0 or step == self.evaluated_step:
            return False
        return self._share() <= MAX_SHARE

    def owes(self, step: int) -> bool:
        """Whether that step was to be looked at, and was not."""
        return self.is_on and step != self.evaluated_step

    def postponed(self, step: int) -> Warned | None:
        """Said once: why nothing was evaluated at a step that would have been due."""
        if not self.is_on or step % self.every != 0 or self.has_said_less or self._share() <= MAX_SHARE:
            return None
        self.has_said_less = True
        fields = {"every": self.every, "seconds": round(self.cost_seconds, 1), "percent": round(100 * MAX_SHARE)}
        return Warned(attempt=self.attempt, time=time.time(), code="evaluation_less_often", fields=fields)

    def evaluate(
        self, state: TrainState, context: StepContext, *, is_end: bool, beat: Beat, stop_requested: Callable[[], bool]
    ) -> list[Event]:
        """What was measured, the control first where there is none yet; nothing of it half done.

        With `is_end` also what is too long for every time. Nothing where this step has been evaluated.
        """
        if not self.owes(state.step):
            return []
        alive = Pulse(state.step, beat, stop_requested)
        events: list[Event] = []
        began = monotonic()
        fault_point("evaluation.begun")
        try:
            with undisturbed(state.adapter, context.models):
                if not self.has_control:
                    state.adapter.set_multiplier(0.0)
                    events += self._measured(state.step, context, is_control=True, is_end=is_end, alive=alive)
                    self.has_control = True
                    state.adapter.set_multiplier(1.0)
                found = self._measured(state.step, context, is_control=False, is_end=is_end, alive=alive)
        except EvaluationStoppedError:
            return events
        self.evaluated_step = state.step
        self.cost_seconds = next(one.seconds for one in found if isinstance(one, Evaluated))
        self.spent_seconds += monotonic() - began
        fault_point("evaluation.measured")
        return events + found

    def is_worth(self, trained_seconds: float) -> bool:
        """Whether one as long as the last, after so much training, keeps within its share of the time."""
        return self.cost_seconds <= MAX_SHARE * (self.cost_seconds + trained_seconds)

    def _share(self) -> float:
        """Of the time of this start that evaluations would have taken, if one as long as the last were done now."""
        since = monotonic() - self.began_at
        would_be = self.spent_seconds + self.cost_seconds
        return would_be / (since + self.cost_seconds) if self.cost_seconds > 0 else 0.0

    def _measured(
        self, step: int, context: StepContext, *, is_control: bool, is_end: bool, alive: Pulse
    ) -> list[Event]:
        assert self.measured_on is not None
        began = monotonic()
        unavailable: dict[str, str] = {}
        validation = self._validation(context, unavailable, alive)
        samples = self._samples(context, unavailable, alive)
        measured = self.comparer.measure(samples, is_end=is_end, alive=alive)
        means = {name: measured.mean(name, samples) for name in PICTURE_MEASURES}
        folder = self.control_folder if is_control else f"step-{step:08d}"
        told = self._written(samples, measured, folder, unavailable)
        unavailable = {**measured.unavailable, **unavailable}
        values = {**means, "validation": validation}
        event = Evaluated(
            attempt=self.attempt,
            time=time.time(),
            step=step,
            is_control=is_control,
            visual=means["visual"],
            semantic=means["semantic"],
            color=means["color"],
            validation=validation,
            unavailable={name: code for name, code in unavailable.items() if values.get(name) is None},
            samples=told,
            seconds=monotonic() - began,
        )
        return [*self._failures(), event]

    def _validation(self, context: StepContext, unavailable: dict[str, str], alive: Pulse) -> dict[str, Any] | None:
        assert self.measured_on is not None
        if not self.measured_on.validated:
            unavailable["validation"] = HELD_OUT_GONE
            return None
        try:
            losses = validation_losses(context, self.measured_on.validated, at_once=self.at_once, alive=alive)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            unavailable["validation"] = OUT_OF_MEMORY
            return None
        if not losses.is_finite:
            unavailable["validation"] = NOT_FINITE
            return None
        return losses.described(is_held_out=self.measured_on.is_held_out, pictures=self.measured_on.pictures)

    def _samples(self, context: StepContext, unavailable: dict[str, str], alive: Pulse) -> list[Sample]:
        """Without any where they cannot be made: then nothing about pictures is measured."""
        assert self.measured_on is not None
        try:
            return generate(context, self.measured_on, at_once=self.at_once, alive=alive)
        except (ModelError, OSError, SafetensorError):
            code = MODEL_FAILED
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            code = OUT_OF_MEMORY
        context.device.release_memory()
        unavailable |= dict.fromkeys(PICTURE_MEASURES, code)
        return []

    def _written(
        self, samples: Sequence[Sample], measured: PictureScores, folder: str, unavailable: dict[str, str]
    ) -> list[dict[str, Any]]:
        """The pictures on disk, all of them; their entries for the ledger."""
        place = self.run.samples / folder
        try:
            place.mkdir(parents=True, exist_ok=True)
            for one in samples:
                write_atomically(place / f"{one.spec.name}.png", _png(one))
        except (OSError, ResourceError):
            unavailable["samples"] = NOT_WRITTEN
            return []
        return [
            {
                "path": f"{self.run.samples.name}/{folder}/{one.spec.name}.png",
                "prompt": one.spec.prompt,
                "seed": one.spec.seed,
                "example": None if one.spec.original is None else str(one.spec.original.image),
                "visual": measured.visual[number],
                "semantic": measured.semantic[number],
                "color": measured.color[number],
                "nearest": None if (nearest := measured.nearest[number]) is None else str(nearest[0]),
                "nearest_similarity": None if nearest is None else nearest[1],
            }
            for number, one in enumerate(samples)
        ]

    def _failures(self) -> list[Event]:
        """That CLIP could not be loaded, said once."""
        failure, self.comparer.failure = self.comparer.failure, None
        if failure is None:
            return []
        return [Warned(attempt=self.attempt, time=time.time(), code="clip_failed", fields=failure.fields)]

    def _is_same(self, control: Evaluated, settings: Mapping[str, Any]) -> bool:
        """Whether a control was measured as it would be now, as far as it could be."""
        if self.measured_on is None:
            return True
        cadence = {"every"}
        now = self.settings.model_dump(mode="json", exclude=cadence)
        was = {name: value for name, value in settings.items() if name not in cadence}
        specs = [
            (one.prompt, one.seed, None if one.original is None else str(one.original.image))
            for one in self.measured_on.specs
        ]
        told = [(one["prompt"], one["seed"], one["example"]) for one in control.samples]
        return was == now and told == specs


@contextmanager
def undisturbed(adapter: FlatAdapter, models: Mapping[str, nn.Module]) -> Iterator[None]:
    """The models in evaluation mode, without dropout and gradients; afterwards all is as it was in training."""
    modes = [(module, module.training) for model in models.values() for module in model.modules()]
    adapter.set_training(False)
    for model in models.values():
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        adapter.set_multiplier(1.0)
        adapter.set_training(True)
        for module, was_training in modes:
            module.training = was_training


def _png(sample: Sample) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(sample.picture).save(buffer, format="PNG")
    return buffer.getvalue()
