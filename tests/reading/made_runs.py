"""Run folders as a training would leave them, made up: for what the viewer says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig, dump_run_toml
from lorasmith.runs.events import (
    AdapterExported,
    BestChosen,
    CheckpointSaved,
    DeviceChosen,
    Evaluated,
    Event,
    RunStarted,
    RunStopped,
    StepCompleted,
    WorkerEnded,
    WorkerStarted,
)
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger
from lorasmith.runs.process_files import HeartbeatWriter

T0 = 1_700_000_000.0
LORA_BYTES = 3 * 1024 * 1024


def made_run(root: Path, events: Sequence[Event], own: Sequence[Event] = ()) -> RunFolder:
    """A run folder with this ledger, the settings of a default run and no other file."""
    run = RunFolder(root)
    root.mkdir(parents=True, exist_ok=True)
    run.config.write_bytes(dump_run_toml(RunConfig()))
    for path, written in ((run.ledger, events), (run.supervisor_log, own)):
        with Ledger(path) as ledger:
            for event in written:
                ledger.append(event)
    return run


def add(path: Path, *events: Event) -> None:
    with Ledger(path) as ledger:
        for event in events:
            ledger.append(event)


def device(attempt: int = 1) -> DeviceChosen:
    return DeviceChosen(
        attempt=attempt,
        time=T0,
        device="cuda:0",
        name="a GPU",
        reason="asked",
        precision="bf16",
        precision_reason="asked",
        threads=4,
    )


def begun(stop_at: int, *, attempt: int = 1, resumed_from: int | None = None) -> RunStarted:
    return RunStarted(
        attempt=attempt,
        time=T0,
        identity="x",
        resumed_from=resumed_from,
        stop_at=stop_at,
        settings=RunConfig().model_dump(mode="json"),
        examples=[{}] * 4,
        batches_per_epoch=4,
    )


def stepped(first: int, last: int, *, attempt: int = 1, seconds: float = 2.0) -> list[Event]:
    """Steps whose loss falls from 1 by a thousandth each."""
    return [
        StepCompleted(
            attempt=attempt,
            time=T0 + step * seconds,
            step=step,
            epoch=(step - 1) // 4,
            loss=1 - step / 1000,
            lr={"denoiser": 1e-4},
            grad_norm=1.0,
            example_ids=[0],
            seconds=seconds,
            peak_memory=0,
        )
        for step in range(first, last + 1)
    ]


def evaluated(step: int, *, is_control: bool = False, **values: Any) -> Evaluated:
    return Evaluated(attempt=1, time=T0, step=step, is_control=is_control, **values)


def best(step: int, loss: float) -> BestChosen:
    return BestChosen(
        attempt=1, time=T0, step=step, loss=loss, standard_error=0.01, path="last-best.safetensors", sha256=""
    )


def ended(step: int, reason: str = "reached", *, attempt: int = 1, **more: Any) -> RunStopped:
    return RunStopped(attempt=attempt, time=T0, step=step, reason=reason, **more)


def worker_began(attempt: int, supervisor: int) -> WorkerStarted:
    return WorkerStarted(attempt=attempt, time=T0, worker_pid=1, supervisor_pid=supervisor)


def worker_ended(attempt: int, status: int) -> WorkerEnded:
    return WorkerEnded(attempt=attempt, time=T0, status=status)


def finished_run(root: Path, steps: int = 20) -> RunFolder:
    """A run that went well, with everything it leaves."""
    events: list[Event] = [device(), begun(steps)]
    events.append(evaluated(0, is_control=True, visual=0.6, color=0.7, unavailable={"semantic": "no_clip"}))
    events += stepped(1, steps)
    validation = {"loss": 0.2, "standard_error": 0.01, "examples": 4, "is_held_out": True}
    shared: dict[str, Any] = {"color": 0.3, "unavailable": {"semantic": "no_clip"}, "validation": validation}
    events += [evaluated(step, visual=0.5 - step / 100, **shared) for step in range(5, steps + 1, 5)]
    events += [
        best(steps, 0.2),
        CheckpointSaved(attempt=1, time=T0, step=steps, path="state_x", sha256="", seconds=1.0),
        AdapterExported(attempt=1, time=T0, step=steps, path="last.safetensors", sha256=""),
        ended(steps),
    ]
    run = made_run(root, events, [worker_began(1, 10), worker_ended(1, 0)])
    state = run.root / "state_x"
    state.mkdir()
    (state / "manifest.json").write_text(json.dumps({"step": steps, "identity": "x"}))
    run.export("last").write_bytes(b"x" * LORA_BYTES)
    run.export("last", 10).write_bytes(b"x")
    (run.root / "last-best.safetensors").write_bytes(b"x")
    run.tensorboard.mkdir()
    run.training_logs.mkdir(parents=True, exist_ok=True)
    run.loss_log.write_text("step\n")
    for name in ("report_20261122_150000.json", "curves_20261122_150000.png", "report_20261122_150000.html"):
        (run.training_logs / f"lora_training_{name}").write_text("x")
    return run


def beat(run: RunFolder, step: int, phase: str, *, folder: Path | None = None) -> Path:
    """A sign of life now; the file's own date says when."""
    path = (folder or run.root) / run.heartbeat.name
    heart = HeartbeatWriter(path)
    heart.beat(step, phase)
    heart.close()
    return path
