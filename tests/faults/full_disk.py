"""A disk that fills up and is made room on during a run, and a clock that nobody waits for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lorasmith.session import begin as begin_module
from lorasmith.session.disk_full import DiskFullRetry
from lorasmith.session.loaded import LoadedRun
from lorasmith.session.outputs import Outputs
from lorasmith.session.recorder import Recorder
from tests.end_to_end.workshop import Workshop
from tests.faults.watched_files import Record, watched


@dataclass
class SmallDisk:
    """Refuses what needs new room while it is full: every write but that of the heartbeat, which is in place.

    `takes_lines`: a line of the ledger still fits, as it does on most disks called full.
    """

    is_full: bool = False
    takes_lines: bool = False
    refused: list[str] = field(default_factory=list)

    def refuse(self, kind: str, path: str) -> None:
        name = Path(path).name
        if not self.is_full or kind != "write" or name == "heartbeat" or (self.takes_lines and name.endswith(".jsonl")):
            return
        self.refused.append(name)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


@dataclass
class Clock:
    """Time that passes when somebody sleeps. `at` has what happens then."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)
    at: Callable[[float], None] = lambda seconds: None

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.at(sum(self.slept))


@contextmanager
def small_disk(
    workshop: Workshop, disk: SmallDisk, clock: Clock, monkeypatch: pytest.MonkeyPatch, at_step: Callable[[int], None]
) -> Iterator[Record]:
    """`at_step` is called when a step is completed, before anything is written of it."""
    begin, done = begin_module.begin, Recorder.write_step

    def begun(loaded: LoadedRun) -> Outputs:
        outputs = begin(loaded)
        outputs.disk_full = DiskFullRetry(now=clock.read, sleep=clock.sleep)
        return outputs

    def write_step(self: Recorder, result: Any) -> None:
        at_step(result.step)
        done(self, result)

    with monkeypatch.context() as patch, watched(workshop.folder, disk.refuse) as record:
        patch.setattr(begin_module, "begin", begun)
        patch.setattr(Recorder, "write_step", write_step)
        yield record
