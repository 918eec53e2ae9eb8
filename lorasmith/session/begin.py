"""A loaded run takes its place on disk. Until then nothing of the user's has been changed."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig, dump_run_toml
from lorasmith.faults import fault_point
from lorasmith.runs.durable import map_write_errors, write_atomically
from lorasmith.runs.events import Event, Warned
from lorasmith.runs.ledger import PatientLedger, newest_trusted, read_events
from lorasmith.runs.process_files import HeartbeatWriter, monotonic
from lorasmith.runs.promotion import Moves, moves_of, promote, remove_staging
from lorasmith.runs.states import DAMAGED, damage_in, newest_good, set_aside
from lorasmith.session.history import restore_results
from lorasmith.session.loaded import LoadedRun, run_started
from lorasmith.session.outputs import Outputs
from lorasmith.session.recorder import Recorder
from lorasmith.session.resume import step_back


def begin(loaded: LoadedRun) -> Outputs:
    """Moves the old run to the backup (--new) or the run back to the resumed state (--continue); then writes the
    settings, the ledger's first events and the state of step 0.

    Raises:
        InputError: the folder cannot be written, or the disk is full; nothing was changed.
        ResourceError: the disk is full after all.
    """
    run = loaded.run
    loaded.startup.close()
    events = [*read_events(run.early_ledger), *_take_place(loaded), run_started(loaded)]
    fault_point("run.placed")
    with ExitStack() as opened:
        ledger = opened.enter_context(PatientLedger(run.ledger))
        for event in events:
            ledger.append(event)
        prior = restore_results(loaded)
        for event in prior.warnings:
            ledger.append(event)
        ledger.sync()
        fault_point("run.started")
        heart = HeartbeatWriter(run.heartbeat)
        opened.callback(heart.close)
        recorder = Recorder(
            attempt=loaded.attempt,
            ledger=ledger,
            heart=heart,
            context=loaded.context,
            trust=prior.trust,
            lrs=tuple(float(group["lr"]) for group in loaded.state.optimizer.param_groups),
            step_began=monotonic(),
            meter=loaded.meter,
            recorded=loaded.context.execution.recorded,
        )
        outputs = Outputs(
            loaded=loaded,
            recorder=recorder,
            best=prior.best,
            exported=prior.exported,
            numbered=prior.numbered,
            evaluation_is_missing=prior.evaluation_is_missing,
            saved_step=-1 if loaded.resumed_from is None else loaded.resumed_from,
            saved_at=monotonic(),
        )
        outputs.save(loaded.state)
        opened.pop_all()
    return outputs


def _take_place(loaded: LoadedRun) -> list[Event]:
    """Makes the run folder that of this start; returns warnings about what was moved."""
    run, config, now = loaded.run, loaded.config, datetime.now()
    if loaded.before is None:
        config = _with_moved_start(config, moves_of(run, now=now))
    with map_write_errors(run.root):  # nothing was changed yet, so the user can correct it
        write_atomically(run.staging / run.config.name, dump_run_toml(config, run.root))
    if loaded.before is None:
        promote(run, now=now)
        return []
    assert loaded.resumed_from is not None
    warnings = _step_back(loaded, loaded.resumed_from)
    write_atomically(run.config, dump_run_toml(config, run.root))
    remove_staging(run.staging)
    if loaded.changed_environment:
        fields = {"changed": loaded.changed_environment}
        warnings.append(Warned(attempt=loaded.attempt, time=time.time(), code="fingerprint_changed", fields=fields))
    return warnings


def _with_moved_start(config: RunConfig, moves: Moves) -> RunConfig:
    """Names the new place of --init-from if it is a file of the old run: a restarted attempt reads it again."""
    for source, destination in moves:
        if source == Path(config.adapter.init_from):
            return config.with_values({("adapter", "init_from"): str(destination)})
    return config


def _step_back(loaded: LoadedRun, step: int) -> list[Event]:
    """Leaves nothing in the run folder that --continue could take for newer than `step`; returns warnings about it."""
    run, attempt = loaded.run, loaded.attempt
    warnings: list[Event] = []
    most = newest_trusted(read_events(run.ledger))
    for folder in {*newest_good(run.root)[1], *newest_good(run.root, most=most)[1]}:
        set_aside(folder)
    # Found by what lies there: a start that renamed a state may have died before it could record that.
    known = {event.fields.get("aside") for event in read_events(run.ledger) if isinstance(event, Warned)}
    for aside in sorted(path.name for path in run.root.glob(f"*{DAMAGED}") if path.name not in known):
        damage = damage_in(run.root / aside)
        fields: dict[str, Any] = {"state": aside.removesuffix(DAMAGED), "aside": aside, "damage": damage}
        warnings.append(Warned(attempt=attempt, time=time.time(), code="state_set_aside", fields=fields))
    backup = step_back(run, step, now=datetime.now())
    if backup is not None:
        fields = {"step": step, "backup": str(backup)}
        warnings.append(Warned(attempt=attempt, time=time.time(), code="stepped_back", fields=fields))
    return warnings
