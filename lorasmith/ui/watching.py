"""Fans the events of a run out to screen, TensorBoard and CSV, and has the report made at the end. Decides nothing: the
supervisor does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lorasmith.errors import ExitCode
from lorasmith.reports.making import make_reports
from lorasmith.reports.projections import Projections, WriteFailure, projections_of
from lorasmith.runs.events import Event, RunStarted, WorkerStarted
from lorasmith.runtime.stop_signals import ENDINGS, StopSignals
from lorasmith.ui.render import Display
from lorasmith.ui.screens import Screen, open_screen
from lorasmith.ui.translator import Translator

if TYPE_CHECKING:
    from lorasmith.runtime.preflight import Start

BEHIND_SECONDS = 0.1  # between two looks whether somebody reads on


class Supervised(Protocol):
    """What a supervisor gives to those who watch."""

    exit_code: ExitCode
    has_placed: bool

    def events(self) -> Iterator[Event | None]:
        """What happens, None while nothing does; handles stop signals; ends with the run."""

    def newest_state(self) -> Path | None:
        """What --continue would go on from."""


def watch(
    start: Start,
    supervisor: Supervised,
    *,
    words: Translator,
    command: str,
    verbose: bool,
    screen: Screen | None = None,
) -> int:
    """Shows a run from start to end; the exit status.

    Raises:
        TrainerError: the run could not begin.
    """
    screen = screen or open_screen(sys.stdout)
    errors = open_screen(sys.stderr)
    display = Display(words, screen, errors, start=start, command=command, verbose=verbose)
    followed = _Followed()
    try:
        _follow(supervisor, followed, display=display, screen=screen, start=start, words=words)
        # There is nothing left to stop: the report is made, and the exit status stands.
        with StopSignals(ENDINGS) as stops:
            display.finish(supervisor.exit_code, supervisor.newest_state(), has_placed=supervisor.has_placed)
            if followed.has_begun or _has_failed(start, supervisor.exit_code):
                _report(start, display, words)
            _say_the_rest((screen, errors), stops)
    except KeyboardInterrupt:
        # From the first event to the last Ctrl+C is the supervisor's: this one came before there was anything to stop,
        # or when the run was over and its exit status stood.
        if not followed.is_watched:
            raise
        if followed.has_begun:
            display.warn("report_left_out", {})
    return int(supervisor.exit_code)


@dataclass(slots=True)
class _Followed:
    """What has been seen of a run so far."""

    is_watched: bool = False  # the supervisor has spoken
    has_begun: bool = False


def _follow(
    supervisor: Supervised, followed: _Followed, *, display: Display, screen: Screen, start: Start, words: Translator
) -> None:
    """Shows and projects every event."""
    projections: Projections | None = None
    try:
        for event in supervisor.events():
            followed.is_watched = True
            if event is None:
                screen.tick()
                continue
            followed.has_begun = followed.has_begun or isinstance(event, RunStarted)
            if isinstance(event, WorkerStarted) and projections is None:
                projections = projections_of(start.run, words.in_files.language)  # while the worker loads
                if projections.missing_library is not None:
                    display.warn("curves_left_out", projections.missing_library.fields)
            failures: list[WriteFailure] = []
            if projections is not None:
                failures = projections.project(event)
            display.show(event, None if projections is None else projections.fold)
            for failure in failures:
                display.warn("projection_failed", asdict(failure))
    finally:
        screen.close()
        if projections is not None:
            projections.close()


def _say_the_rest(screens: Sequence[Screen], stops: StopSignals) -> None:
    """To a reader that is slow, or whom nobody scrolls: until all is said, or nobody wants to hear it."""
    with suppress(KeyboardInterrupt):
        while any(screen.is_behind for screen in screens) and not stops.stop_requested:
            time.sleep(BEHIND_SECONDS)
            for screen in screens:
                screen.tick()


def _has_failed(start: Start, exit_code: ExitCode) -> bool:
    """Whether a run that is there already was not taken up again, and not because it was asked for what cannot be: of a
    new one there is nothing to report, and a start that was refused changes nothing."""
    failed = exit_code in (ExitCode.NO_RESOURCE, ExitCode.STUCK, ExitCode.NON_FINITE, ExitCode.CRASHED)
    return failed and not start.is_new and start.run.ledger.is_file()


def _report(start: Start, display: Display, words: Translator) -> None:
    """Made after everything else has been told: what it meets changes no exit status."""
    display.reported(make_reports(start.run, words.in_files))
