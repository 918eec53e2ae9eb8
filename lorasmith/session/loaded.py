"""A run that could begin, and what it says about itself when it does. Makes nothing and writes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lorasmith.config import RunConfig, options
from lorasmith.data.types import Example
from lorasmith.engine.batches import RunBatches
from lorasmith.engine.state import TrainState
from lorasmith.engine.step import StepContext
from lorasmith.evaluation.evaluator import Evaluator
from lorasmith.runs.events import Event, RunStarted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events
from lorasmith.session.checkpoint import StateFacts
from lorasmith.session.export import Exporter
from lorasmith.session.recorder import Plan
from lorasmith.session.startup import StartupContext


@dataclass(frozen=True, slots=True)
class Loaded:
    """A run that could begin."""

    run: RunFolder
    config: RunConfig  # resolved
    before: RunConfig | None  # what the run was until now, None with --new
    attempt: int
    stop_at: int
    resumed_from: int | None
    state: TrainState
    context: StepContext
    batches: RunBatches
    trained: tuple[Example, ...]
    held_out: tuple[Example, ...]
    data_identity: str  # of what positions are counted over
    fingerprint: Mapping[str, Any]
    warnings: tuple[Event, ...]
    exporter: Exporter
    evaluator: Evaluator
    startup: StartupContext


def plan_of(loaded: Loaded) -> Plan:
    config = loaded.config
    return Plan(
        attempt=loaded.attempt,
        stop_at=loaded.stop_at,
        save_every=config.cadence.save_every,
        save_seconds=config.cadence.save_minutes * 60,
        keep_states=config.cadence.keep_states,
        state_prefix=config.export.state_prefix,
        export_name=config.export.name,
        facts_at=partial(_facts, loaded),
        export=partial(loaded.exporter.export, stop_at=loaded.stop_at),
        notices_of_file=loaded.exporter.notices,
    )


def _facts(loaded: Loaded, state: TrainState) -> StateFacts:
    config, batches = loaded.config, loaded.batches
    return StateFacts(
        identity=config.identity(),
        data_identity=loaded.data_identity,
        seed=config.seed,
        lr_schedule={
            **config.lr_schedule.model_dump(),
            "horizon_steps": config.lr_schedule.resolved_horizon(loaded.stop_at),
        },
        described={
            "step": state.step,
            "epoch": batches.epoch_of(state.step),
            "position": batches.position(state.step + 1, 0),
            "target": loaded.stop_at,
            "identity": config.identity_fields(),
            "fingerprint": dict(loaded.fingerprint),
        },
    )


def run_started(loaded: Loaded) -> RunStarted:
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
                "path": str(one.image),
                "fingerprint": one.example_hash,
                "sha256": one.image_sha256,
                "repeats": one.repeats,
                "bucket": list(one.bucket),
            }
            for one in loaded.trained
        ],
        held_out=[str(one.image) for one in loaded.held_out],
        batches_per_epoch=loaded.batches.order.batches_per_epoch,
        fingerprint=dict(loaded.fingerprint),
        root=str(loaded.run.root.absolute()),
    )


def _changed(loaded: Loaded) -> dict[str, list[Any]]:
    """Settings that are not those of the last start, by option name; a path only where run.toml named another one too:
    a project may have been moved, and a start that was killed has left its settings there and no word of them."""
    if loaded.before is None:
        return {}
    kept, new = loaded.before.model_dump(mode="json"), loaded.config.model_dump(mode="json")
    starts = [one for one in read_events(loaded.run.ledger) if isinstance(one, RunStarted)]
    old = starts[-1].settings if starts and starts[-1].settings else kept
    changed = {}
    for option in options().values():
        if option.section == "request":
            continue
        was, is_kept, now = (
            (one.get(option.section, {}) if option.section else one).get(option.field_name) for one in (old, kept, new)
        )
        is_path = option.facts.holds == "path"
        if was is not None and was != now and not (is_path and is_kept == now):
            changed[option.name] = [was, now]
    return changed
