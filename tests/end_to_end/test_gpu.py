"""On a CUDA device, where losses are read one step late: the same bytes after a stop, and whoever is looking on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorasmith.errors import ExitCode
from lorasmith.evaluation import evaluator
from lorasmith.runs.events import DeviceChosen, Evaluated
from tests.end_to_end.workshop import Values, Workshop
from tests.families.tiny import tiny_clip

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


CUDA: Values = {("machine", "device"): "cuda", ("adapter", "dropout"): 0.2, ("training", "batch_size"): 2}


@pytest.fixture(scope="module")
def base_model(miniature: Path) -> Path:
    """Bytes are compared: three levels, as the real model has more than two."""
    return miniature


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
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
