"""P2: stopped anywhere and continued, a run ends with the same bytes as one that never stopped."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from lorasmith.engine import cpu, cpu_products
from lorasmith.engine import step as step_module
from lorasmith.engine.state import TrainState
from lorasmith.engine.step import StepContext
from lorasmith.errors import ExitCode
from lorasmith.runs.events import StepRepeated
from tests.end_to_end.workshop import Values, Workshop

MakeWorkshop = Callable[[str], Workshop]
STEPS = 9
PER_EPOCH = 6  # batches of two: four pictures twice in one bucket, three once in the other
STOPS = {"first": 1, "mid_epoch": 4, "epoch_boundary": PER_EPOCH, "last": STEPS - 1}
BASE: Values = {("training", "batch_size"): 2, ("lr_schedule", "horizon_steps"): STEPS, ("optimizer", "lr"): 1e-3}
PRODIGY: Values = {("optimizer", "lr"): 1.0}
OPTIMIZERS: dict[str, Values] = {
    "adamw": {},
    "adafactor": {},
    "lion": {},
    "prodigy": PRODIGY,
}
SHAPES = ("constant", "linear", "cosine", "cosine_with_restarts:2")


def settings(optimizer: str = "adamw", shape: str = "constant", **more: Any) -> Values:
    return {
        **BASE,
        ("optimizer", "name"): optimizer,
        ("lr_schedule", "shape"): shape,
        **OPTIMIZERS[optimizer],
        **more.get("values", {}),
    }


EVERYTHING: Values = {
    ("adapter", "dropout"): 0.2,
    ("adapter", "train_text_encoder"): True,
    ("optimizer", "text_encoder_lr"): 5e-4,
    ("training", "accumulation_steps"): 2,
    ("training", "gradient_checkpointing"): True,
}


def rows() -> Iterator[Any]:
    """Every optimizer with every stop and every shape, and every stop with every shape: a Latin square. By default one
    of its rows, each cut in one way (each optimizer, stop and shape in both); then all ways of training
    together. test_same_bytes has a model of three levels."""
    for one, name in enumerate(OPTIMIZERS):
        for other, where in enumerate(STOPS):
            shape = SHAPES[one ^ other]
            values = settings(name, shape, values={("lr_schedule", "warmup_steps"): 3 * (other % 2)})
            way = (one // 2 + other) % 2
            tier = [] if (name, where) == BY_DEFAULT else [pytest.mark.ci]
            yield pytest.param(values, STOPS[where], WAYS[way : way + 1], id=f"{name}-{where}-{shape}", marks=tier)
    yield pytest.param(settings(values=EVERYTHING), 2, WAYS, id="everything", marks=pytest.mark.ci)
    yield pytest.param(settings(values={("model", "precision"): "bf16"}), 4, WAYS, id="bf16", marks=pytest.mark.ci)


BY_DEFAULT = ("prodigy", "mid_epoch")
WAYS = ("stopped", "in pieces")


@pytest.mark.parametrize(("values", "stop_at", "ways"), list(rows()))
def test_stop_and_continue_equals_straight(
    make_workshop: MakeWorkshop, values: Values, stop_at: int, ways: Sequence[str]
) -> None:
    straight = make_workshop("straight")
    assert straight.new(STEPS, values).exit_code == ExitCode.FINISHED
    for way in ways:
        other = make_workshop(way)
        if way == "stopped":
            assert other.new(STEPS, values, stop_after=stop_at).exit_code == ExitCode.STOPPED
            assert other.train_state()["step"] == stop_at
            assert other.go_on(None).exit_code == ExitCode.FINISHED
        else:
            assert other.new(stop_at, values).exit_code == ExitCode.FINISHED
            assert other.go_on(STEPS - stop_at).exit_code == ExitCode.FINISHED
        assert other.train_state()["step"] == STEPS
        assert other.losses() == straight.losses()
        assert other.digest() == straight.digest()


def test_a_cold_optimizer_ends_elsewhere(make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: the same run with the optimizer's state thrown away is another one."""
    straight, cold = make_workshop("straight"), make_workshop("cold")
    straight.new(4, settings())
    cold.new(2, settings())
    restore = TrainState.restore

    def forget(self: TrainState, counters: Any, adapter: Any, optimizer: Any, average: Any = None) -> None:
        restore(self, counters, adapter, {**optimizer, "state": {}}, average)

    monkeypatch.setattr(TrainState, "restore", forget)
    cold.go_on(2)
    assert cold.train_state()["step"] == 4
    assert cold.digest() != straight.digest()


@pytest.mark.ci
def test_fp16_with_two_overflows(make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 2 and 6 overflow once each: they are done again with half the scale, and not counted twice."""
    values = settings(values={("model", "precision"): "fp16"})
    really = step_module._forward_backward
    poisoned: set[int] = set()

    def overflowing(state: TrainState, context: StepContext, *, step: int, **which: Any) -> Any:
        found = really(state, context, step=step, **which)
        if step in (2, 6) and step not in poisoned:
            poisoned.add(step)
            state.adapter.gradient()[3] = float("inf")
        return found

    monkeypatch.setattr(step_module, "_forward_backward", overflowing)
    straight, stopped = make_workshop("straight"), make_workshop("stopped")
    outcome = straight.new(STEPS, values)
    assert outcome.exit_code == ExitCode.FINISHED
    assert [(one.step, one.scale) for one in outcome.of(StepRepeated)] == [(2, 2.0**15), (6, 2.0**14)]
    poisoned.clear()
    stopped.new(STEPS, values, stop_after=4)
    assert stopped.train_state()["counters"]["scaler"] == {"scale": 2.0**15, "good_steps": 3}
    stopped.go_on(None)
    assert straight.optimizer_steps() == {STEPS}
    assert stopped.losses() == straight.losses()
    assert stopped.digest() == straight.digest()


@pytest.mark.ci
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_with_every_layer_in_its_fast_form(
    precision: str, make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's layers are too small for it; here they take the way of a real model's on this processor."""
    monkeypatch.setattr(cpu, "_MIN_WEIGHTS", 0)
    monkeypatch.setattr(cpu_products, "_MANY_WEIGHTS", 0)
    values = settings(values={("model", "precision"): precision})
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    straight.new(STEPS, values)
    pieces.new(4, values)
    pieces.go_on(STEPS - 4)
    assert pieces.digest() == straight.digest()


@pytest.mark.slow
def test_in_processes_of_their_own(make_workshop: MakeWorkshop) -> None:
    """The same through real processes: fresh interpreters, nothing carried over in memory."""
    values = settings("adamw", "cosine", values={("adapter", "dropout"): 0.1})
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    assert straight.new(STEPS, values).exit_code == ExitCode.FINISHED
    assert pieces.new(4, values, apart=True).exit_code == ExitCode.FINISHED
    assert pieces.go_on(STEPS - 4, apart=True).exit_code == ExitCode.FINISHED
    assert pieces.digest() == straight.digest()


@pytest.mark.ci
def test_another_seed_ends_elsewhere(make_workshop: MakeWorkshop) -> None:
    one, other = make_workshop("one"), make_workshop("other")
    one.new(3, settings())
    other.new(3, {**settings(), ("", "seed"): 43})
    assert one.digest()[0] != other.digest()[0]
