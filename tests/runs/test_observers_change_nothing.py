"""P3: how often something is saved, exported, logged or shown does not change one bit of the weights."""

from collections.abc import Callable

import pytest

from tests.runs.workshop import Values, Workshop

MakeWorkshop = Callable[[str], Workshop]
STEPS = 7
CADENCES: dict[str, Values] = {
    "every step": {("cadence", "save_every"): 1},
    "every third, all kept": {("cadence", "save_every"): 3, ("cadence", "keep_states"): 50},
    "by the clock, always due": {("cadence", "save_minutes"): 1e-9},
    "one kept": {("cadence", "save_every"): 2, ("cadence", "keep_states"): 1},
    "other names, other precision": {
        ("export", "name"): "mine",
        ("export", "save_precision"): "fp32",
        ("export", "state_prefix"): "狀態目錄",
    },
}


@pytest.mark.parametrize("cadence", CADENCES.values(), ids=CADENCES)
def test_other_cadences_same_bytes(make_workshop: MakeWorkshop, cadence: Values) -> None:
    values = {("adapter", "dropout"): 0.1, ("training", "batch_size"): 2}
    quiet, busy = make_workshop("quiet"), make_workshop("busy")
    quiet.new(STEPS, values)
    busy.new(STEPS, {**values, **cadence})
    assert busy.losses() == quiet.losses()
    assert busy.digest() == quiet.digest()


def test_states_and_exports_follow_the_cadence(workshop: Workshop) -> None:
    workshop.new(7, {("cadence", "save_every"): 2, ("cadence", "keep_states"): 2})
    assert workshop.states() == [7, 6]
    exports = sorted(path.name for path in workshop.run.root.glob("*.safetensors"))
    steps = [f"last-step{step:08d}.safetensors" for step in (2, 4, 6)]
    assert exports == [*steps, "last.safetensors"]


def test_minutes_save_states_without_exports(workshop: Workshop) -> None:
    workshop.new(3, {("cadence", "save_minutes"): 1e-9})
    assert workshop.states() == [3, 2, 1]
    assert [path.name for path in workshop.run.root.glob("*.safetensors")] == ["last.safetensors"]
