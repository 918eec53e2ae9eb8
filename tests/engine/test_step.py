"""One step on a family of one layer: the mathematics against a few lines of plain torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.data.types import Batch
from lorasmith.diffusion.noise_schedules import Draw, Noised
from lorasmith.engine import step as step_module
from lorasmith.engine.device import Device
from lorasmith.engine.loss_scaler import LossScaler
from lorasmith.engine.optimizers import build_optimizer
from lorasmith.engine.state import Origin, TrainState
from lorasmith.engine.step import Repeat, StepContext, StepResult, losses_of, non_finite, train_step
from lorasmith.errors import NonFiniteError, ResourceError
from tests.adapters.making import attached_to_all

CPU = Device(torch.device("cpu"), "", "asked", 1)
SEED, BATCH, LR = 5, 4, 0.1


class Layer:
    """A family whose denoiser is one linear layer; answers what a step asks for."""

    def add_noise(self, latents: Tensor, draw: Draw) -> Noised:
        noise = draw.normal("noise", tuple(latents.shape))
        timesteps = (draw.uniform("timestep", (len(latents),)) * 10).long()
        return Noised(sample=latents + noise, timesteps=timesteps, target=noise)

    def conditioning(self, models: Mapping[str, nn.Module], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"text": inputs["text"]}

    def predict(self, models: Mapping[str, nn.Module], noised: Noised, conditioning: dict[str, Tensor]) -> Tensor:
        rows = models["denoiser"](noised.sample.flatten(1, 2))  # 4 dimensions would be taken for a convolution's
        return rows.view_as(noised.sample) + conditioning["text"]


@dataclass(frozen=True)
class Batches:
    """Micro-batches made from their number, of these sizes."""

    sizes: tuple[int, ...]

    def at(self, step: int, micro: int) -> tuple[int, Batch]:
        generator = torch.Generator().manual_seed(100 * step + micro)
        size, first = self.sizes[micro], sum(self.sizes[:micro])
        latents = torch.randn(size, 3, 2, 4, generator=generator)
        text = torch.randn(size, 1, 1, 4, generator=generator)
        ids = tuple(range(first, first + size))
        return step, Batch({"latents": latents, "text": text}, example_ids=ids)

    def examples_in(self, _step: int) -> int:
        return sum(self.sizes)


def made(
    *, accumulation: int = 1, optimizer: str = "adamw", sizes: tuple[int, ...] = (), **other: Any
) -> tuple[TrainState, StepContext]:
    torch.manual_seed(1)
    denoiser = nn.Sequential(nn.Linear(4, 4))
    denoiser.requires_grad_(False)
    adapter = attached_to_all(denoiser, rank=4)
    with torch.no_grad():
        adapter.flat.add_(0.1)  # a pair that is zero has no gradient in its first half
    built = build_optimizer(optimizer, adapter, base_lrs={"denoiser": LR}, options={})
    state = TrainState(0, adapter, built, other.pop("scaler", None), Origin(0, 1))
    context = StepContext(
        seed=SEED,
        family=Layer(),  # type: ignore[arg-type]
        models={"denoiser": denoiser},
        batches=Batches(sizes or (BATCH,) * accumulation),
        device=other.pop("device", CPU),
        accumulation_steps=len(sizes) or accumulation,
        max_grad_norm=other.pop("max_grad_norm", 0.0),
        base_lrs={"denoiser": LR},
        lr_factor_at=partial(lambda step: 0.5 if step == 1 else 1.0),
        set_checkpointing=lambda enabled: None,
        picture_names=[f"{number}.png" for number in range(100)],
    )
    return state, context


def plain_gradient(state: TrainState, context: StepContext, step: int) -> tuple[Tensor, float]:
    """The gradient of the mean loss over all examples of the step, by autograd over the whole."""
    losses = []
    for micro in range(context.accumulation_steps):
        batch = context.batches.at(step, micro)[1]
        losses.append(losses_of(context, batch, Draw(SEED, step, micro, len(batch))))
    mean = torch.cat(losses).mean()
    found = torch.autograd.grad(mean, state.adapter.parameters("denoiser"))
    return torch.cat([one.flatten() for one in found]), float(mean.detach())


def test_losses_are_per_example_and_pure() -> None:
    _, context = made()
    batch = context.batches.at(1, 0)[1]
    losses = losses_of(context, batch, Draw(SEED, 1, 0, BATCH))
    assert (losses.shape, losses.dtype) == ((BATCH,), torch.float32)
    torch.randn(5)
    assert torch.equal(losses, losses_of(context, batch, Draw(SEED, 1, 0, BATCH)))
    row = losses_of(context, batch.rows(2, 3), Draw(SEED, 1, 0, BATCH).rows(2))
    torch.testing.assert_close(row[0], losses[2])


@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("split", [1, 2, 3, 4, 64])
def test_the_gradient_is_that_of_the_mean(accumulation: int, split: int) -> None:
    state, context = made(accumulation=accumulation)
    state.micro_split = split
    expected, loss = plain_gradient(state, context, 1)
    result = train_step(state, context)
    assert isinstance(result, StepResult)
    torch.testing.assert_close(state.adapter.gradient(), expected)
    assert float(result.loss) == pytest.approx(loss)
    assert float(result.grad_norm) == pytest.approx(float(expected.norm()))
    assert result.example_ids == tuple(range(accumulation * BATCH))
    assert (result.step, result.epoch, state.step) == (1, 1, 1)
    assert result.lr == {"denoiser": LR * 0.5}


@pytest.mark.parametrize("split", [1, 2])
def test_every_example_of_a_step_weighs_the_same(split: int) -> None:
    """The last micro-batch of a bucket may be smaller: the loss that is reported is the one that was minimised."""
    state, context = made(sizes=(4, 1, 3))
    state.micro_split = split
    expected, loss = plain_gradient(state, context, 1)
    result = train_step(state, context)
    assert isinstance(result, StepResult)
    torch.testing.assert_close(state.adapter.gradient(), expected)
    assert float(result.loss) == pytest.approx(loss)


def test_the_update_is_the_optimizers() -> None:
    state, context = made()
    parameter = nn.Parameter(state.adapter.flat.clone())
    parameter.grad = plain_gradient(state, context, 1)[0]
    torch.optim.AdamW([parameter], lr=LR * 0.5).step()
    train_step(state, context)
    torch.testing.assert_close(state.adapter.flat, parameter.detach())


@pytest.mark.parametrize(("bound", "is_clipped"), [(1e-3, True), (1e6, False), (0.0, False)])
def test_clipping(bound: float, is_clipped: bool) -> None:
    state, context = made(max_grad_norm=bound)
    expected, _ = plain_gradient(state, context, 1)
    result = train_step(state, context)
    assert isinstance(result, StepResult)
    assert float(result.grad_norm) == pytest.approx(float(expected.norm()))  # before
    applied = state.adapter.gradient()
    if is_clipped:
        assert float(applied.norm()) == pytest.approx(bound, rel=1e-3)
    else:
        torch.testing.assert_close(applied, expected)


def test_a_loss_scale_cancels_to_the_bit() -> None:
    """Powers of two: the same update as without."""
    plain, context = made()
    scaled, scaled_parts = made(scaler=LossScaler(scale=2.0**12))
    train_step(plain, context)
    train_step(scaled, scaled_parts)
    assert torch.equal(plain.adapter.flat, scaled.adapter.flat)
    assert scaled.scaler is not None
    assert scaled.scaler.good_steps == 1


def poison(monkeypatch: pytest.MonkeyPatch, value: float, *, in_loss: bool = False) -> None:
    really = step_module._sum_gradients

    def poisoned(state: TrainState, context: StepContext, step: int, beat: Any) -> Any:
        epoch, loss, ids = really(state, context, step, beat)
        state.adapter.gradient()[0] = value
        return epoch, loss * value if in_loss else loss, ids

    monkeypatch.setattr(step_module, "_sum_gradients", poisoned)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nothing_of_a_bad_step_is_applied(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    state, context = made()
    train_step(state, context)
    before = state.adapter.flat.clone()
    poison(monkeypatch, value)
    with pytest.raises(NonFiniteError) as caught:
        train_step(state, context)
    assert caught.value.fields["step"] == 2
    assert state.step == 1
    assert torch.equal(state.adapter.flat, before)


def test_an_overflow_halves_the_scale_until_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    state, context = made(scaler=LossScaler(scale=4.0))
    poison(monkeypatch, float("inf"))
    scales = []
    for _ in range(2):
        outcome = train_step(state, context)
        assert isinstance(outcome, Repeat)
        scales.append((outcome.step, outcome.reason, outcome.scale))
    assert scales == [(1, "overflow", 2.0), (1, "overflow", 1.0)]
    with pytest.raises(NonFiniteError):
        train_step(state, context)
    assert state.step == 0


def test_a_bad_loss_is_no_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    state, context = made(scaler=LossScaler())
    poison(monkeypatch, float("nan"), in_loss=True)
    with pytest.raises(NonFiniteError):
        train_step(state, context)


def test_what_a_step_was_made_of() -> None:
    _, context = made(accumulation=2)
    fields = non_finite(context, 3).fields
    timesteps = []
    for micro in range(2):
        timesteps += Layer().add_noise(torch.zeros(BATCH, 3, 2, 4), Draw(SEED, 3, micro, BATCH)).timesteps.tolist()
    assert fields == {"step": 3, "pictures": [f"{number}.png" for number in range(8)], "timesteps": timesteps}


def test_the_flag_on_the_device_is_sticky(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bad step that nobody has read yet, nothing is applied any more."""
    monkeypatch.setattr(Device, "is_async", True)
    state, context = made()
    first = train_step(state, context)
    before = state.adapter.flat.clone()
    with monkeypatch.context() as patch:
        poison(patch, float("nan"))
        second = train_step(state, context)
    third = train_step(state, context)
    assert [float(one.found_inf) for one in (first, second, third)] == [0, 1, 1]  # type: ignore[union-attr, arg-type]
    assert torch.equal(state.adapter.flat, before)
    assert {int(one["step"]) for one in state.optimizer.state_dict()["state"].values()} == {1}


def test_memory_runs_out_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves, quarters, activations twice, then no more; each time the same step."""
    state, context = made()

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step_module, "losses_of", full)
    found = []
    for _ in range(3):
        outcome = train_step(state, context)
        assert isinstance(outcome, Repeat)
        found.append((outcome.step, outcome.micro_split, outcome.gradient_checkpointing))
    assert found == [(1, 2, False), (1, 4, False), (1, 4, True)]
    with pytest.raises(ResourceError, match="out_of_memory"):
        train_step(state, context)
    assert state.step == 0
    assert not state.adapter.gradient().any()
