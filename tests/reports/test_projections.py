from __future__ import annotations

import errno
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lorasmith.reading.fold import Curves, Point, curves_of
from lorasmith.reports.projections import Projections, projections_of
from lorasmith.runs.events import CheckpointSaved, DeviceChosen, Evaluated, Event, RunStopped
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger
from tests.reading.made_up import evaluated
from tests.ui.fake_engine import T0, run_started, step

SAVED = CheckpointSaved(attempt=1, time=T0, step=3, path="s", sha256="", seconds=0.0)


@dataclass
class ListSink:
    """A file that is a list, on a disk that may be full."""

    steps: list[int] = field(default_factory=list)
    averages: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    is_full: bool = False
    rewrites: int = 0
    path: Path = Path("list")

    def rewrite(self, curves: Curves) -> None:
        self._check()
        self.rewrites += 1
        self.steps = [point.step for point in curves.points]
        self.averages = [point.average_loss for point in curves.points]
        self.evaluations = [one.step for one in curves.evaluations]

    def append(self, point: Point) -> None:
        self._check()
        self.steps.append(point.step)
        self.averages.append(point.average_loss)

    def add_evaluation(self, evaluation: Evaluated, curves: Curves) -> None:
        self._check()
        assert evaluation in (curves.baseline, *curves.evaluations)
        self.evaluations.append(0 if evaluation.is_control else evaluation.step)

    def close(self) -> None:
        """Nothing to let go of."""

    def _check(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterable[Ledger]:
    with Ledger(tmp_path / "ledger.jsonl") as opened:
        yield opened


def played(projections: Projections, ledger: Ledger, events: Iterable[Event]) -> list[str]:
    told = []
    for event in events:
        ledger.append(event)
        told += [failure.reason for failure in projections.project(event)]
    return told


def test_nothing_is_touched_before_the_run_has_started(tmp_path: Path) -> None:
    sink = ListSink()
    projections = Projections(tmp_path / "ledger.jsonl", [sink])
    device = DeviceChosen(
        attempt=1, time=T0, device="cpu", name="", reason="", precision="", precision_reason="", threads=1
    )
    assert projections.project(device) == []
    assert projections.project(RunStopped(attempt=1, time=T0, step=None, reason="failed")) == []
    projections.close()
    assert sink.rewrites == 0


def test_it_is_made_again_at_a_start_and_then_added_to(ledger: Ledger, tmp_path: Path) -> None:
    sink = ListSink()
    projections = Projections(tmp_path / "ledger.jsonl", [sink])
    assert played(projections, ledger, [run_started(9), step(1), step(2), step(3), evaluated(3, tmp_path), SAVED]) == []
    assert played(projections, ledger, [run_started(9, resumed_from=2, attempt=2), step(3, attempt=2)]) == []
    assert (sink.steps, sink.evaluations, sink.rewrites) == ([1, 2, 3], [], 2), "what was cancelled leaves no trace"


def test_events_that_the_ledger_already_held_are_not_counted_twice(ledger: Ledger, tmp_path: Path) -> None:
    events = [run_started(9), *(step(number) for number in range(1, 7))]
    for event in events[:5]:
        ledger.append(event)
    sink = ListSink()
    projections = Projections(tmp_path / "ledger.jsonl", [sink])
    for event in events:  # the first of them makes the file, when four steps are already there
        projections.project(event)
    expected = curves_of(events).points
    assert sink.steps == [point.step for point in expected]
    assert sink.averages == [point.average_loss for point in expected]
    assert projections.fold.newest == expected[-1]


def test_a_full_disk_is_told_once_and_made_up_for_at_the_next_save(ledger: Ledger, tmp_path: Path) -> None:
    full, fine = ListSink(is_full=True), ListSink()
    projections = Projections(tmp_path / "ledger.jsonl", [full, fine])
    told = played(projections, ledger, [run_started(9), step(1), step(2), SAVED, step(3)])
    assert told == ["No space left on device"]
    assert fine.steps == [1, 2, 3]
    full.is_full = False
    assert played(projections, ledger, [step(4)]) == []
    assert full.steps == []
    assert played(projections, ledger, [SAVED, step(5)]) == []
    assert full.steps == fine.steps == [1, 2, 3, 4, 5]


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "lora_output")
    run.root.mkdir()
    run.tensorboard.write_text("a file where the folder should be")
    run.training_logs.write_text("and another")
    projections = projections_of(run)
    with Ledger(run.ledger) as ledger:
        told = played(projections, ledger, [run_started(2), step(1), step(2), SAVED])
    assert len(told) == 2
    projections.close()


def test_a_tensorboard_that_cannot_be_loaded_costs_its_own_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a protobuf of another age: its classes cannot be made, which is a TypeError."""
    for name in [one for one in sys.modules if one.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "lorasmith.reports.tensorboard", raising=False)
    place = tmp_path / "site-packages" / "tensorboard"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("raise TypeError('Descriptors cannot be created directly.')")
    monkeypatch.syspath_prepend(place.parent)
    run = RunFolder(tmp_path / "lora_output")
    run.root.mkdir()
    projections = projections_of(run)
    with Ledger(run.ledger) as ledger:
        assert played(projections, ledger, [run_started(2), step(1), step(2), SAVED]) == []
    projections.close()
    assert projections.missing_library is not None
    assert projections.missing_library.fields["reason"] == "TypeError: Descriptors cannot be created directly."
    assert len(run.loss_log.read_text(encoding="utf-8").splitlines()) == 3
    assert not run.tensorboard.exists()


def test_measures_are_added_once_and_a_second_measure_of_a_step_takes_the_place_of_the_first(
    ledger: Ledger, tmp_path: Path
) -> None:
    sink = ListSink()
    projections = Projections(tmp_path / "ledger.jsonl", [sink])
    control, first = evaluated(2, tmp_path, is_control=True), evaluated(2, tmp_path)
    played(projections, ledger, [run_started(9), step(1), step(2), control, first])
    assert (sink.evaluations, sink.rewrites) == ([0, 2], 1)
    projections.project(first)  # known already
    assert sink.evaluations == [0, 2]
    played(projections, ledger, [evaluated(2, tmp_path, share=0.5)])
    assert (sink.evaluations, sink.rewrites) == ([2], 2)


def test_all_can_be_made_again_at_once(ledger: Ledger, tmp_path: Path) -> None:
    for event in (run_started(2), step(1), step(2)):
        ledger.append(event)
    sink, full = ListSink(), ListSink(is_full=True)
    told = Projections(tmp_path / "ledger.jsonl", [sink, full]).rewrite()
    assert (sink.steps, len(told)) == ([1, 2], 1)
