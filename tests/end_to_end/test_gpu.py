"""On a CUDA device, where losses are read one step late: the same bytes after a stop, and whoever is looking on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.engine import captured, execution, step
from lorasmith.errors import ExitCode
from lorasmith.evaluation import evaluator
from lorasmith.runs.events import DeviceChosen, Evaluated, RunStarted, StepCompleted, StepRepeated
from lorasmith.session import loop
from tests.end_to_end.workshop import Values, Workshop
from tests.families.tiny import tiny_clip

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def is_simulated() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_name() == "NVIDIA Simulated"


CUDA: Values = {("machine", "device"): "cuda", ("adapter", "dropout"): 0.2, ("training", "batch_size"): 2}


@pytest.fixture(scope="module")
def base_model(miniature: Path) -> Path:
    """Bytes are compared: three levels, as the real model has more than two."""
    return miniature


@pytest.mark.parametrize(
    ("optimizer", "precision"), [("adamw", "fp32"), ("adamw", "bf16"), ("adamw", "fp16"), ("adafactor", "bf16")]
)
def test_stop_and_continue_equals_straight(
    make_workshop: Callable[[str], Workshop], optimizer: str, precision: str
) -> None:
    values: Values = {
        **CUDA,
        ("model", "precision"): precision,
        ("optimizer", "name"): optimizer,
        ("training", "accumulation_steps"): 2,
    }
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    outcome = straight.new(9, values)
    assert outcome.exit_code == ExitCode.FINISHED
    assert [event.device for event in outcome.of(DeviceChosen)] == ["cuda"]
    pieces.new(4, values)
    pieces.go_on(5)
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()


def test_in_a_process_of_its_own_the_same_bytes(make_workshop: Callable[[str], Workshop]) -> None:
    values: Values = {**CUDA, ("adapter", "train_text_encoder"): True, ("training", "gradient_checkpointing"): True}
    here, apart = make_workshop("here"), make_workshop("apart")
    here.new(6, values)
    assert apart.new(6, values, apart=True, stop_after=2).exit_code == ExitCode.STOPPED
    assert apart.go_on(None, apart=True).exit_code == ExitCode.FINISHED
    assert apart.losses() == here.losses()
    assert apart.digest() == here.digest()


def test_looking_at_every_step_or_never_same_bytes(
    make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "MAX_SHARE", 1.0)
    blind, watched = make_workshop("blind"), make_workshop("watched")
    looking: Values = {
        ("evaluation", "every"): 1,
        ("evaluation", "examples"): 1,
        ("evaluation", "sample_prompts"): ("a red ring",),
        ("evaluation", "clip_model"): str(tiny_clip(watched.folder / "clip")),
    }
    apart: Values = {**CUDA, ("dataset", "hold_out"): 1}
    blind.new(3, apart)
    outcome = watched.new(3, {**apart, **looking})
    assert [event.step for event in outcome.of(Evaluated) if not event.is_control] == [1, 2, 3]
    assert watched.losses() == blind.losses()
    assert watched.digest() == blind.digest()


GRAPH: Values = {("machine", "execution"): "graph"}
EAGER: Values = {("machine", "execution"): "eager"}
SHAPES: Values = {("training", "batch_size"): 3, ("training", "accumulation_steps"): 2}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_replayed_steps_have_the_bytes_of_eager_steps(
    make_workshop: Callable[[str], Workshop], precision: str, dropout: float
) -> None:
    """Both buckets and their smaller last batches, clipped, at falling rates."""
    values: Values = {
        **CUDA,
        **SHAPES,
        ("adapter", "dropout"): dropout,
        ("model", "precision"): precision,
        ("training", "max_grad_norm"): 0.1,
        ("training", "ema_decay"): 0.9,
        ("lr_schedule", "shape"): "cosine",
    }
    eager, graph = make_workshop("eager"), make_workshop("graph")
    eager.new(8, {**values, **EAGER})
    outcome = graph.new(8, {**values, **GRAPH})
    assert not outcome.warned
    assert outcome.of(RunStarted)[0].fingerprint["execution"] == "graph"
    assert graph.losses() == eager.losses()
    assert graph.digest() == eager.digest()


@pytest.mark.parametrize("level", ["elementwise", "selective", "block"])
def test_checkpointed_blocks_are_replayed_too(make_workshop: Callable[[str], Workshop], level: str) -> None:
    values: Values = {**CUDA, ("adapter", "dropout"): 0.0, ("training", "gradient_checkpointing"): level}
    eager, graph = make_workshop("eager"), make_workshop("graph")
    eager.new(4, {**values, **EAGER})
    assert not graph.new(4, {**values, **GRAPH}).warned
    assert graph.digest() == eager.digest()


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_killed_among_replayed_steps_it_continues_to_the_same_bytes(
    make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    values: Values = {**CUDA, **SHAPES, **GRAPH, ("optimizer", "name"): optimizer, ("cadence", "save_every"): 2}
    straight, killed = make_workshop("straight"), make_workshop("killed")
    straight.new(7, values)
    with monkeypatch.context() as patch:
        patch.setenv("LORASMITH_FAULT", "step.computed:5:kill")
        assert killed.new(7, {**values, ("watch", "no_restart"): True}, apart=True).exit_code == ExitCode.CRASHED
    assert killed.states()[0] in (2, 4)
    assert killed.go_on(None, apart=True).exit_code == ExitCode.FINISHED
    assert killed.losses() == straight.losses()
    assert killed.digest() == straight.digest()


def refuse_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has torch raise where an operation of a step would have the host wait for the device."""

    def train_step(*given: Any, **named: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step.train_step(*given, **named)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "train_step", train_step)


def test_nothing_waits_inside_a_step(make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_waits(monkeypatch)
    for name, values in (("eager", EAGER), ("graph", GRAPH)):
        outcome = make_workshop(name).new(4, {**CUDA, **SHAPES, **values, ("training", "ema_decay"): 0.9})
        assert outcome.exit_code == ExitCode.FINISHED and not outcome.warned


@pytest.mark.parametrize("when", ["captured", "tried"])
def test_a_step_that_cannot_be_captured_makes_the_run_eager(
    make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Also where memory runs out before: what was begun may not write the gradient of the first step."""
    eager, failed = make_workshop("eager"), make_workshop("failed")
    eager.new(4, {**CUDA, **EAGER})

    def fails(*given: Any) -> Any:
        losses = execution.add_gradient(*given)
        if when == "tried":
            raise torch.OutOfMemoryError("CUDA out of memory")
        float(losses[0])
        return losses

    monkeypatch.setattr(captured, "add_gradient", fails)
    outcome = failed.new(4, {**CUDA, **GRAPH})
    assert [warned.code for warned in outcome.warned] == ["execution_failed"]
    assert failed.digest() == eager.digest()


@pytest.mark.skipif(not is_simulated(), reason="a card takes memory in pieces that are larger than this model")
def test_a_card_that_is_too_small_splits_batches_and_continues_to_the_same_bytes(
    make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy, straight, pieces = (make_workshop(name) for name in ("roomy", "straight", "pieces"))
    values: Values = {**CUDA, ("training", "batch_size"): 4}
    peak = max(step.peak_memory for step in roomy.new(3, {**values, **EAGER}, apart=True).of(StepCompleted))
    monkeypatch.setenv("SIMULATED_GPU_MEMORY", str(int(0.8 * peak)))
    outcome = straight.new(3, values, apart=True)
    pieces.new(1, values, apart=True)
    pieces.go_on(2, apart=True)
    assert outcome.exit_code == ExitCode.FINISHED
    assert [warned.code for warned in outcome.warned] == ["execution_failed"]
    assert next(iter(outcome.of(StepRepeated))).micro_split == 2
    assert pieces.digest() == straight.digest()
    assert straight.losses() == pytest.approx(roomy.losses(), rel=0.02)


@pytest.mark.skipif(torch.version.cuda is None, reason="this build of torch compiles nothing for a GPU")
def test_compiled_runs_continue_to_the_same_bytes(make_workshop: Callable[[str], Workshop]) -> None:
    values: Values = {**CUDA, ("machine", "execution"): "compiled"}
    straight, stopped = make_workshop("straight"), make_workshop("stopped")
    assert not straight.new(4, values).warned
    stopped.new(2, values)
    stopped.go_on(2, apart=True)
    assert stopped.digest() == straight.digest()
