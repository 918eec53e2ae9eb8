"""The ledger of a run: an append-only file of events with a single writer and many readers.

TensorBoard, the CSV, reports and the viewer are folds over it and can be deleted and made again.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lorasmith.errors import ResourceError
from lorasmith.faults import fault_point
from lorasmith.runs.durable import map_disk_full
from lorasmith.runs.events import (
    AdapterExported,
    BestChosen,
    CheckpointSaved,
    Evaluated,
    Event,
    RunStarted,
    RunStopped,
    StepCompleted,
    StepRepeated,
    decode,
    encode,
)

# Events about a step, which a later start may cancel.
AboutStep = StepCompleted | StepRepeated | CheckpointSaved | AdapterExported | Evaluated | BestChosen

# Maximum number of lines kept in memory while the disk is full, a kilobyte each: beyond that training itself waits.
MAX_WAITING = 50_000


class Ledger:
    """Writes a ledger. Opening it repairs a tail torn by a crash."""

    def __init__(self, path: Path) -> None:
        self._path = path
        repair_tail(path)
        self._file = path.open("ab", buffering=0)

    def append(self, event: Event) -> None:
        """Writes an event. It is with the operating system when this returns, so it survives the death of the process.

        Raises:
            ResourceError: the disk is full; nothing of the line is left in the file.
        """
        rest = memoryview(encode(event))
        begin = os.fstat(self._file.fileno()).st_size
        with map_disk_full(self._path):
            try:
                fault_point("ledger.appending")
                while rest:  # the system may take a part only, as it does when the disk is about to be full
                    taken = self._file.write(rest)
                    if not taken:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    rest = rest[taken:]
                fault_point("ledger.appended")
            except BaseException:
                self._file.truncate(begin)
                raise

    def sync(self) -> None:
        """Waits until the file is on the disk and survives a power cut."""
        with map_disk_full(self._path):
            os.fsync(self._file.fileno())
            fault_point("ledger.synced")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class PatientLedger(Ledger):
    """A ledger for a run that goes on while the disk is full: it keeps lines that cannot be written in memory.

    Lines in memory are lost with the process. So is the work they describe: no state is saved before `sync` succeeds.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._waiting: deque[Event] = deque()

    @property
    def waiting(self) -> int:
        """Number of lines kept in memory."""
        return len(self._waiting)

    @property
    def holds_no_more(self) -> bool:
        """Whether training should wait because too many lines are in memory."""
        return len(self._waiting) >= MAX_WAITING

    def append(self, event: Event) -> None:
        """Writes an event; on a full disk it is kept in memory until the next call of any method."""
        self._waiting.append(event)
        with suppress(ResourceError):
            self._write()

    def sync(self) -> None:
        """Writes the lines in memory and waits until the file is on the disk.

        Raises:
            ResourceError: the disk is still full.
        """
        self._write()
        super().sync()

    def close(self) -> None:
        """Tries to write the lines in memory once more and closes the file. May be called again."""
        if not self._file.closed:
            with suppress(ResourceError):
                self._write()
        super().close()

    def _write(self) -> None:
        while self._waiting:
            super().append(self._waiting[0])
            self._waiting.popleft()


class DeferredLedger:
    """A ledger whose events wait in memory until there is a run folder, and while the disk is full.

    `supervisor.jsonl` is one: a start that fails before the run exists leaves no file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[Event] = []
        self._is_open = False

    def add(self, event: Event) -> Event:
        """Appends an event and returns it."""
        self._waiting.append(event)
        if self._is_open:
            self.write()
        return event

    def write(self) -> None:
        """Writes the events that wait; from now on each event is written as it is added."""
        self._is_open = True
        if not self._waiting:
            return
        with suppress(ResourceError, OSError), map_disk_full(self._path), Ledger(self._path) as ledger:
            while self._waiting:
                ledger.append(self._waiting[0])
                del self._waiting[0]


class Follower:
    """The reader of a ledger file that may still grow. It opens the file at each read, so the folder may move between
    two reads. A line that cannot be read is counted and skipped.
    """

    def __init__(self) -> None:
        self.offset = 0  # bytes read so far
        self.unreadable = 0  # lines that are no event, as those that a power cut filled with zeros
        self.unknown = 0  # lines with an event of another version
        self.is_torn = False  # whether the file ended within a line at the last read

    def read(self, path: Path) -> list[Event]:
        """Returns the events of the whole lines since the last call; an unfinished line waits for the next call."""
        try:
            with path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        self.is_torn = len(whole) < len(data)
        return list(self._decoded(whole))

    def _decoded(self, whole: bytes) -> Iterator[Event]:
        for line in whole.splitlines():
            try:
                event = decode(line)
            except (ValueError, RecursionError):
                self.unreadable += 1
                continue
            if event is None:
                self.unknown += 1
            else:
                yield event


def read_events(path: Path) -> list[Event]:
    """Reads all complete events of a file, in order; none if there is no file."""
    return Follower().read(path)


def is_cancelled(event: Event, start: RunStarted) -> bool:
    """Whether `start`, which resumes from step k, cancels `event`: an event of an earlier attempt about a step > k.

    Starts, warnings and endings are about no step and are never cancelled. Nor is an evaluation of the baseline: it
    holds whatever becomes of the step at which it was made.
    """
    if start.resumed_from is None or event.attempt >= start.attempt or not isinstance(event, AboutStep):
        return False
    is_baseline = isinstance(event, Evaluated) and event.is_control
    return not is_baseline and event.step > start.resumed_from


def surviving(events: Iterable[Event]) -> list[Event]:
    """Returns the events that count in the end: those that no later start cancels."""
    kept: list[Event] = []
    for event in events:
        if isinstance(event, RunStarted):
            kept = [earlier for earlier in kept if not is_cancelled(earlier, event)]
        kept.append(event)
    return kept


def steps(events: Iterable[Event]) -> list[StepCompleted]:
    """The completed steps among the events."""
    return [event for event in events if isinstance(event, StepCompleted)]


def newest_trusted(events: Iterable[Event]) -> int | None:
    """The highest step whose state may be resumed, if the run ended because its own weights had grown too large: any
    later state would end the same way. None if it did not end so."""
    ends = [event for event in events if isinstance(event, RunStarted | RunStopped)]
    if not ends or not isinstance(ends[-1], RunStopped) or ends[-1].code != "non_finite_weights":
        return None
    saved = ends[-1].fields.get("saved")
    return saved if isinstance(saved, int) else None


def repair_tail(path: Path) -> None:
    """Removes a last line that a crash left unfinished."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(data.rfind(b"\n") + 1)
            fault_point("ledger.cut")
            os.fsync(file.fileno())
