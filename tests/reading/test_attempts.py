from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorasmith.reading.attempts import Attempt, attempts_of
from lorasmith.reading.fold import fold_of
from lorasmith.runs.events import Event, GivenUp, WorkerEnded, WorkerHung, WorkerRestarted
from tests.reading.made_up import T0, started, stepped, stopped, watched

HUNG = WorkerHung(
    attempt=1, time=T0 + 99, step=5, phase="step", silent_seconds=9, limit_seconds=5, stack="a\nb", is_stopped=False
)


def attempts(events: Sequence[Event], supervisor_events: Sequence[Event]) -> tuple[Attempt, ...]:
    return attempts_of(fold_of(events).attempts, supervisor_events)


def test_a_run_that_was_continued_three_times(tmp_path: Path) -> None:
    events = [started(tmp_path, 9), *stepped(range(1, 6)), stopped(5, "asked", exit_code=5)]
    watching = watched(1, status=5, supervisor=1)
    for attempt, (begin, end) in enumerate(((5, 7), (6, 9), (9, 12)), start=2):
        events += [started(tmp_path, 12, attempt=attempt, resumed_from=begin)]
        events += [*stepped(range(begin + 1, end + 1), attempt=attempt), stopped(end, "reached", attempt=attempt)]
        watching += watched(attempt, supervisor=attempt)
    found = attempts(events, watching)
    assert [one.number for one in found] == [1, 2, 3, 4]
    assert [one.cancelled_steps for one in found] == [0, 1, 0, 0]
    assert [one.ending.reason for one in found] == ["asked", "reached", "reached", "reached"]
    assert not any(one.is_restart or one.is_interrupted for one in found)
    assert found[0].seconds == 140.0


def test_a_killed_worker_leaves_its_status_and_a_restart_is_told_from_a_start(tmp_path: Path) -> None:
    events = [started(tmp_path, 9), *stepped(range(1, 6)), started(tmp_path, 9, attempt=2, resumed_from=0)]
    again = WorkerRestarted(attempt=2, time=T0, after="hung", reason="", step=0, in_vain=1)
    found = attempts(events, [*watched(1, status=-9), HUNG, again, *watched(2, status=None)])
    assert (found[0].ending.reason, found[0].ending.status, found[0].cancelled_steps) == ("died", -9, 5)
    assert found[0].is_interrupted and found[1].is_restart
    assert [(one.kind, one.fields["stack"]) for one in found[0].happenings] == [("WorkerHung", "a\nb")]
    assert found[1].ending.reason == "unknown"


def test_an_attempt_that_only_the_supervisor_knows_is_one(tmp_path: Path) -> None:
    ended = WorkerEnded(attempt=1, time=T0, status=1, output="Traceback")
    (one,) = attempts([], [*watched(1, status=None), ended])
    assert (one.last_step, one.stop_at, one.ending.output) == (None, None, "Traceback")


def test_what_the_supervisor_gave_up_is_a_failure_with_its_code(tmp_path: Path) -> None:
    given_up = GivenUp(attempt=1, time=T0, code="stuck", fields={"step": 5}, exit_code=7)
    (one,) = attempts([started(tmp_path, 9)], [*watched(1, status=-9), given_up])
    assert (one.ending.reason, one.ending.code, one.ending.exit_code) == ("failed", "stuck", 7)
    assert one.happenings == ()
