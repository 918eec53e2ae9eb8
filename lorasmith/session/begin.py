"""A loaded run takes its place on disk: the last moment at which nothing of the user's has been changed."""

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
from lorasmith.session.checkpoint import step_back
from lorasmith.session.history import recall
from lorasmith.session.loaded import Loaded, plan_of, run_started
from lorasmith.session.recorder import Recorder


def begin(loaded: Loaded) -> Recorder:
    """Takes the run's place: the old run to the backup with --new, the config, RunStarted, the state of step 0.

    With --continue: what lies above the state that is gone on from is moved to the backup, or set aside where damaged.
    """
    run, config = loaded.run, loaded.config
    loaded.startup.close()
    said = read_events(run.early_ledger)
    now = datetime.now()
    if loaded.before is None:
        config = _with_moved_start(config, moves_of(run, now=now))
    with map_write_errors(run.root):  # nothing was changed yet: a full disk is the user's to mend
        write_atomically(run.staging / run.config.name, dump_run_toml(config, run.root))
    if loaded.before is None:
        promote(run, now=now)
    else:
        assert loaded.resumed_from is not None
        said += _stepped_back(loaded, loaded.resumed_from)
        write_atomically(run.config, dump_run_toml(config, run.root))
        remove_staging(run.staging)
    fault_point("run.placed")
    with ExitStack() as opened:
        ledger = opened.enter_context(PatientLedger(run.ledger))
        for event in [*said, *loaded.warnings, run_started(loaded)]:
            ledger.append(event)
        known = recall(loaded)
        for event in known.said:
            ledger.append(event)
        ledger.sync()
        fault_point("run.started")
        heart = HeartbeatWriter(run.heartbeat)
        opened.callback(heart.close)
        recorder = Recorder(
            run=run,
            ledger=ledger,
            heart=heart,
            plan=plan_of(loaded),
            evaluator=loaded.evaluator,
            best=known.best,
            exported=known.exported,
            owes_evaluation=known.owes_evaluation,
            trust=known.trust,
            saved_step=-1 if loaded.resumed_from is None else loaded.resumed_from,
            saved_at=monotonic(),
            step_began=monotonic(),
        )
        recorder.save(loaded.state)
        opened.pop_all()
    return recorder


def _with_moved_start(config: RunConfig, moves: Moves) -> RunConfig:
    """Where --init-from names a file of the old run: an attempt that has to begin anew finds it in the backup."""
    for source, target in moves:
        if source == Path(config.adapter.init_from):
            return config.with_values({("adapter", "init_from"): str(target)})
    return config


def _stepped_back(loaded: Loaded, step: int) -> list[Event]:
    """Leaves nothing in the run folder that --continue could take for newer than `step`; what was done, as warnings."""
    run, attempt = loaded.run, loaded.attempt
    warnings: list[Event] = []
    most = newest_trusted(read_events(run.ledger))
    for folder in {*newest_good(run.root)[1], *newest_good(run.root, most=most)[1]}:
        set_aside(folder)
    # StartupContext by what lies there: whoever renamed it may have died before he could say so.
    said = {event.fields.get("aside") for event in read_events(run.ledger) if isinstance(event, Warned)}
    for aside in sorted(one.name for one in run.root.glob(f"*{DAMAGED}") if one.name not in said):
        damage = damage_in(run.root / aside)
        fields: dict[str, Any] = {"state": aside.removesuffix(DAMAGED), "aside": aside, "damage": damage}
        warnings.append(Warned(attempt=attempt, time=time.time(), code="state_set_aside", fields=fields))
    backup = step_back(run, step, now=datetime.now())
    if backup is not None:
        fields = {"step": step, "backup": str(backup)}
        warnings.append(Warned(attempt=attempt, time=time.time(), code="stepped_back", fields=fields))
    return warnings
