"""The files that follow a ledger, as it grows line by line: what a fault in them leaves, and what the next start makes
of it. (In tests/faults/scenes.py the worker is done before they hear of it.)
"""

import json
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

from lorasmith import faults
from lorasmith.errors import ExitCode
from lorasmith.reports.projections import projections_of
from lorasmith.runs.events import Event
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger, read_events
from tests.faults.forked import in_child

OWN = ("csv.", "tensorboard.", "file.", "folder.")  # the points that are theirs; the ledger has its own cases


class Followed:
    """Stands beside the scenes: the events of a finished run, told once more to TensorBoard and CSV."""

    def __init__(self, events: Sequence[Event], place: Path) -> None:
        self._events = events
        self._folder = place / "followed"
        seen: list[str] = []

        def traced() -> int:
            faults._chosen = "trace"
            faults._at = seen.append
            status = self._tell()
            (place / "trace.json").write_text(json.dumps(seen))
            return status

        assert in_child(traced) == ExitCode.FINISHED
        names = json.loads((place / "trace.json").read_text())
        found = [(name, names[: number + 1].count(name)) for number, name in enumerate(names)]
        self.points = [one for one in found if one[0].startswith(OWN)]
        self.expected = self._files()

    def check(self, fault: str, exits: set[int]) -> None:
        shutil.rmtree(self._folder)
        status = in_child(self._tell, fault=fault)
        assert status in exits, status
        if fault.endswith("no_space"):
            assert status == ExitCode.FINISHED, "a full disk is told, and ends nothing"
        else:
            told = read_events(self._run.ledger)
            assert told == self._events[: len(told)]
            for event in self._events[len(told) :]:  # the worker goes on without them
                with Ledger(self._run.ledger) as ledger:
                    ledger.append(event)
            assert in_child(self._remake) == ExitCode.FINISHED
        assert self._files() == self.expected

    @property
    def _run(self) -> RunFolder:
        return RunFolder(self._folder / "lora_output")

    def _tell(self) -> int:
        self._run.root.mkdir(parents=True)
        projections = projections_of(self._run)
        with Ledger(self._run.ledger) as ledger:
            for event in self._events:
                ledger.append(event)
                projections.project(event)
        projections.close()
        return int(ExitCode.FINISHED)

    def _remake(self) -> int:
        projections = projections_of(self._run)
        failures = projections.rewrite()
        projections.close()
        return len(failures)

    def _files(self) -> list[bytes]:
        """The table, and the one file of curves; what a kill has left hidden is cleared by the next start."""
        (curves,) = [path for path in self._run.tensorboard.iterdir() if not path.name.startswith(".")]
        return [self._run.loss_log.read_bytes(), _records(curves.read_bytes())]


def _records(curves: bytes) -> bytes:
    """All but the first, which holds the moment at which the file was begun."""
    (length,) = struct.unpack_from("<Q", curves)
    return curves[8 + 4 + length + 4 :]
