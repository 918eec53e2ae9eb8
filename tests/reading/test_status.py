from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig, dump_run_toml
from lorasmith.reading.reader import RunReader
from lorasmith.reading.status import RunStatus, read_status
from lorasmith.runs.events import Event, GivenUp, StepRepeated, Warned, WorkerRestarted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.process_files import Heartbeat
from lorasmith.runtime.policy import StallDetector
from tests.reading.made_runs import (
    T0,
    add,
    beat,
    begun,
    ended,
    evaluated,
    finished_run,
    made_run,
    stepped,
    worker_began,
    worker_ended,
)


def seen(run: RunFolder, *, later: float = 0.0) -> RunStatus:
    """So many seconds after the newest sign of life: a busy machine may have let some pass since."""
    signs = (run.heartbeat, run.staging / run.heartbeat.name, run.lock)
    newest = max((path.stat().st_mtime for path in signs if path.exists()), default=time.time())
    return read_status(RunReader(run), now=newest + later)


def codes(status: RunStatus) -> list[tuple[str, str]]:
    return [(notice.kind, notice.code) for notice in status.notices]


def test_nothing_there(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        status = seen(RunFolder(root))
        assert (status.standing, status.starts, status.notices, status.is_going_on) == ("none", 0, (), False)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_went_well(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    status = seen(run)
    assert (status.standing, status.notices, status.is_going_on) == ("finished", (), False)
    assert (status.summary.stop_at, status.summary.done, status.start_done) == (20, 20, 20)
    assert (status.seconds_per_step, status.summary.speed.stepping_seconds, status.seconds_left) == (2.0, 40.0, None)
    assert (status.device, status.summary.restarts) == ("cuda:0 bf16", 0)
    assert status.newest is not None and status.newest.lr == {"denoiser": 1e-4}


def test_looking_changes_nothing(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    run.lock.touch()  # left by a crash
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    seen(run)
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


def test_a_run_that_is_going_on(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(1, 4)])
    beat(run, 4, "step")
    with FolderLock(run.lock):
        status = seen(run)
    assert (status.standing, status.is_going_on, codes(status)) == ("running", True, [])
    assert status.seconds_left == 12.0
    assert status.beat is not None and (status.beat.step, status.beat.phase, status.beat.limit_seconds) == (
        4,
        "step",
        300,
    )


def test_a_run_without_a_sign_of_life(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(1, 4)])
    beat(run, 4, "step")
    with FolderLock(run.lock):
        assert seen(run, later=299).standing == "running"
        status = seen(run, later=305)
    assert (status.standing, status.is_going_on) == ("stuck", True)
    assert codes(status) == [("error", "run_stuck")]
    fields = status.notices[0].fields
    assert (fields["seconds"], fields["limit"]) == (305, 300)


def test_a_start_is_no_older_than_its_lock(tmp_path: Path) -> None:
    """The heart that lies there is that of the day before."""
    run = finished_run(tmp_path)
    path = beat(run, 4, "step")
    os.utime(path, (0, path.stat().st_mtime - 86_400))
    with FolderLock(run.lock):
        assert seen(run, later=299).standing != "stuck"
        assert seen(run, later=1805).standing == "stuck"


@pytest.mark.parametrize(("seconds", "limit"), [(2.0, 300.0), (100.0, 2000.0)])
def test_a_slow_run_is_given_its_time(tmp_path: Path, seconds: float, limit: float) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(1, 4, seconds=seconds)])
    beat(run, 4, "step")
    with FolderLock(run.lock):
        assert seen(run, later=limit - 1).standing == "running"
        assert seen(run, later=limit + 5).standing == "stuck"


def test_a_run_is_stuck_when_its_supervisor_says_so(tmp_path: Path) -> None:
    """The rule counts micro-batches: eight make a step of 800 s here, and a worker may be silent for 20 x 100 s."""
    run = made_run(tmp_path, [begun(10), *stepped(1, 4, seconds=800.0)])
    run.config.write_bytes(dump_run_toml(RunConfig().with_values({("training", "accumulation_steps"): 8})))
    beat(run, 4, "step")
    silence = StallDetector(RunConfig().watch.stall_timeout)
    silence.observe(0.0, Heartbeat(step=3, phase="step", beat=0))
    for number in range(1, 9):
        silence.observe(100.0, Heartbeat(step=3, phase="step", beat=number, micro_batches=number))
    silence.step_completed(800.0)
    with FolderLock(run.lock):
        assert seen(run, later=silence.limit - 5).standing == "running"
        assert seen(run, later=silence.limit + 5).standing == "stuck"
    assert silence.limit == 2000.0


def test_durations_of_another_accumulation_do_not_count(tmp_path: Path) -> None:
    """A step of an earlier start had eight micro-batches, a step of this start is one."""
    events = [begun(4), *stepped(1, 4, seconds=800.0), begun(10, attempt=2, resumed_from=4)]
    run = made_run(tmp_path, [*events, *stepped(5, 6, attempt=2, seconds=100.0)])
    run.config.write_bytes(dump_run_toml(RunConfig()))
    beat(run, 6, "step")
    with FolderLock(run.lock):
        assert seen(run, later=1995).standing == "running"
        assert seen(run, later=2005).standing == "stuck"


def test_the_first_step_is_given_more(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10)])
    beat(run, 0, "step")
    with FolderLock(run.lock):
        assert seen(run, later=1799).standing == "running"
        assert seen(run, later=1805).standing == "stuck"


def test_a_start_that_is_loading_beside_an_older_run(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    run.staging.mkdir()
    beat(run, 0, "caching", folder=run.staging)
    with FolderLock(run.lock):
        status = seen(run)
        assert (status.standing, status.beat and status.beat.phase) == ("loading", "caching")
        assert seen(run, later=1799).standing == "loading"
        assert seen(run, later=1805).standing == "stuck"
    assert seen(run).standing == "finished"


def test_the_very_first_start_is_loading(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run.lock"):
        assert seen(RunFolder(tmp_path)).standing == "loading"


def test_the_last_files_are_being_written(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    with FolderLock(run.lock):
        status = seen(run)
    assert (status.standing, status.is_going_on, codes(status)) == ("ending", True, [])


def test_a_worker_whose_supervisor_is_gone(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(1, 4)])
    with FolderLock(run.worker_lock):
        status = seen(run)
    assert (status.standing, status.is_going_on) == ("orphaned", True)
    assert codes(status) == [("warning", "run_orphaned")]
    assert seen(run).standing == "died"


@pytest.mark.parametrize(
    ("ending", "own", "standing", "found"),
    [
        (None, [], "died", ("error", "run_died")),
        (None, [worker_ended(1, -9)], "died", ("error", "worker_died")),
        (ended(4, "failed", code="out_of_memory", fields={"step": 5}), [], "failed", ("error", "out_of_memory")),
        (None, [GivenUp(attempt=1, time=T0, code="crashed", fields={"reason": "x"})], "failed", ("error", "crashed")),
    ],
)
def test_how_it_went_wrong(
    tmp_path: Path, ending: Event | None, own: list[Event], standing: str, found: tuple[str, str]
) -> None:
    events = [begun(10), *stepped(1, 4), *([ending] if ending is not None else [])]
    status = seen(made_run(tmp_path, events, own))
    assert status.standing == standing
    assert codes(status)[0] == found


def test_a_stop_that_was_asked_for_is_nothing_wrong(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    add(run.ledger, begun(40, attempt=2, resumed_from=20), *stepped(21, 25, attempt=2), ended(25, "asked", attempt=2))
    status = seen(run)
    assert (status.standing, status.notices) == ("stopped", ())
    found = status.summary
    assert (found.stop_at, found.done, found.asked_steps, status.start_done, status.resumed_from) == (40, 25, 20, 5, 20)


def test_starts_restarts_and_steps_done_again(tmp_path: Path) -> None:
    events: list[Event] = [begun(10), *stepped(1, 6), begun(10, attempt=2, resumed_from=4)]
    events += [StepRepeated(attempt=2, time=T0, step=5, reason="overflow"), *stepped(5, 10, attempt=2)]
    events.append(ended(10, attempt=2))
    again = WorkerRestarted(attempt=2, time=T0, after="crashed", reason="", step=4, in_vain=1)
    own = [worker_began(1, 77), worker_ended(1, -9), again, worker_began(2, 77)]
    status = seen(made_run(tmp_path, events, own))
    assert (status.starts, status.summary.restarts) == (2, 1)
    assert (status.summary.repeated_steps, status.summary.cancelled_steps, status.summary.done) == (1, 2, 10)
    apart = [worker_began(1, 1), worker_began(2, 1)]  # a person started the second one; in a container all are 1
    assert seen(made_run(tmp_path / "b", events, apart)).summary.restarts == 0


def damaged_ledger(run: RunFolder) -> None:
    with run.ledger.open("ab") as file:
        file.write(b"\0\0\n" + b'{"event": "New", "attempt": 1, "time": 0}\n' + b'{"event": "Run')


def test_a_ledger_that_is_torn_old_or_new(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    damaged_ledger(run)
    found = [("warning", "ledger_torn"), ("warning", "ledger_unreadable"), ("warning", "ledger_unknown")]
    status = seen(run)
    assert (status.standing, codes(status)) == ("finished", found)
    with FolderLock(run.lock):
        assert codes(seen(run)) == found[1:]  # a line that is being written is nothing wrong


def test_a_ledger_of_the_first_version(tmp_path: Path) -> None:
    lines = [
        '{"event": "RunStarted", "attempt": 1, "time": 5, "identity": "x", "resumed_from": null, "stop_at": 2,'
        ' "settings": {}}',
        '{"event": "StepCompleted", "attempt": 1, "time": 6, "step": 1, "epoch": 1, "loss": 0.5, "lr": {},'
        ' "grad_norm": 1, "example_ids": [0], "seconds": 1, "peak_memory": 0}',
        '{"event": "RunStopped", "attempt": 1, "time": 7, "step": 1, "reason": "asked"}',
    ]
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    status = seen(RunFolder(tmp_path))
    assert (status.standing, status.summary.done, status.device) == ("stopped", 1, "")


def test_missing_steps_and_files(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(3, 10), ended(10)])
    (run.root / "state_y.damaged").mkdir()
    status = seen(run)
    assert [notice.code for notice in status.notices] == [
        "ledger_steps_missing",
        "state_unusable",
        "lora_missing",
        "states_missing",
    ]
    assert status.notices[0].fields == {"count": 2, "done": 10}


def test_the_losses_as_they_are_and_on_average(tmp_path: Path) -> None:
    metrics = seen(made_run(tmp_path, [begun(20), *stepped(1, 20)])).metrics
    assert list(metrics) == ["total", "average", "visual", "semantic", "color", "validation"]
    total, average = metrics["total"], metrics["average"]
    assert (total.first, total.final, total.final_step, total.count, total.trend) == (0.999, 0.98, 20, 20, "falling")
    assert (total.least, total.least_step) == (0.98, 20)
    assert average.final is not None and abs(average.final - (0.98 + 0.981 + 0.982 + 0.983) / 4) < 1e-12


def test_a_metric_without_a_value_has_a_reason(tmp_path: Path) -> None:
    baseline = evaluated(0, is_control=True, color=0.7, unavailable={"semantic": "no_clip"})
    run = made_run(tmp_path, [begun(20), baseline, *stepped(1, 5), evaluated(5, visual=0.5)])
    status = seen(run)
    assert status.unavailable == {"semantic": "no_clip", "color": "not_measured", "validation": "not_measured"}
    assert (status.metrics["color"].baseline, status.metrics["color"].count) == (0.7, 0)
    with FolderLock(run.lock):
        assert seen(run).unavailable["color"] == "not_yet"
    assert seen(RunFolder(tmp_path / "nowhere")).unavailable["total"] == "not_yet"


def test_what_could_not_be_measured_has_its_newest_reason(tmp_path: Path) -> None:
    early = evaluated(0, is_control=True, unavailable={"color": "not_finite"})
    events = [begun(20), early, *stepped(1, 5), evaluated(5, unavailable={"color": "no_clip"})]
    assert seen(made_run(tmp_path, events)).unavailable["color"] == "no_clip"


def test_a_stop_that_the_supervisor_asked_for_and_gave_up_is_a_failure(tmp_path: Path) -> None:
    given_up = GivenUp(attempt=1, time=T0, code="stuck", fields={"step": 4})
    run = made_run(tmp_path, [begun(10), *stepped(1, 4), ended(4, "asked")], [given_up])
    assert (seen(run).standing, codes(seen(run))[0]) == ("failed", ("error", "stuck"))


def test_a_restart_that_fails_before_its_start_tells_how_the_run_ended(tmp_path: Path) -> None:
    crashed = ended(4, "failed", code="crashed")
    given_up = GivenUp(attempt=3, time=T0, code="crashed_again", fields={"restarts": 2})
    status = seen(made_run(tmp_path / "a", [begun(10), *stepped(1, 4), crashed], [worker_ended(2, 1), given_up]))
    assert (status.standing, codes(status)[0]) == ("failed", ("error", "crashed_again"))
    # A later start that never began takes nothing from a run that went well.
    well = [begun(4), *stepped(1, 4), ended(4)]
    assert seen(made_run(tmp_path / "b", well, [given_up])).standing == "finished"


def test_warnings_of_the_newest_start_are_passed_on(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"horizon": 3, "target": 5}
    events = [Warned(attempt=1, time=T0, code="stepped_back", fields={"step": 0, "backup": "b"}), begun(10, attempt=2)]
    run = made_run(tmp_path, [*events, Warned(attempt=2, time=T0, code="lr_horizon_passed", fields=fields)])
    assert ("warning", "lr_horizon_passed") in codes(seen(run))
    assert ("warning", "stepped_back") not in codes(seen(run))
