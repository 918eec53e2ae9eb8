from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig, dump_run_toml
from lorasmith.runs.events import Event, GivenUp, StepRepeated, Warned, WorkerRestarted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.process_files import Heartbeat
from lorasmith.runtime.policy import StallDetector
from lorasmith.ui.last_run import LastRun, look
from lorasmith.ui.run_reading import RunReader
from tests.ui.made_runs import (
    LORA_BYTES,
    T0,
    add,
    beat,
    begun,
    ended,
    finished_run,
    made_run,
    stepped,
    worker_began,
    worker_ended,
)


def seen(run: RunFolder, *, later: float = 0.0) -> LastRun:
    return look(run, RunReader(run.ledger), now=time.time() + later)


def codes(facts: LastRun) -> list[tuple[str, str]]:
    return [(one.kind, one.code) for one in facts.findings]


def test_nothing_there(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        facts = seen(RunFolder(root))
        assert (facts.standing, facts.starts, facts.findings, facts.is_going_on) == ("none", 0, (), False)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_went_well(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    facts = seen(run)
    assert (facts.standing, facts.findings, facts.is_going_on) == ("finished", (), False)
    assert (facts.steps.asked, facts.steps.done, facts.steps.start_done) == (20, 20, 20)
    assert (facts.seconds_per_step, facts.training_seconds, facts.seconds_left) == (2.0, 40.0, None)
    assert (facts.lr, facts.device, facts.restarts) == ({"denoiser": 1e-4}, "cuda:0 bf16", 0)
    assert facts.best is not None and facts.best.step == 20
    files = facts.files
    assert (files.lora, files.lora_bytes, files.lora_step) == (run.export("last"), LORA_BYTES, 20)
    assert [one.step for one in files.states] == [20]
    assert files.step_loras == (run.export("last", 10),) and files.best_lora == run.root / "last-best.safetensors"
    assert [path.suffix for path in files.reports] == [".html", ".json", ".png"]
    assert files.loss_log == run.loss_log and files.samples is None


def test_looking_changes_nothing(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    run.lock.touch()  # left by a crash
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    seen(run)
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


def test_reports_of_an_older_run_are_not_this_one_s(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    older = run.training_logs / "lora_training_report_20301231_000000.html"
    older.write_text("x")
    os.utime(older, (T0 - 60, T0 - 60))
    assert older not in seen(run).files.reports


def test_a_run_that_is_going_on(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(1, 4)])
    beat(run, 4, "step")
    with FolderLock(run.lock):
        facts = seen(run)
    assert (facts.standing, facts.is_going_on, codes(facts)) == ("running", True, [])
    assert facts.seconds_left == 12.0
    assert facts.beat is not None and (facts.beat.step, facts.beat.phase, facts.beat.limit_seconds) == (4, "step", 300)


def test_a_run_without_a_sign_of_life(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(1, 4)])
    beat(run, 4, "step")
    with FolderLock(run.lock):
        assert seen(run, later=299).standing == "running"
        facts = seen(run, later=305)
    assert (facts.standing, facts.is_going_on) == ("stuck", True)
    assert codes(facts) == [("error", "run_stuck")]
    fields = facts.findings[0].fields
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
    silence.look(0.0, Heartbeat(step=3, phase="step", beat=0))
    for number in range(1, 9):
        silence.look(100.0, Heartbeat(step=3, phase="step", beat=number, micro_batches=number))
    silence.step_completed(800.0)
    with FolderLock(run.lock):
        assert seen(run, later=silence.limit - 5).standing == "running"
        assert seen(run, later=silence.limit + 5).standing == "stuck"
    assert silence.limit == 2000.0


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
        facts = seen(run)
        assert (facts.standing, facts.beat and facts.beat.phase) == ("loading", "caching")
        assert seen(run, later=1799).standing == "loading"
        assert seen(run, later=1805).standing == "stuck"
    assert seen(run).standing == "finished"


def test_the_very_first_start_is_loading(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run.lock"):
        assert seen(RunFolder(tmp_path)).standing == "loading"


def test_the_last_files_are_being_written(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    with FolderLock(run.lock):
        facts = seen(run)
    assert (facts.standing, facts.is_going_on, codes(facts)) == ("ending", True, [])


def test_a_worker_whose_supervisor_is_gone(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(1, 4)])
    with FolderLock(run.worker_lock):
        facts = seen(run)
    assert (facts.standing, facts.is_going_on) == ("orphaned", True)
    assert codes(facts) == [("warning", "run_orphaned")]
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
    facts = seen(made_run(tmp_path, events, own))
    assert facts.standing == standing
    assert codes(facts)[0] == found


def test_a_stop_that_was_asked_for_is_nothing_wrong(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    add(run.ledger, begun(40, attempt=2, resumed_from=20), *stepped(21, 25, attempt=2), ended(25, "asked", attempt=2))
    facts = seen(run)
    assert (facts.standing, facts.findings) == ("stopped", ())
    steps = facts.steps
    assert (steps.asked, steps.done, steps.start_asked, steps.start_done, steps.resumed_from) == (40, 25, 20, 5, 20)


def test_starts_restarts_and_steps_done_again(tmp_path: Path) -> None:
    events: list[Event] = [begun(10), *stepped(1, 6), begun(10, attempt=2, resumed_from=4)]
    events += [StepRepeated(attempt=2, time=T0, step=5, reason="overflow"), *stepped(5, 10, attempt=2)]
    events.append(ended(10, attempt=2))
    again = WorkerRestarted(attempt=2, time=T0, after="crashed", reason="", step=4, in_vain=1)
    own = [worker_began(1, 77), worker_ended(1, -9), again, worker_began(2, 77)]
    facts = seen(made_run(tmp_path, events, own))
    assert (facts.starts, facts.restarts) == (2, 1)
    assert (facts.steps.repeated, facts.steps.cancelled, facts.steps.done) == (1, 2, 10)
    apart = [worker_began(1, 1), worker_began(2, 1)]  # a person started the second one; in a container all are 1
    assert seen(made_run(tmp_path / "b", events, apart)).restarts == 0


def damaged_ledger(run: RunFolder) -> None:
    with run.ledger.open("ab") as file:
        file.write(b"\0\0\n" + b'{"event": "New", "attempt": 1, "time": 0}\n' + b'{"event": "Run')


def test_a_ledger_that_is_torn_old_or_new(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    damaged_ledger(run)
    found = [("warning", "ledger_torn"), ("warning", "ledger_unreadable"), ("warning", "ledger_unknown")]
    facts = seen(run)
    assert (facts.standing, codes(facts)) == ("finished", found)
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
    facts = seen(RunFolder(tmp_path))
    assert (facts.standing, facts.steps.done, facts.lr) == ("stopped", 1, {})


def test_missing_steps_and_files(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(3, 10), ended(10)])
    (run.root / "state_y.damaged").mkdir()
    facts = seen(run)
    assert [one.code for one in facts.findings] == [
        "ledger_steps_missing",
        "state_unusable",
        "lora_missing",
        "states_missing",
    ]
    assert facts.findings[0].fields == {"count": 2, "done": 10}


def test_warnings_of_the_newest_start_are_passed_on(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"horizon": 3, "target": 5}
    events = [Warned(attempt=1, time=T0, code="stepped_back", fields={"step": 0, "backup": "b"}), begun(10, attempt=2)]
    run = made_run(tmp_path, [*events, Warned(attempt=2, time=T0, code="lr_horizon_passed", fields=fields)])
    assert ("warning", "lr_horizon_passed") in codes(seen(run))
    assert ("warning", "stepped_back") not in codes(seen(run))
