"""A run's ledger as it grows, read piece by piece, so that watching a long run costs it nothing.

Knows no words and no screen. It forgives a ledger more than others do: what cannot be read is counted, not hidden.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lorasmith.reading.fold import Curves, RunFold
from lorasmith.runs.events import (
    DeviceChosen,
    Event,
    RunStarted,
    RunStopped,
    StepCompleted,
    Warned,
    decode,
)
from lorasmith.runs.ledger import surviving
from lorasmith.ui.status import Pace


class RunReader:
    """What the ledger at `path` says so far; `read` takes in what is new. A ledger that took the place of another one
    is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] = (0, 0)
        self._forget()

    def _forget(self) -> None:
        self._offset = 0
        self._fold = RunFold()
        self._others: list[Event] = []  # all but completed steps, of which there may be very many
        self.pace = Pace()
        self.steps_completed = 0  # those that were cancelled later included
        self.unreadable = 0  # lines
        self.unknown = 0  # events of another version
        self.is_torn = False  # the last line is not whole

    def read(self) -> None:
        """Takes in the whole lines since the last call."""
        try:
            with self._path.open("rb") as file:
                facts = os.fstat(file.fileno())
                if (facts.st_dev, facts.st_ino) != self._file or facts.st_size < self._offset:
                    self._forget()
                    self._file = (facts.st_dev, facts.st_ino)
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            self._forget()
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.is_torn = len(whole) < len(data)
        for event in self._decoded(whole):
            self._take(event)

    @property
    def curves(self) -> Curves:
        return self._fold.curves()

    @property
    def events(self) -> list[Event]:
        """What has happened in the end, completed steps aside."""
        return surviving(self._others)

    @property
    def starts(self) -> list[RunStarted]:
        return [event for event in self._others if isinstance(event, RunStarted)]

    @property
    def device(self) -> DeviceChosen | None:
        return next((event for event in reversed(self._others) if isinstance(event, DeviceChosen)), None)

    def ending(self, attempt: int) -> RunStopped | None:
        """How that attempt said it ended."""
        endings = [one for one in self._others if isinstance(one, RunStopped) and one.attempt == attempt]
        return endings[-1] if endings else None

    def warnings(self, attempt: int) -> list[Warned]:
        """Of that attempt, each once."""
        found: list[Warned] = []
        for event in self._others:
            if isinstance(event, Warned) and event.attempt == attempt:
                is_known = any((one.code, one.fields) == (event.code, event.fields) for one in found)
                found += [] if is_known else [event]
        return found

    def _take(self, event: Event) -> None:
        self._fold.add(event)
        if isinstance(event, StepCompleted):
            self.steps_completed += 1
            self.pace.add(event.step, event.time, event.seconds)
            return
        self._others.append(event)
        if isinstance(event, RunStarted):
            self.pace = Pace()

    def _decoded(self, whole: bytes) -> Iterator[Event]:
        for line in whole.splitlines():
            try:
                event = decode(line)
            except ValueError:
                self.unreadable += 1
                continue
            if event is None:
                self.unknown += 1
            else:
                yield event
