"""Runs as a person starts them, through the real supervisor; the worker in this process, or in one of its own."""

import csv
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lorasmith.config import Request, dump_run_toml
from lorasmith.errors import ExitCode
from lorasmith.messages import has
from lorasmith.runs.events import Event, StepCompleted, Warned
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger, read_events, steps, surviving
from lorasmith.runs.process_files import HeartbeatWriter, StopFlag, request_stop
from lorasmith.runs.states import find_states, newest_good
from lorasmith.runtime import worker
from lorasmith.runtime.preflight import Start, continued_run, new_run
from lorasmith.runtime.processes import launch_worker
from lorasmith.runtime.supervisor import Supervisor
from lorasmith.session import build
from lorasmith.session.loaded import LoadedRun
from lorasmith.session.recorder import Recorder
from lorasmith.session.startup import StartupContext

KEPT = Path(__file__).parent / "kept"
Values = Mapping[tuple[str, str], Any]
QUIET: Values = {("cadence", "save_minutes"): 0.0, ("cadence", "save_every"): 0, ("evaluation", "every"): 0}


class InProcess:
    """Stands in for the process of a worker: runs it here, at the first look whether it has ended."""

    def __init__(self, arguments: list[str], _output: object = None) -> None:
        cut = arguments.index("--supervisor")
        self.pid = os.getpid()
        self._arguments = arguments[:cut] + arguments[cut + 2 :]
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            self._status = worker.main(self._arguments)
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        status = self.poll()
        assert status is not None
        return status

    def terminate(self) -> None:
        raise AssertionError("nothing to terminate")

    kill = terminate


@dataclass(frozen=True)
class Outcome:
    """How a start ended, and what it said."""

    exit_code: ExitCode
    events: list[Event]

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def warned(self) -> list[Warned]:
        """The warnings about the run; what is said of its dataset aside."""
        return [event for event in self.of(Warned) if not has("en", f"finding.{event.code}.text")]


@dataclass
class Workshop:
    """A folder in which somebody trains."""

    folder: Path
    base_model: Path
    monkeypatch: pytest.MonkeyPatch
    output: str = "lora_output"

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder / self.output)

    def new(self, count: int, values: Values | None = None, **how: Any) -> Outcome:
        return self.watch(self.start_new(count, values), **how)

    def go_on(self, count: int | None, values: Values | None = None, *, from_state: str = "", **how: Any) -> Outcome:
        request = Request(steps=count, output=self.output)
        start = continued_run(self.run, dict(values or {}), request, from_state=from_state, here=self.folder)
        return self.watch(start, **how)

    def start_new(self, count: int, values: Values | None = None) -> Start:
        settings = {**QUIET, ("model", "base_model"): str(self.base_model), **(values or {})}
        request = Request(steps=count, output=self.output)
        return new_run(settings, request, state_prefix="state", here=self.folder)

    def watch(self, start: Start, *, stop_after: int | None = None, apart: bool = False) -> Outcome:
        """Follows a start to its end; a stop is asked for once step `stop_after` is completed. A worker apart is in the
        next step then."""
        with self.monkeypatch.context() as patch:
            if stop_after is not None and apart:
                patch.setenv("PYTHONPATH", os.pathsep.join([str(KEPT), *filter(None, [os.environ.get("PYTHONPATH")])]))
                patch.setenv("KEPT_IN", str(stop_after + 1))
                patch.setenv("KEPT_UNTIL", str(self.run.stop_request))
            elif stop_after is not None:
                _stop_after(patch, self.run, stop_after)
            supervisor = Supervisor(start, launch=launch_worker if apart else InProcess)
            seen = []
            for event in supervisor.events():
                if event is None:
                    continue
                seen.append(event)
                if apart and stop_after is not None and isinstance(event, StepCompleted) and event.step == stop_after:
                    request_stop(self.run, event.attempt)
        return Outcome(supervisor.exit_code, seen)

    def events(self) -> list[Event]:
        """What has happened in the end."""
        return surviving(read_events(self.run.ledger))

    def losses(self) -> dict[int, float]:
        return {event.step: event.loss for event in steps(self.events())}

    def plotted(self, tag: str) -> list[int]:
        """The steps of a curve, as TensorBoard's own reader finds them."""
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

        files = sorted(self.run.tensorboard.glob("events.out.tfevents.*"))
        events = [event for file in files for event in EventFileLoader(str(file)).Load()]
        return [event.step for event in events for value in event.summary.value if value.tag == tag]

    def rows(self) -> list[dict[str, str]]:
        """Of the CSV."""
        with self.run.loss_log.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def state_folder(self) -> Path:
        state, _ = newest_good(self.run.root)
        assert state is not None
        return state.path

    def train_state(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads((self.state_folder() / "train_state.json").read_bytes())
        return plain

    def adapter(self) -> dict[str, Tensor]:
        return safetensors.torch.load_file(self.state_folder() / "adapter.safetensors")

    def optimizer(self) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(self.state_folder() / "optimizer.pt", weights_only=True)
        return loaded

    def digest(self) -> tuple[str, str]:
        """SHA-256 of the adapter's tensors and of everything in the optimizer's state."""
        return digest(self.adapter()), digest(self.optimizer())

    def optimizer_steps(self) -> set[int]:
        """What the optimizer itself counted."""
        return {int(one["step"]) for one in self.optimizer()["state"].values()}

    def states(self) -> list[int]:
        return [state.step for state in find_states(self.run.root)[0]]


def stage(start: Start) -> None:
    """What a supervisor leaves for its worker."""
    start.run.root.mkdir(exist_ok=True)
    start.run.staging.mkdir()
    (start.run.staging / start.run.config.name).write_bytes(dump_run_toml(start.config))


def load(run: RunFolder, *, stop_at: int, resume: Path | None = None) -> LoadedRun:
    """What a worker makes of a staged start before the first step."""
    heart = HeartbeatWriter(run.staging / run.heartbeat.name)
    startup = StartupContext(Ledger(run.early_ledger), heart, StopFlag(run, 1, supervisor_pid=None), 1)
    found = build.load(run, attempt=1, stop_at=stop_at, resume=resume, startup=startup)
    startup.close()
    return found


def digest(value: Any) -> str:
    """SHA-256 of nested values: tensors by type, shape and bytes."""
    hashed = hashlib.sha256()
    _feed(hashed, value)
    return hashed.hexdigest()


def _feed(hashed: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        hashed.update(f"{value.dtype}{tuple(value.shape)}".encode())
        hashed.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            hashed.update(f"<{key}>".encode())
            _feed(hashed, value[key])
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            hashed.update(f"[{number}]".encode())
            _feed(hashed, one)
    else:
        hashed.update(repr(value).encode())


def tree(folder: Path) -> dict[str, str]:
    """Every file below `folder` with the SHA-256 of its bytes, every folder with ""."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        with suppress(FileNotFoundError):
            found[name] = "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _stop_after(patch: pytest.MonkeyPatch, run: RunFolder, step: int) -> None:
    done = Recorder.write_step

    def write_step(self: Recorder, result: Any) -> None:
        done(self, result)
        if result.step == step:
            request_stop(run, self.attempt)

    patch.setattr(Recorder, "write_step", write_step)
