"""Two runs from one folder at the same time: real processes, two outputs, nothing shared but the cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs.events import RunStarted, StepCompleted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events
from tests.end_to_end.workshop import KEPT, Workshop, tree

ROOT = Path(__file__).parents[2]
STEPS = 4


@pytest.mark.slow
def test_two_runs_share_nothing_but_the_cache(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Through the command line; what each leaves is what it leaves alone, and the bytes are the same."""
    alone = Workshop(workshop.folder, workshop.base_model, monkeypatch, output="alone")
    alone.new(STEPS)
    before = set(tree(workshop.folder))
    meeting = tmp_path_factory.mktemp("meeting")
    processes = [start(workshop, output, meeting) for output in ("first", "second")]
    for process in processes:
        out, _ = process.communicate(timeout=800)
        assert process.returncode == ExitCode.FINISHED, out
    runs = [RunFolder(workshop.folder / output) for output in ("first", "second")]
    for run in runs:
        events = read_events(run.ledger)
        assert [event.step for event in events if isinstance(event, StepCompleted)] == [1, 2, 3, 4]
        assert sum(isinstance(event, RunStarted) for event in events) == 1
        assert run.loss_log == workshop.folder / "training_logs" / run.root.name / "training_loss_log.txt"
        assert len(run.loss_log.read_text(encoding="utf-8").splitlines()) == 1 + STEPS
        assert list(run.tensorboard.glob("events.out.tfevents.*"))
        assert run.export("last").exists()
        assert not run.lock.exists()
    new = set(tree(workshop.folder)) - before
    owned = {name for name in new if Path(name).parts[0] in ("first", "second")}
    logs = {name for name in new if Path(name).parts[0] == "training_logs"}
    assert new == owned | logs
    assert {Path(name).parts[1] for name in logs if len(Path(name).parts) > 1} == {"first", "second"}
    assert overlapped(runs)
    first = Workshop(workshop.folder, workshop.base_model, monkeypatch, output="first")
    second = Workshop(workshop.folder, workshop.base_model, monkeypatch, output="second")
    assert first.digest() == second.digest() == alone.digest()


def start(workshop: Workshop, output: str, meeting: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "lorasmith", "train", "--new", "--steps", str(STEPS), "--output", output]
    command += ["--base-model", str(workshop.base_model), "--lang", "en"]
    kept = {"KEPT_IN": "2", "KEPT_WITH": str(meeting)}  # each worker waits there for the other
    environment = {**os.environ, **kept, "PYTHONPATH": os.pathsep.join([str(KEPT), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=workshop.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def overlapped(runs: list[RunFolder]) -> bool:
    """Whether there was a moment in which both were at work."""
    spans = []
    for run in runs:
        times = [json.loads(line)["time"] for line in run.ledger.read_text(encoding="utf-8").splitlines()]
        spans.append((min(times), max(times)))
    return max(span[0] for span in spans) < min(span[1] for span in spans)
