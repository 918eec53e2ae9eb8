"""Evaluates the adapter at steps that are due: validation loss, samples, and their distance from the examples.

Evaluation does not affect training: it leaves the adapter and the models as they were, draws no number from a stream of
training, and none of its failures ends the run. It returns events and appends none itself.

The first evaluation of a run also evaluates the base model alone, the baseline of all others. Files and events call
it "control".
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
from lorasmith.engine.occasions import Occasions
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
BASELINE_FOLDER = "control"

Beat = Callable[[int, str], None]


class EvaluationStoppedError(Exception):
    """A stop was requested during an evaluation; what was not finished is dropped."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """Called at each unit of work: beats, and ends the evaluation if a stop was requested."""

    step: int
    beat: Beat
    stop_requested: Callable[[], bool]

    def __call__(self) -> None:
        self.beat(self.step, "evaluating")
        if self.stop_requested():
            raise EvaluationStoppedError


@dataclass(slots=True)
class Evaluator:
    """Evaluates a run; made once for each start. `restore` reads the results of earlier starts."""

    run: RunFolder
    attempt: int
    occasions: Occasions
    settings: EvaluationConfig
    measured_on: EvaluationSet | None  # None: never
    metrics: PictureMetrics
    has_baseline: bool = False
    baseline_folder: str = BASELINE_FOLDER
    gave_up: bool = False  # evaluations kill the process
    evaluated_step: int = -1  # the newest; -1: none yet
    cost_seconds: float = 0.0  # of the newest evaluation, without the baseline; 0: none yet
    spent_seconds: float = 0.0  # on all evaluations of this start, with the baseline
    began_at: float = 0.0  # monotonic: when training began
    has_warned: bool = False
    at_once: int = AT_ONCE

    @property
    def is_on(self) -> bool:
        return self.occasions.are_any and not self.gave_up and self.measured_on is not None

    def restore(self, events: Sequence[Event], *, has_died: bool = False) -> list[Event]:
        """Restores the results of earlier starts from the surviving events of the run; returns warnings.

        `has_died`: the last attempt was killed during an evaluation, as happens when the system runs out of memory.
        Then one picture is made at a time; after the second time in a row this start does not evaluate.
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
                self.has_baseline = self._is_same(event, settings)
                if not self.has_baseline:  # its pictures stay where they are
                    self.baseline_folder = free_name(self.run.samples / BASELINE_FOLDER).name
            else:
                self.evaluated_step, self.cost_seconds = event.step, event.seconds
                deaths = 0
        if not self.is_on or not has_died:
            return []
        self.at_once = 1
        if deaths > 0:
            self.gave_up = True
        return [Warned(attempt=self.attempt, time=time.time(), code=OFF if deaths > 0 else DIED)]

    def is_due(self, step: int) -> bool:
        """Whether to evaluate at a step that is not the last."""
        if not self.is_on or not self.occasions.is_due(step) or step == self.evaluated_step:
            return False
        return self._share() <= MAX_SHARE

    def misses(self, step: int) -> bool:
        """Whether that step should be evaluated and was not."""
        return self.is_on and step != self.evaluated_step

    def postponed(self, step: int) -> Warned | None:
        """The warning that evaluations are left out to save time, at the first step where that happens."""
        if not self.is_on or not self.occasions.is_due(step) or self.has_warned or self._share() <= MAX_SHARE:
            return None
        self.has_warned = True
        fields = {"seconds": round(self.cost_seconds, 1), "percent": round(100 * MAX_SHARE)}
        return Warned(attempt=self.attempt, time=time.time(), code="evaluation_less_often", fields=fields)

    def evaluate(
        self, state: TrainState, context: StepContext, *, is_end: bool, beat: Beat, stop_requested: Callable[[], bool]
    ) -> list[Event]:
        """Evaluates the adapter, and before it the baseline if there is none yet.

        With `is_end` also measures what takes too long for every evaluation. Returns the events of what was finished:
        none if this step was evaluated before.
        """
        if not self.misses(state.step):
            return []
        alive = Pulse(state.step, beat, stop_requested)
        events: list[Event] = []
        began = monotonic()
        fault_point("evaluation.begun")
        try:
            with undisturbed(state.adapter, context.models):
                if not self.has_baseline:
                    state.adapter.set_multiplier(0.0)
                    events += self._evaluated(state.step, context, is_baseline=True, is_end=is_end, alive=alive)
                    self.has_baseline = True
                    state.adapter.set_multiplier(1.0)
                results = self._evaluated(state.step, context, is_baseline=False, is_end=is_end, alive=alive)
        except EvaluationStoppedError:
            return events
        self.evaluated_step = state.step
        self.cost_seconds = next(event.seconds for event in results if isinstance(event, Evaluated))
        self.spent_seconds += monotonic() - began
        fault_point("evaluation.measured")
        return events + results

    def is_worth(self, trained_seconds: float) -> bool:
        """Whether another evaluation, after so much training, would keep within MAX_SHARE of the time."""
        return self.cost_seconds <= MAX_SHARE * (self.cost_seconds + trained_seconds)

    def _share(self) -> float:
        """The share of this start's time that evaluations will have taken after another as long as the last."""
        since = monotonic() - self.began_at
        would_be = self.spent_seconds + self.cost_seconds
        return would_be / (since + self.cost_seconds) if self.cost_seconds > 0 else 0.0

    def _evaluated(
        self, step: int, context: StepContext, *, is_baseline: bool, is_end: bool, alive: Pulse
    ) -> list[Event]:
        """Measures the models as they are now, and writes the samples."""
        assert self.measured_on is not None
        began = monotonic()
        unavailable: dict[str, str] = {}
        validation = self._validation(context, unavailable, alive)
        samples = self._samples(context, unavailable, alive)
        scores = self.metrics.measure(samples, is_end=is_end, alive=alive)
        means = {name: scores.mean(name, samples) for name in PICTURE_MEASURES}
        folder = self.baseline_folder if is_baseline else f"step-{step:08d}"
        entries = self._write_samples(samples, scores, folder, unavailable)
        unavailable = {**scores.unavailable, **unavailable}
        values = {**means, "validation": validation}
        event = Evaluated(
            attempt=self.attempt,
            time=time.time(),
            step=step,
            is_control=is_baseline,
            visual=means["visual"],
            semantic=means["semantic"],
            color=means["color"],
            validation=validation,
            unavailable={name: code for name, code in unavailable.items() if values.get(name) is None},
            samples=entries,
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
        """Generates the samples; none if they cannot be made, and then nothing about pictures is measured."""
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

    def _write_samples(
        self, samples: Sequence[Sample], scores: PictureScores, folder: str, unavailable: dict[str, str]
    ) -> list[dict[str, Any]]:
        """Writes all pictures and returns their entries for the ledger; none if one could not be written."""
        place = self.run.samples / folder
        try:
            place.mkdir(parents=True, exist_ok=True)
            for sample in samples:
                write_atomically(place / f"{sample.spec.name}.png", _png(sample))
        except (OSError, ResourceError):
            unavailable["samples"] = NOT_WRITTEN
            return []
        return [
            {
                "path": f"{self.run.samples.name}/{folder}/{sample.spec.name}.png",
                "prompt": sample.spec.prompt,
                "seed": sample.spec.seed,
                "example": None if sample.spec.original is None else str(sample.spec.original.image),
                "visual": scores.visual[number],
                "semantic": scores.semantic[number],
                "color": scores.color[number],
                "nearest": None if (nearest := scores.nearest[number]) is None else str(nearest[0]),
                "nearest_similarity": None if nearest is None else nearest[1],
            }
            for number, sample in enumerate(samples)
        ]

    def _failures(self) -> list[Event]:
        """The warning that CLIP could not be loaded, given once."""
        failure, self.metrics.failure = self.metrics.failure, None
        if failure is None:
            return []
        return [Warned(attempt=self.attempt, time=time.time(), code="clip_failed", fields=failure.fields)]

    def _is_same(self, baseline: Evaluated, settings: Mapping[str, Any]) -> bool:
        """Whether a baseline was measured with the settings and samples of this start."""
        if self.measured_on is None:
            return True
        cadence = {"every", "every_n_epochs", "at_first"}
        now = self.settings.model_dump(mode="json", exclude=cadence)
        was = {name: value for name, value in settings.items() if name not in cadence}
        specs = [
            (spec.prompt, spec.seed, None if spec.original is None else str(spec.original.image))
            for spec in self.measured_on.specs
        ]
        measured = [(entry["prompt"], entry["seed"], entry["example"]) for entry in baseline.samples]
        return was == now and measured == specs


@contextmanager
def undisturbed(adapter: FlatAdapter, models: Mapping[str, nn.Module]) -> Iterator[None]:
    """Puts the models into evaluation mode, without dropout and gradients; restores all of it for training."""
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
