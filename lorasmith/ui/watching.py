"""Fans the events of a run out to screen, TensorBoard and CSV, and has the report made at the end. Decides nothing: the
supervisor does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from lorasmith.errors import ExitCode
from lorasmith.events import Event, RunStarted, WorkerStarted
from lorasmith.reports.projections import Projections, Trouble, projections_of
from lorasmith.runtime.start import Start
from lorasmith.ui.render import Display
from lorasmith.ui.screens import Screen, open_screen
from lorasmith.ui.words import Words


class Supervised(Protocol):
    """What a supervisor gives to those who watch."""

    exit_code: ExitCode

    def events(self) -> Iterator[Event | None]:
        """What happens, None while nothing does; handles stop signals; ends with the run."""

    def newest_state(self) -> Path | None:
        """What --continue would go on from."""


def watch(
    start: Start, supervisor: Supervised, *, words: Words, command: str, verbose: bool, screen: Screen | None = None
) -> int:
    """Shows a run from start to end; the exit status.

    Raises:
        TrainerError: the run could not begin.
    """
    screen = screen or open_screen(sys.stdout)
    display = Display(words, screen, open_screen(sys.stderr), start=start, command=command, verbose=verbose)
    projections: Projections | None = None
    has_begun = False
    try:
        for event in supervisor.events():
            if event is None:
                screen.tick()
                continue
            has_begun = has_begun or isinstance(event, RunStarted)
            if isinstance(event, WorkerStarted) and projections is None:
                projections = projections_of(start.run, words.language)  # while the worker loads
            troubles: list[Trouble] = []
            average = None
            if projections is not None:
                troubles = projections.project(event)
                average = projections.average_loss
            display.show(event, average)
            for trouble in troubles:
                display.warn("projection_failed", {"path": trouble.path, "reason": trouble.reason})
    finally:
        screen.close()
        if projections is not None:
            projections.close()
    display.finish(supervisor.exit_code, supervisor.newest_state())
    if has_begun:
        _report(start, display, words)
    return int(supervisor.exit_code)


def _report(start: Start, display: Display, words: Words) -> None:
    """Made after everything else has been told: what it meets changes no exit status."""
    # Here, because what draws is not to be loaded while a run trains.
    from lorasmith.reports.making import make_reports

    try:
        display.reported(make_reports(start.run, words))
    except KeyboardInterrupt:
        display.warn("report_left_out", {})
