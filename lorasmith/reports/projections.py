"""Files that follow the ledger while a run goes on: rewritten at every start, then extended step by step.

A disk that is full or refuses to write never ends a run: the failure is reported once, and the file is rewritten from
the ledger at the next save, when the disk may have space again. Knows neither TensorBoard nor CSV.
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
from lorasmith.reading.fold import Curves, Point, RunFold, fold_of
from lorasmith.runs.events import CheckpointSaved, Evaluated, Event, RunStarted, RunStopped, StepCompleted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events

log = logging.getLogger(__name__)


class Sink(Protocol):
    """A file that shows the curves. Every method may raise OSError or ResourceError."""

    @property
    def path(self) -> Path:
        """The path that a failure names."""

    def rewrite(self, curves: Curves) -> None:
        """Replaces what is there by `curves`."""

    def append(self, point: Point) -> None:
        """Adds the point of the next step."""

    def add_evaluation(self, evaluation: Evaluated, curves: Curves) -> None:
        """Adds an evaluation of a step that has its point already, or of the baseline; `curves` contain it."""

    def close(self) -> None:
        """Closes the file."""


@dataclass(frozen=True, slots=True)
class WriteFailure:
    """A file that could not be written."""

    path: str
    reason: str


@dataclass(slots=True)
class _SinkState:
    sink: Sink
    is_behind: bool = True  # it lacks something: nothing is added until it has been rewritten
    was_reported: bool = False


@dataclass(slots=True)
class Projections:
    """All sinks of one run, fed by `project`."""

    ledger: Path
    sinks: Sequence[Sink]
    missing_library: InputError | None = None  # TensorBoard's: training does without its curves
    fold: RunFold = field(init=False, default_factory=RunFold)  # of the run so far
    _states: list[_SinkState] = field(init=False)
    _last_step: int = field(init=False, default=0)
    _started: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._states = [_SinkState(sink) for sink in self.sinks]

    def project(self, event: Event) -> list[WriteFailure]:
        """Takes the next event of the run; returns the first failure of each sink that could not be written.

        Touches nothing before the first RunStarted: until then the folder may hold another run.
        """
        self._started = self._started or isinstance(event, RunStarted)
        if not self._started:
            return []
        is_behind = any(state.is_behind for state in self._states)
        if isinstance(event, RunStarted) or (isinstance(event, CheckpointSaved | RunStopped) and is_behind):
            return self._rewrite()
        if isinstance(event, Evaluated):
            return self._add_evaluation(event)
        if isinstance(event, StepCompleted) and event.step <= self._last_step:
            return []  # `_rewrite` read it from the ledger already
        point = self.fold.add(event)
        if point is None:
            return []
        self._last_step = point.step
        return self._each(self._up_to_date(), lambda sink: sink.append(point))

    def rewrite(self) -> list[WriteFailure]:
        """Rewrites all files from a ledger that no process writes any more."""
        self._started = True
        return self._rewrite()

    def close(self) -> list[WriteFailure]:
        """Closes all files."""
        return self._each(self._states, lambda sink: sink.close()) if self._started else []

    def _add_evaluation(self, event: Evaluated) -> list[WriteFailure]:
        before = self.fold.replaced_by(event)
        if before == event:
            return []  # `_rewrite` read it from the ledger already
        self.fold.add(event)
        if before is not None:
            return self._rewrite()  # the step was evaluated again: the new values replace the old
        curves = self.fold.curves()
        return self._each(self._up_to_date(), lambda sink: sink.add_evaluation(event, curves))

    def _up_to_date(self) -> list[_SinkState]:
        return [state for state in self._states if not state.is_behind]

    def _rewrite(self) -> list[WriteFailure]:
        """Rewrites all sinks together, so that all are at the same place in the ledger."""
        self.fold = fold_of(read_events(self.ledger))
        curves = self.fold.curves()
        self._last_step = curves.points[-1].step if curves.points else 0
        for state in self._states:
            state.is_behind = False
        return self._each(self._states, lambda sink: sink.rewrite(curves))

    def _each(self, states: list[_SinkState], action: Callable[[Sink], None]) -> list[WriteFailure]:
        failures = []
        for state in states:
            try:
                action(state.sink)
            except (OSError, ResourceError) as error:
                state.is_behind = True
                log.debug("projection %s failed: %s", state.sink.path, error)
                if not state.was_reported:
                    state.was_reported = True
                    failures.append(WriteFailure(str(state.sink.path), reason_of(error)))
        return failures


def projections_of(run: RunFolder, language: str = FALLBACK) -> Projections:
    """TensorBoard and the CSV of one run; the CSV alone where TensorBoard cannot be imported.

    Reasons for missing metrics are written in `language`.
    """
    # Imported here: tensorboard takes a quarter of a second, which passes while the worker loads.
    from lorasmith.reports.loss_log import LossLog

    sinks: list[Sink] = [LossLog(run.loss_log)]
    try:
        with importing_library():
            from lorasmith.reports.tensorboard import TensorBoardFile
    except InputError as error:
        return Projections(run.ledger, sinks, missing_library=error)
    return Projections(run.ledger, [TensorBoardFile(run, language), *sinks])


def reason_of(error: Exception) -> str:
    """The reason why something could not be made: in the system's own words, or the library's."""
    if isinstance(error, ResourceError):
        cause = error.__cause__
        return str(cause.strerror) if isinstance(cause, OSError) else error.code
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"
