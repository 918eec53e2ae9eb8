from __future__ import annotations

from pathlib import Path
from statistics import median

from lorasmith.reading.summary import summary_of
from lorasmith.runs.events import StepCompleted, Warned
from tests.reading.made_up import best, evaluated, finished, saved, started, stepped, stopped, watched


def test_a_finished_run(tmp_path: Path) -> None:
    events = finished(tmp_path)
    found = summary_of(events, watched(1))
    assert (found.asked_steps, found.stop_at, found.done, found.is_finished) == (300, 300, 300, True)
    assert (found.ending.reason, found.interruptions) == ("reached", 0)
    assert (found.use.step, found.use.path) == (150, "last-best.safetensors")
    assert found.losses["visual"].baseline == 0.6
    assert found.losses["total"].count == 300
    assert found.speed.evaluating_seconds == 5 * 3.1
    seconds = {event.step: event.seconds for event in events if isinstance(event, StepCompleted)}
    assert found.speed.slowest_step == max(seconds, key=seconds.__getitem__)
    assert found.speed.median_seconds == median(seconds.values())
    assert found.environment["device_type"] == "cpu"


def test_cancelled_measures_exports_and_bests_leave_no_trace(tmp_path: Path) -> None:
    first = [started(tmp_path, 9), *stepped(range(1, 9)), *saved(4), evaluated(4, tmp_path), best(4, 0.1)]
    first += [*saved(8), evaluated(8, tmp_path), best(8, 0.05)]
    found = summary_of([*first, started(tmp_path, 9, attempt=2, resumed_from=4)], [])
    assert found.done == 4
    assert {one.step for one in found.files} == {4}
    assert found.use.step == 4
    assert found.curves.best is not None and found.curves.best.step == 4


def test_files_that_are_gone_are_told_and_not_recommended(tmp_path: Path) -> None:
    found = summary_of(finished(tmp_path), [], present={"last.safetensors"})
    assert {one.path: one.is_there for one in found.files}["last-best.safetensors"] is False
    assert (found.use.step, found.use.path) == (300, "last.safetensors")
    assert summary_of(finished(tmp_path), [], present=set()).use.reason == "exports_gone"


def test_settings_that_changed_and_from_which_step(tmp_path: Path) -> None:
    events = [started(tmp_path, 4), *stepped(range(1, 5))]
    events.append(started(tmp_path, 9, attempt=2, resumed_from=4, changed={"lr": [1e-4, 5e-5]}))
    (change,) = summary_of(events, []).changes
    assert (change.after_step, change.option, change.before, change.now) == (4, "lr", 1e-4, 5e-5)


def test_what_could_never_be_measured_has_its_reason(tmp_path: Path) -> None:
    found = summary_of(finished(tmp_path, unavailable={"semantic": "no_clip_model"}), [])
    assert found.unavailable == {"semantic": "no_clip_model"}
    assert found.losses["semantic"].final is None


def test_nothing_at_all_and_a_run_that_failed_at_once(tmp_path: Path) -> None:
    empty = summary_of([], [])
    assert (empty.done, empty.stop_at, empty.is_finished, empty.use.reason) == (0, None, False, "nothing_exported")
    failed = [started(tmp_path, 9), stopped(0, "failed", code="disk_full", fields={"path": "x"}, exit_code=6)]
    found = summary_of(failed, watched(1, status=6))
    assert (found.done, found.ending.code, found.interruptions) == (0, "disk_full", 1)


def test_a_warning_that_every_start_gives_is_kept_once(tmp_path: Path) -> None:
    found = {"count": 1, "files": ["a.txt"]}
    said = [Warned(attempt=attempt, time=0.0, code="captions_alone", fields=dict(found)) for attempt in (1, 2)]
    other = Warned(attempt=2, time=0.0, code="captions_alone", fields={"count": 2, "files": ["a.txt", "b.txt"]})
    assert summary_of([started(tmp_path, 9), *said, other], []).warnings == (said[0], other)
