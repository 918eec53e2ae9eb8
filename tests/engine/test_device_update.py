"""When an update is left to the device, and that recording it applies nothing; its bytes are compared in
`test_captured`."""

import pytest
import torch

from lorasmith.engine.device import Device
from lorasmith.engine.device_update import device_update
from lorasmith.engine.state import LossScaler, TrainState
from lorasmith.engine.world import SingleProcess
from tests.engine.one_layer import CPU, made
from tests.engine.recorded_operations import RecordedOperations

GPU = Device(torch.device("cuda"), "", "asked", 1)
BOUNDS = {"max_grad_norm": 1.0, "max_change_norm": 0.0}


def state_with(optimizer: str, scaler: LossScaler | None) -> TrainState:
    return made(optimizer=optimizer, scaler=scaler)[0]


@pytest.mark.parametrize(
    ("optimizer", "scaler", "device", "is_left"),
    [
        ("adamw", None, GPU, True),
        ("adamw", None, CPU, False),
        ("adamw", LossScaler(), GPU, False),
        ("adam", None, GPU, False),
        ("sgd", None, GPU, False),
    ],
)
def test_what_is_left_to_the_device(optimizer: str, scaler: LossScaler | None, device: Device, is_left: bool) -> None:
    state = state_with(optimizer, scaler)
    found = device_update(state, SingleProcess(), device, **BOUNDS, capture=None)
    assert (found is not None) == is_left


def test_recording_applies_nothing_and_leaves_the_settings() -> None:
    state = state_with("adamw", None)
    before, groups = state.adapter.flat.clone(), [dict(group) for group in state.optimizer.param_groups]
    state.adapter.gradient().fill_(1.0)
    found = device_update(
        state, SingleProcess(), CPU, max_grad_norm=0.1, max_change_norm=0.2, capture=RecordedOperations()
    )
    assert found is not None and not found.found_inf.any()
    assert torch.equal(state.adapter.flat, before)
    assert [dict(group) for group in state.optimizer.param_groups] == groups
    state.adapter.gradient().fill_(1.0)
    numbers = found(torch.tensor(0.5), [1e-3])
    assert not torch.equal(state.adapter.flat, before)
    assert [group["lr"] for group in state.optimizer.param_groups] == [1e-3]
    assert numbers.tolist() == pytest.approx([0.5, float(len(before)) ** 0.5, 0.0])
