"""Progress while a run loads, and the stop request that ends it."""

from pathlib import Path

import pytest

from lorasmith.errors import StopRequested
from lorasmith.runs.events import CacheProgress, ShapesPrepared
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger, read_events
from lorasmith.runs.process_files import HeartbeatWriter, StopFlag, read_heartbeat, request_stop
from lorasmith.session.startup import StartupContext


@pytest.fixture
def startup(tmp_path: Path) -> StartupContext:
    run = RunFolder(tmp_path / "run")
    run.staging.mkdir()
    heart = HeartbeatWriter(run.staging / run.heartbeat.name)
    return StartupContext(Ledger(run.early_ledger), heart, StopFlag(run, 3, supervisor_pid=None), 3)


def staged(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_progress_is_an_event_and_a_sign_of_life(startup: StartupContext, tmp_path: Path) -> None:
    run = staged(tmp_path)
    startup.cached(0, 2)
    startup.cached(1, 2)
    startup.prepared("compiled", 1, 3)
    startup.close()
    startup.close()  # a second time does no harm
    events = read_events(run.early_ledger)
    assert [(event.done, event.total) for event in events if isinstance(event, CacheProgress)] == [(0, 2), (1, 2)]
    assert [(event.done, event.total) for event in events if isinstance(event, ShapesPrepared)] == [(1, 3)]
    assert {event.attempt for event in events} == {3}
    beat = read_heartbeat(run.staging / run.heartbeat.name)
    assert beat is not None
    assert (beat.phase, beat.step, beat.beat) == ("compiling", 0, 3)


def test_a_stop_takes_effect_at_the_next_picture(startup: StartupContext, tmp_path: Path) -> None:
    startup.cached(0, 2)
    request_stop(staged(tmp_path), 3)
    with pytest.raises(StopRequested):
        startup.cached(1, 2)
    startup.close()
