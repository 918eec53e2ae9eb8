"""Which execution a run gets, and that a run whose steps are replayed is the run whose steps are not: straight,
stopped, killed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.config import RunConfig
from lorasmith.engine.captured import CapturedExecution
from lorasmith.engine.device import Device
from lorasmith.engine.execution import EagerExecution
from lorasmith.errors import ExitCode
from lorasmith.runs.events import RunStarted
from lorasmith.runs.ledger import read_events
from lorasmith.session import execution
from lorasmith.session.execution import chosen, obstacle_to_graphs
from lorasmith.session.resume import changes_since
from tests.end_to_end.workshop import Values, Workshop
from tests.engine.one_layer import CPU
from tests.engine.recorded_operations import RecordedOperations
from tests.faults import forked

CUDA = Device(torch.device("cuda"), "a card", "asked", 1)
GRAPH: Values = {("machine", "execution"): "graph"}
SHAPES = 3  # two buckets, and a smaller last batch in one of them
TRAINED: Values = {
    ("training", "batch_size"): 3,
    ("adapter", "dropout"): 0.2,
    ("lr_schedule", "shape"): "cosine",
    ("lr_schedule", "horizon_steps"): 6,
    ("noise", "offset"): 0.1,
    ("augmentation", "flip"): True,
}


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[RecordedOperations]:
    """Has this machine record operations as a GPU would record kernels; the captures of all processes."""
    made: list[RecordedOperations] = []

    def capture_on(_: Device) -> RecordedOperations:
        made.append(RecordedOperations())
        return made[-1]

    monkeypatch.setattr(execution, "capture_on", capture_on)
    return made


def test_what_auto_takes() -> None:
    assert [chosen("auto", device, "") for device in (CPU, CUDA)] == ["eager", "graph"]
    assert [chosen("eager", device, "") for device in (CPU, CUDA)] == ["eager", "eager"]
    assert chosen("auto", CUDA, "base-offload") == "eager"


@pytest.mark.parametrize(
    ("values", "obstacle"),
    [
        ({}, ""),
        ({("adapter", "dropout"): 0.1}, ""),
        ({("training", "gradient_checkpointing"): "block"}, ""),
        ({("training", "gradient_checkpointing"): "block", ("adapter", "rank_dropout"): 0.1}, "gradient-checkpointing"),
        ({("training", "gradient_checkpointing"): "offload"}, "gradient-checkpointing offload"),
        ({("model", "base_offload"): 0.5}, "base-offload"),
    ],
)
def test_what_stands_in_the_way_of_graphs(values: Values, obstacle: str) -> None:
    assert obstacle_to_graphs(RunConfig().with_values(values)) == obstacle


@pytest.mark.ci
def test_replayed_runs_have_the_bytes_of_eager_runs(
    make_workshop: Callable[[str], Workshop], captures: list[RecordedOperations]
) -> None:
    values: Values = {**TRAINED, ("training", "accumulation_steps"): 2}
    eager, straight, stopped, killed = map(make_workshop, ("eager", "straight", "stopped", "killed"))
    eager.new(6, values)
    assert not captures
    straight.new(6, {**values, **GRAPH})
    assert captures[0].recordings == SHAPES + 1  # all before the first step
    assert captures[0].replays == SHAPES + 6 * (2 + 1)  # each is tried before
    stopped.new(2, {**values, **GRAPH})
    stopped.go_on(4)

    def begin() -> int:
        return int(killed.new(6, {**values, **GRAPH, ("cadence", "save_every"): 2}).exit_code)

    assert forked.in_child(begin, fault="step.computed:4:kill") == -9
    assert killed.states()[0] == 2
    assert killed.go_on(None).exit_code == ExitCode.FINISHED
    for workshop in (straight, stopped, killed):
        assert workshop.losses() == eager.losses()
        assert workshop.digest() == eager.digest()
        starts = [event for event in read_events(workshop.run.ledger) if isinstance(event, RunStarted)]
        assert {event.fingerprint["execution"] for event in starts} == {"graph"}


def test_an_older_version_made_its_states_eagerly() -> None:
    before = {"torch": "1"}
    assert changes_since(before, {"torch": "1", "execution": "eager"}) == ""
    assert changes_since(before, {"torch": "1", "execution": "graph"}) == "execution: eager -> graph"


def test_a_gpu_is_needed_and_missed_once(workshop: Workshop) -> None:
    outcome = workshop.new(2, GRAPH)
    assert [warned.code for warned in outcome.warned] == ["graph_needs_gpu"]
    assert outcome.exit_code == ExitCode.FINISHED
    assert outcome.of(RunStarted)[0].fingerprint["execution"] == "eager"


@pytest.mark.parametrize("failing", ["micro-batch", pytest.param("update", marks=pytest.mark.ci)])
def test_where_it_cannot_be_captured_the_whole_run_is_eager(
    make_workshop: Callable[[str], Workshop], captures: list[Any], monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    eager, failed = make_workshop("eager"), make_workshop("failed")
    eager.new(4, TRAINED)
    record = RecordedOperations.record

    def refuses(self: RecordedOperations, work: Callable[[], None]) -> Callable[[], None]:
        if self.recordings == {"micro-batch": 1, "update": SHAPES}[failing]:
            work()
            raise RuntimeError("operation not permitted when stream is capturing")
        return record(self, work)

    monkeypatch.setattr(RecordedOperations, "record", refuses)
    real, used = CapturedExecution.forward_backward, []
    monkeypatch.setattr(CapturedExecution, "forward_backward", lambda *given: used.append(1) or real(*given))
    outcome = failed.new(4, {**TRAINED, **GRAPH})
    (warned,) = outcome.warned
    assert (warned.code, warned.fields["execution"]) == ("execution_failed", "graph")
    assert "not permitted" in warned.fields["reason"]
    assert not used
    assert failed.digest() == eager.digest()
    assert outcome.of(RunStarted)[0].fingerprint["execution"] == "eager"


def test_without_a_compiler_the_whole_run_is_eager(
    make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: no_compiler)
    eager, failed = make_workshop("eager"), make_workshop("failed")
    eager.new(2, TRAINED)
    outcome = failed.new(2, {**TRAINED, ("machine", "execution"): "compiled"})
    assert [warned.code for warned in outcome.warned] == ["execution_failed"]
    assert failed.digest() == eager.digest()
    assert outcome.of(RunStarted)[0].fingerprint["execution"] == "eager"


def test_files_that_a_killed_compiler_left_do_no_harm(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stop the first attempt; the second has an empty folder."""
    folders: list[str] = []

    def compiler(*given: Any, **named: Any) -> Any:
        folders.append(os.environ.get("TORCHINDUCTOR_CACHE_DIR", ""))
        if not folders[-1].endswith("_lorasmith"):
            raise RuntimeError("file too short")
        return given[0]

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "shared")
    monkeypatch.setattr(torch, "compile", compiler)
    outcome = workshop.new(2, {**TRAINED, ("machine", "execution"): "compiled"})
    assert not outcome.warned and folders[0] == "shared"
    assert outcome.of(RunStarted)[0].fingerprint["execution"] == "compiled"


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_compiled_runs_continue_to_the_same_bytes(
    make_workshop: Callable[[str], Workshop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))  # none that another process was killed in
    values: Values = {("machine", "execution"): "compiled", ("adapter", "dropout"): 0.2}
    values |= {("dataset", "enable_bucket"): False}  # compiling takes minutes, and tests/engine has two shapes
    eager, straight, stopped = map(make_workshop, ("eager", "straight", "stopped"))
    eager.new(4, {**values, ("machine", "execution"): "eager"})
    outcome = straight.new(4, values)
    assert not outcome.warned
    assert outcome.of(RunStarted)[0].fingerprint["execution"] == "compiled"
    stopped.new(2, values)
    stopped.go_on(2, apart=True)
    assert stopped.losses() == straight.losses()
    assert stopped.digest() == straight.digest()
    assert straight.losses() == pytest.approx(eager.losses(), rel=1e-3)


@pytest.mark.ci
def test_memory_that_runs_out_on_the_way_splits_batches(
    make_workshop: Callable[[str], Workshop], captures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    eager, captured = make_workshop("eager"), make_workshop("captured")
    for kind, workshop, values in (
        (EagerExecution, eager, TRAINED),
        (CapturedExecution, captured, {**TRAINED, **GRAPH}),
    ):
        real, calls = kind.forward_backward, []

        def limited(self: Any, *given: Any, real: Any = real, calls: list[int] = calls) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(self, *given)

        monkeypatch.setattr(kind, "forward_backward", limited)
        workshop.new(5, values)
    assert captured.train_state()["counters"]["micro_split"] == 2
    assert captured.digest() == eager.digest()


def test_the_cache_is_not_needed(workshop: Workshop, captures: list[Any], tmp_path: Path) -> None:
    """Pictures that vary are encoded as they are used: outside of what is recorded."""
    outcome = workshop.new(3, {**GRAPH, ("augmentation", "color"): True})
    assert outcome.exit_code == ExitCode.FINISHED and not outcome.warned
