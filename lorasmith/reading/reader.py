"""Reads the two ledgers of a run, once for a report or again and again for a live view."""

from __future__ import annotations

from lorasmith.reading.fold import RunFold
from lorasmith.reading.summary import RunSummary, summary_of, summary_of_fold
from lorasmith.runs.events import Event
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Follower, read_events
from lorasmith.runs.naming import names_in


def read_summary(run: RunFolder) -> RunSummary:
    """Returns the summary of a run from its ledgers and its folder; a torn or missing ledger gives what it holds.

    Raises:
        OSError: something there cannot be read.
    """
    return summary_of(read_events(run.ledger), read_events(run.supervisor_log), present=_present(run))


class RunReader:
    """Follows the ledgers of a run that may still grow, so that watching a long run costs little. A ledger that took
    the place of another is read from its beginning.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.lines = Follower()
        self.fold = RunFold()
        self.supervisor_events: list[Event] = []
        self._file: tuple[int, int] | None = None  # device and inode

    def read(self) -> None:
        """Takes in what was written since the last call.

        Raises:
            OSError: a ledger cannot be read.
        """
        try:
            facts = self.run.ledger.stat()
        except FileNotFoundError:
            self._forget()
        else:
            if (facts.st_dev, facts.st_ino) != self._file or facts.st_size < self.lines.offset:
                self._forget()
                self._file = (facts.st_dev, facts.st_ino)
        for event in self.lines.read(self.run.ledger):
            self.fold.add(event)
        self.supervisor_events = read_events(self.run.supervisor_log)

    def summary(self) -> RunSummary:
        """Returns the summary of what has been read."""
        return summary_of_fold(self.fold, self.supervisor_events, present=_present(self.run))

    def _forget(self) -> None:
        self._file = None
        self.lines = Follower()
        self.fold = RunFold()


def _present(run: RunFolder) -> set[str]:
    """The files that events may name: those in the run folder, and its LoRA files beside it."""
    if not run.root.is_dir():
        return set()
    names = names_in(run)
    return {path.name for path in run.root.iterdir()} | {names.recorded(path) for path in names.beside()}
