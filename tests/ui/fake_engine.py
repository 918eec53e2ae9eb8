"""A start that trains nothing: the events of a run, made up, for what a person sees of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lorasmith.config import RunConfig
from lorasmith.errors import ConfigError, ExitCode, NoStateError
from lorasmith.runs.events import (
    AdapterExported,
    CacheProgress,
    CheckpointSaved,
    DeviceChosen,
    Event,
    RunStarted,
    RunStopped,
    StepCompleted,
    StepRepeated,
    Warned,
    WorkerEnded,
    WorkerStarted,
)
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger, read_events, surviving
from lorasmith.runtime.preflight import Start
from lorasmith.ui.train import Engine

T0 = 1_700_000_000.0


def step(number: int, *, attempt: int = 1, loss: float | None = None, seconds: float = 0.5) -> StepCompleted:
    return StepCompleted(
        attempt=attempt,
        time=T0 + number * seconds,
        step=number,
        epoch=(number - 1) // 4 + 1,
        loss=0.5 / number if loss is None else loss,
        lr={"denoiser": 1e-4},
        grad_norm=0.25,
        example_ids=[0],
        seconds=seconds,
        peak_memory=0,
    )


def run_started(stop_at: int, *, resumed_from: int | None = None, attempt: int = 1, accumulate: int = 1) -> RunStarted:
    return RunStarted(
        attempt=attempt,
        time=T0,
        identity="x",
        resumed_from=resumed_from,
        stop_at=stop_at,
        settings={"training": {"accumulation_steps": accumulate}},
        examples=[{}] * 4,
        batches_per_epoch=4,
    )


@dataclass
class FakeSupervisor:
    """Plays the events of a start, writing the ledger as a worker would."""

    start: Start
    failure: tuple[str, dict[str, Any], ExitCode] | None = None
    stop_after: int | None = None
    pause: float = 0.0
    exit_code: ExitCode = ExitCode.CRASHED

    has_placed = False

    def newest_state(self) -> Path | None:
        return self.start.run.root / "state_x" if self.start.run.root.exists() else None

    def events(self) -> Iterator[Event | None]:
        run = self.start.run
        attempt = 1 + max((event.attempt for event in read_events(run.ledger)), default=0)
        at: dict[str, Any] = {"attempt": attempt, "time": T0}
        yield WorkerStarted(**at, worker_pid=1, supervisor_pid=2)
        yield from [None, None]
        yield DeviceChosen(
            **at,
            device="cpu",
            name="Abacus 2000",
            reason="no_accelerator",
            precision="fp32",
            precision_reason="no_bf16_units",
            threads=2,
        )
        for done in range(5):
            time.sleep(self.pause)
            yield CacheProgress(**at, done=done, total=4)
        run.root.mkdir(parents=True, exist_ok=True)
        with Ledger(run.ledger) as ledger:
            for event in self._training(attempt, at):
                ledger.append(event)
                yield event
                time.sleep(self.pause)
                yield None
        yield WorkerEnded(**at, status=int(self.exit_code))

    def _training(self, attempt: int, at: dict[str, Any]) -> Iterator[Event]:
        first, last = self.start.first_step, self.start.stop_at
        yield run_started(last, resumed_from=None if self.start.is_new else first, attempt=attempt)
        for number in range(first + 1, last + 1):
            if self.failure is not None and number == first + 3:
                break
            if number == 2:
                yield StepRepeated(**at, step=2, reason="overflow", scale=32768.0)
                yield Warned(**at, code="prodigy_lr", fields={"lr": 0.001})
            yield step(number, attempt=attempt)
            if number % 20 == 0 or number == last:
                yield CheckpointSaved(**at, step=number, path=f"state_{number}", sha256="", seconds=0.1)
            if number == self.stop_after:
                self.exit_code = ExitCode.STOPPED
                yield RunStopped(**at, step=number, reason="asked", exit_code=5)
                return
        if self.failure is not None:
            code, fields, self.exit_code = self.failure
            yield RunStopped(
                **at, step=first + 2, reason="failed", code=code, fields=fields, exit_code=self.exit_code, traceback="T"
            )
            return
        name = self.start.config.export.name
        yield AdapterExported(**at, step=last, path=f"{name}.safetensors", sha256="")
        self.exit_code = ExitCode.FINISHED
        yield RunStopped(**at, step=last, reason="reached")


@dataclass
class FakeEngine:
    """Stands in for everything below the user interface, and remembers what it was asked."""

    asked: list[Any] = field(default_factory=list)
    supervisor: dict[str, Any] = field(default_factory=dict)
    found: list[Path] = field(default_factory=list)
    pictures: int = 8

    def engine(self) -> Engine:
        return Engine(
            new_run=self.new_run,
            progress_of=self.progress_of,
            continued_run=self.continued_run,
            supervise=lambda start: FakeSupervisor(start, **self.supervisor),
            find_checkpoints=lambda _here, _environment: self.found,
            repeats_in=lambda _config, _here: (10,) * self.pictures,
            suggested_steps=lambda pictures: (25 * pictures, 50 * pictures),
        )

    def new_run(self, values: Any, request: Any, *, state_prefix: str, here: Path) -> Start:
        self.asked.append(("new", dict(values), request, state_prefix))
        steps = request.steps or 10 * request.epochs
        return Start(RunFolder(here / request.output), RunConfig().with_values(values), steps, True, 0)

    def progress_of(self, run: RunFolder) -> Any:
        events = surviving(read_events(run.ledger))
        started = [event for event in events if isinstance(event, RunStarted)]
        if not started:
            raise NoStateError("no_run", folder=str(run.root))
        done = max((event.step for event in events if isinstance(event, CheckpointSaved)), default=0)
        return SimpleNamespace(done=done, stop_at=started[-1].stop_at, steps_left=max(0, started[-1].stop_at - done))

    def continued_run(self, run: RunFolder, values: Any, request: Any, *, from_state: str, here: Path) -> Start:
        self.asked.append(("continue", dict(values), request, from_state))
        now = self.progress_of(run)
        if request.steps is None and now.steps_left == 0:
            raise ConfigError("nothing_owed", done=now.done, target=now.stop_at)
        stop_at = now.stop_at if request.steps is None else now.done + request.steps
        return Start(run, RunConfig().with_values(values), stop_at, False, now.done)
