"""A worker process that is played by a function, and a supervisor over such workers."""

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from lorasmith.config import RunConfig
from lorasmith.errors import ExitCode
from lorasmith.runs.events import CheckpointSaved, Event, RunStarted, RunStopped, StepCompleted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger, read_events
from lorasmith.runs.promotion import promote
from lorasmith.runs.states import MANIFEST, OWN_FILES, manifest_bytes
from lorasmith.runtime.preflight import Start
from lorasmith.runtime.supervisor import Supervisor

Act = Callable[["Played", int], int | None]  # called at each look; the exit status once it has ended


class Played:
    """A worker process that is played by a function."""

    def __init__(self, act: Act, arguments: list[str], output: IO[bytes]) -> None:
        self.pid = 12345
        self.arguments = arguments
        self.run = RunFolder(Path(arguments[0]))
        self.attempt = int(arguments[arguments.index("--attempt") + 1])
        self.output = output
        self.asked: list[str] = []
        self.heeds: tuple[str, ...] = ("terminate", "kill")
        self.last_words: tuple[Event, ...] = ()  # of one that heeds
        self.status: int | None = None
        self._act = act
        self._looks = 0

    def poll(self) -> int | None:
        if self.status is None:
            self._looks += 1
            self.status = self._act(self, self._looks)
        return self.status

    def interrupt(self) -> None:
        self._asked_to("interrupt", -2)

    def dump_stacks(self) -> bool:
        self.output.write(b'Thread 0x1 (most recent call first):\n  File "forward.py", line 7\n')
        return True

    def terminate(self) -> None:
        self._asked_to("terminate", -15)

    def kill(self) -> None:
        self._asked_to("kill", -9)

    def wait(self, timeout: float | None = None) -> int:
        if self.status is None:
            raise subprocess.TimeoutExpired("played", timeout or 0)
        return self.status

    def _asked_to(self, how: str, status: int) -> None:
        self.asked.append(how)
        if how in self.heeds:
            self.say(*self.last_words)
            self.status = status

    def say(self, *events: Event) -> None:
        """Into the ledger that stands for it now."""
        with Ledger(self.run.early_ledger if self.run.staging.exists() else self.run.ledger) as ledger:
            for event in events:
                ledger.append(event)

    @property
    def resume(self) -> Path | None:
        return Path(self.arguments[-1]) if "--resume" in self.arguments else None

    def take_place(self) -> None:
        """As the real one does: the early events are the first of the run's own ledger, or come after what was there.
        Then the state of step 0 where it is a new run."""
        said = read_events(self.run.early_ledger)
        resumed_from = None
        if self.resume is None:
            promote(self.run, now=datetime.now())
        else:
            shutil.rmtree(self.run.staging)
            resumed_from = json.loads((self.resume / MANIFEST).read_bytes())["step"]
        self.say(*said, self.event(RunStarted, identity="", resumed_from=resumed_from, stop_at=9, settings={}))
        if resumed_from is None:
            self.save(0)

    def save(self, step: int) -> None:
        folder = self.run.root / f"state_{self.attempt}_{step}"
        folder.mkdir()
        for name in OWN_FILES:
            (folder / name).write_text(str(step))
        (folder / MANIFEST).write_bytes(manifest_bytes(folder, step=step, identity=""))
        self.say(self.event(CheckpointSaved, step=step, path=folder.name, sha256="", seconds=0.0))

    def beat(self, step: int, phase: str, beat: int, waiting: int = 0) -> None:
        heart = (self.run.staging if self.run.staging.exists() else self.run.root) / self.run.heartbeat.name
        told = {"step": step, "phase": phase, "beat": beat, "micro_batches": beat, "waiting": waiting}
        heart.write_text(json.dumps(told))

    def event(self, kind: type[Event], **fields: Any) -> Event:
        return kind(attempt=self.attempt, time=0.0, **fields)

    def finish(self) -> int:
        """Says that it is done; its status."""
        self.say(self.event(RunStopped, step=None, reason="reached", exit_code=0))
        return 0

    def step(self, number: int, seconds: float = 0.1) -> Event:
        return self.event(
            StepCompleted,
            step=number,
            epoch=1,
            loss=1.0,
            lr={},
            grad_norm=1.0,
            example_ids=[],
            seconds=seconds,
            peak_memory=0,
        )


class Watched:
    """A supervisor with played workers, followed to the end; no restarts unless `no_restart` is False."""

    def __init__(
        self, run: RunFolder, act: Act, *, is_new: bool = True, resume: Path | None = None, **watch: Any
    ) -> None:
        self.workers: list[Played] = []
        values = {("watch", name): value for name, value in {"no_restart": True, **watch}.items()}
        config = RunConfig().with_values(values)
        self.start = Start(run, config, 9, is_new=is_new, first_step=0, resume=resume)
        self.supervisor = Supervisor(self.start, launch=self._launch)
        self._act = act

    def _launch(self, arguments: list[str], output: IO[bytes]) -> Played:
        self.workers.append(Played(self._act, arguments, output))
        return self.workers[-1]

    def follow(self) -> list[Event]:
        return [event for event in self.supervisor.events() if event is not None]

    @property
    def exit_code(self) -> ExitCode:
        return self.supervisor.exit_code
