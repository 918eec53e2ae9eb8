"""A run that has been loaded and can begin, and how it describes itself. Writes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorasmith.config import RunConfig, options
from lorasmith.config.fields import Option
from lorasmith.data.types import Example
from lorasmith.engine.batches import RunBatches
from lorasmith.engine.occasions import Occasions
from lorasmith.engine.state import TrainState
from lorasmith.engine.step import StepContext
from lorasmith.evaluation.evaluator import Evaluator
from lorasmith.runs.events import RunStarted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events
from lorasmith.runs.naming import FileNames
from lorasmith.session.checkpoint import StateFacts
from lorasmith.session.export import Exporter
from lorasmith.session.meter import Meter
from lorasmith.session.noise_levels import level_shares
from lorasmith.session.startup import StartupContext


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """Everything of a run that is ready for its first step."""

    run: RunFolder
    config: RunConfig  # resolved
    before: RunConfig | None  # the run's settings up to now; None with --new
    attempt: int
    stop_at: int
    resumed_from: int | None  # step of the state
    state: TrainState
    context: StepContext
    batches: RunBatches
    meter: Meter
    trained: tuple[Example, ...]
    held_out: tuple[Example, ...]
    data_identity: str  # of the data that positions are counted over
    environment: Mapping[str, Any]  # software and hardware that the bytes depend on
    changed_environment: str  # since the state was saved; "" if it has not changed
    exporter: Exporter
    evaluator: Evaluator
    startup: StartupContext

    @property
    def names(self) -> FileNames:
        return FileNames(self.run, self.config.export)

    @property
    def saves(self) -> Occasions:
        """The steps at which a state is saved and the LoRA exported, the last step aside."""
        cadence, batches = self.config.cadence, self.batches
        epochs = cadence.epochs_between_saves(batches.epochs_in(self.stop_at))
        return Occasions(cadence.save_every, epochs, batches.completed_epochs)

    def state_facts(self, state: TrainState) -> StateFacts:
        """The contents of a saved state besides tensors and counters."""
        config, schedule = self.config, self.config.lr_schedule
        return StateFacts(
            identity=config.identity(),
            data_identity=self.data_identity,
            seed=config.seed,
            lr_schedule={**schedule.model_dump(), "horizon_steps": schedule.resolved_horizon(self.stop_at)},
            described={
                "step": state.step,
                "epoch": self.batches.epoch_of(state.step),
                "position": self.batches.position(state.step + 1, 0),
                "target": self.stop_at,
                "identity": config.identity_fields(),
                "fingerprint": dict(self.environment),
            },
        )


def run_started(loaded: LoadedRun) -> RunStarted:
    """The event of a start."""
    return RunStarted(
        attempt=loaded.attempt,
        time=time.time(),
        identity=loaded.config.identity(),
        resumed_from=loaded.resumed_from,
        stop_at=loaded.stop_at,
        settings=loaded.config.model_dump(mode="json"),
        changed=_changed(loaded),
        examples=[
            {
                "path": str(example.image),
                "fingerprint": example.example_hash,
                "sha256": example.image_sha256,
                "repeats": example.repeats,
                "bucket": list(example.bucket),
            }
            for example in loaded.trained
        ],
        held_out=[str(example.image) for example in loaded.held_out],
        batches_per_epoch=loaded.batches.order.batches_per_epoch,
        fingerprint=dict(loaded.environment),
        root=str(loaded.run.root.absolute()),
        noise_levels=list(
            level_shares(loaded.context.process, loaded.trained, loaded.context.family.weights.size_multiple)
        ),
    )


def _changed(loaded: LoadedRun) -> dict[str, list[Any]]:
    """Settings that differ from those of the last start, {option: [before, now]}.

    A path counts only if it also differs from that in run.toml, since a project may have been moved. run.toml alone is
    not enough: a killed start may have left its settings there before it recorded them.
    """
    if loaded.before is None:
        return {}
    kept, new = loaded.before.model_dump(mode="json"), loaded.config.model_dump(mode="json")
    defaults = type(loaded.config)().model_dump(mode="json")  # of options that an earlier version did not have
    starts = [event for event in read_events(loaded.run.ledger) if isinstance(event, RunStarted)]
    old = starts[-1].settings if starts and starts[-1].settings else kept
    changed = {}
    for option in options().values():
        if option.section == "request":
            continue
        was, is_kept, now = (_value(settings, option, _value(defaults, option, None)) for settings in (old, kept, new))
        is_path = option.facts.holds == "path"
        if was != now and not (is_path and is_kept == now):
            changed[option.name] = [was, now]
    return changed


def _value(settings: Mapping[str, Any], option: Option, otherwise: Any) -> Any:
    section = settings.get(option.section, {}) if option.section else settings
    return section.get(option.field_name, otherwise)
