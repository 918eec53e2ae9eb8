"""The training loss at fixed noise: the step's own arithmetic, and nothing of it depends on the others."""

import math
from typing import Any

import pytest
import torch

from lorasmith.data.types import Batch
from lorasmith.diffusion.draw import Draw, Numbers, draw_numbers
from lorasmith.diffusion.objective import Objective
from lorasmith.engine.step import numbers_at
from lorasmith.evaluation.validation import QUANTILES, ValidationLosses, validation_losses
from lorasmith.seeding import fold
from lorasmith.session.loaded import LoadedRun
from tests.end_to_end.workshop import Workshop, load, stage


@pytest.fixture
def loaded(workshop: Workshop) -> LoadedRun:
    workshop.run.root.mkdir()
    stage(workshop.start_new(4, {("evaluation", "every"): 2, ("dataset", "hold_out"): 3}))
    return load(workshop.run, stop_at=4)


def quiet() -> None:
    """Nobody watches."""


def validated(loaded: LoadedRun, at_once: int = 8) -> ValidationLosses:
    assert loaded.evaluator.measured_on is not None
    with torch.no_grad():
        return validation_losses(loaded.context, loaded.evaluator.measured_on.validated, at_once=at_once, alive=quiet)


def test_it_is_the_loss_of_the_step(loaded: LoadedRun) -> None:
    assert loaded.evaluator.measured_on is not None
    found = validated(loaded, at_once=1).table
    for (example, cached), row in zip(loaded.evaluator.measured_on.validated, found, strict=True):
        batch = Batch(loaded.context.family.collate([cached.inputs]), (0,))
        for number, (quantile, loss) in enumerate(zip(QUANTILES, row, strict=True)):
            draw = Draw(fold(42, "validation", example.image_sha256), 0, number)
            noise = draw_numbers(draw, batch.latents).noise
            with torch.no_grad():
                assert loss == float(loaded.context.losses(batch, Numbers(noise, torch.tensor([quantile]))))


def test_what_the_step_minimises_is_what_is_validated(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a loss is weighted by one day, validation weighs by it too: both ask for the losses of one function."""
    loaded.state.adapter.set_training(False)
    context, (_, batch) = loaded.context, loaded.context.batches.at(1, 0)
    numbers = numbers_at(context, 1, 0, batch)
    plain, trained = validated(loaded).table, context.execution.forward_backward(batch, numbers, 1.0)
    really = Objective.losses
    monkeypatch.setattr(Objective, "losses", lambda *given, **also: 2 * really(*given, **also))
    for row, other in zip(validated(loaded).table, plain, strict=True):
        assert row == tuple(2 * one for one in other)
    assert torch.equal(context.execution.forward_backward(batch, numbers, 1.0), 2 * trained)


def test_the_quantiles_are_those_of_the_schedule(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    predict = type(loaded.context.family).predict

    def watched(self: Any, models: Any, noisy_latents: torch.Tensor, timesteps: torch.Tensor, *more: Any) -> Any:
        seen.update(timesteps.tolist())
        return predict(self, models, noisy_latents, timesteps, *more)

    monkeypatch.setattr(type(loaded.context.family), "predict", watched)
    validated(loaded)
    assert seen == {125, 375, 625, 875}


def test_it_is_the_same_again_and_alone(loaded: LoadedRun) -> None:
    first = validated(loaded)
    torch.manual_seed(99)
    assert validated(loaded) == first
    for row, other in zip(validated(loaded, at_once=1).table, first.table, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


def test_half_as_many_where_memory_runs_out(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = validated(loaded)
    predict, sizes = type(loaded.context.family).predict, []

    def tight(self: Any, models: Any, noisy_latents: torch.Tensor, *more: Any) -> Any:
        sizes.append(len(noisy_latents))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError
        return predict(self, models, noisy_latents, *more)

    monkeypatch.setattr(type(loaded.context.family), "predict", tight)
    for row, other in zip(validated(loaded).table, expected.table, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    assert max(sizes) > 2 >= sizes[-1]


def test_what_the_ledger_gets() -> None:
    """Means of 2 and 4 over examples: a deviation of sqrt(2), over sqrt(2) of them."""
    described = ValidationLosses(((1.0, 3.0), (2.0, 6.0))).described(is_held_out=True)
    assert described["loss"] == 3.0
    assert described["standard_error"] == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert described["by_quantile"] == [1.5, 4.5]
    assert described["by_example"] == [2.0, 4.0]
    assert (described["examples"], described["is_held_out"]) == (2, True)


def test_a_single_example_has_no_error_bar() -> None:
    assert ValidationLosses(((1.0, 3.0),)).described(is_held_out=True)["standard_error"] is None


def test_what_is_no_number_is_seen() -> None:
    assert ValidationLosses(((1.0, 2.0),)).is_finite
    assert not ValidationLosses(((1.0, math.nan),)).is_finite


@pytest.mark.parametrize("trains_text", [False, True])
def test_the_conditioning_is_the_batch_s(workshop: Workshop, trains_text: bool) -> None:
    workshop.run.root.mkdir()
    values = {("evaluation", "every"): 2, ("adapter", "train_text_encoder"): trains_text}
    stage(workshop.start_new(4, values))
    found = load(workshop.run, stop_at=4)
    assert validated(found).is_finite
