"""On a CUDA device: the same bytes after a stop, with the losses read one step late."""

from collections.abc import Callable

import pytest
import torch

from lorasmith.errors import ExitCode
from lorasmith.events import DeviceChosen
from tests.runs.workshop import Workshop

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_stop_and_continue_equals_straight(
    make_workshop: Callable[[str], Workshop], optimizer: str, precision: str
) -> None:
    values = {
        ("machine", "device"): "cuda",
        ("model", "precision"): precision,
        ("optimizer", "name"): optimizer,
        ("adapter", "dropout"): 0.2,
        ("training", "batch_size"): 2,
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
