"""Files that follow the ledger while a run goes on: made again at every start, then added to step by step.

A disk that is full or refuses never ends a run: the trouble is told once, and the file is made again from the ledger
at the next save, when the disk may have room. Knows neither TensorBoard nor CSV.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lorasmith.errors import InputError, ResourceError
from lorasmith.libraries import importing_library
from lorasmith.messages import FALLBACK
from lorasmith.reading.fold import Curves, Point, RunFold
from lorasmith.runs.events import CheckpointSaved, Evaluated, Event, RunStarted, RunStopped, StepCompleted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events

log = logging.getLogger(__name__)


class Sink(Protocol):
    """A file that shows the curves."""

    @property
    def path(self) -> Path:
        """What is named when it cannot be written."""

    def remake(self, curves: Curves) -> None:
        """Replaces what is there by `curves`. Raises OSError or ResourceError."""

    def append(self, point: Point) -> None:
        """Adds one point. Raises OSError or ResourceError."""

    def measured(self, evaluation: Evaluated, curves: Curves) -> None:
        """Adds what was measured at a step that has its point already, or a control; `curves` hold it. Raises OSError
        or ResourceError."""

    def close(self) -> None:
        """Lets go of the file. Raises OSError or ResourceError."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A projection could not be written."""

    path: str
    reason: str


@dataclass(slots=True)
class _Follower:
    sink: Sink
    is_behind: bool = True
    was_told: bool = False


@dataclass(slots=True)
class Projections:
    """All sinks of one run, fed by `project`."""

    ledger: Path
    sinks: Sequence[Sink]
    lacking: InputError | None = None  # why there are no curves for TensorBoard: training can do without them
    _followers: list[_Follower] = field(init=False)
    _fold: RunFold = field(init=False, default_factory=RunFold)
    _last_step: int = field(init=False, default=0)
    _started: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._followers = [_Follower(sink) for sink in self.sinks]

    def project(self, event: Event) -> list[Trouble]:
        """Takes the next event as it happens; what could not be written, each sink's trouble once.

        Nothing is touched before the first RunStarted: until then the folder may hold another run.
        """
        self._started = self._started or isinstance(event, RunStarted)
        if not self._started:
            return []
        is_behind = any(one.is_behind for one in self._followers)
        if isinstance(event, RunStarted) or (isinstance(event, CheckpointSaved | RunStopped) and is_behind):
            return self._remake()
        if isinstance(event, Evaluated):
            return self._measured(event)
        if isinstance(event, StepCompleted) and event.step <= self._last_step:
            return []  # the ledger was read at the start: what it already held by then comes by a second time
        point = self._fold.add(event)
        if point is None:
            return []
        self._last_step = point.step
        return self._each(self._writing(), lambda sink: sink.append(point))

    def remake(self) -> list[Trouble]:
        """All files from a ledger that nobody writes any more; what could not be written."""
        self._started = True
        return self._remake()

    @property
    def average_loss(self) -> float | None:
        """At the newest step; None before the first."""
        newest = self._fold.newest
        return None if newest is None else newest.average_loss

    def close(self) -> list[Trouble]:
        """Lets go of all files."""
        return self._each(self._followers, lambda sink: sink.close()) if self._started else []

    def _measured(self, event: Evaluated) -> list[Trouble]:
        before = self._fold.replaced_by(event)
        if before == event:
            return []  # known from the ledger
        self._fold.add(event)
        if before is not None:
            return self._remake()  # measured again: one point a step
        curves = self._fold.curves()
        return self._each(self._writing(), lambda sink: sink.measured(event, curves))

    def _writing(self) -> list[_Follower]:
        return [one for one in self._followers if not one.is_behind]

    def _remake(self) -> list[Trouble]:
        """All of them, so that one place in the ledger holds for all."""
        self._fold = RunFold()
        for event in read_events(self.ledger):
            self._fold.add(event)
        curves = self._fold.curves()
        self._last_step = curves.points[-1].step if curves.points else 0
        for one in self._followers:
            one.is_behind = False
        return self._each(self._followers, lambda sink: sink.remake(curves))

    def _each(self, followers: list[_Follower], action: Callable[[Sink], None]) -> list[Trouble]:
        told = []
        for one in followers:
            try:
                action(one.sink)
            except (OSError, ResourceError) as error:
                one.is_behind = True
                log.debug("projection %s failed: %s", one.sink.path, error)
                if not one.was_told:
                    one.was_told = True
                    told.append(Trouble(str(one.sink.path), reason_of(error)))
        return told


def projections_of(run: RunFolder, language: str = FALLBACK) -> Projections:
    """TensorBoard and the CSV of one run; the CSV alone where TensorBoard cannot be imported. What could not be
    measured is told in `language`."""
    # Here, because tensorboard takes a quarter of a second to import, which belongs into the time the worker loads.
    from lorasmith.reports.loss_log import LossLog

    sinks: list[Sink] = [LossLog(run.loss_log)]
    try:
        with importing_library():
            from lorasmith.reports.tensorboard import TensorBoardFile
    except InputError as error:
        return Projections(run.ledger, sinks, lacking=error)
    return Projections(run.ledger, [TensorBoardFile(run, language), *sinks])


def reason_of(error: Exception) -> str:
    """Why something could not be made: in the system's own words, or the library's."""
    if isinstance(error, ResourceError):
        cause = error.__cause__
        return str(cause.strerror) if isinstance(cause, OSError) else error.code
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"
