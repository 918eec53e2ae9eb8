"""DoRA's start and its norms; tests/contracts has its formula."""

import pytest
import torch
from torch import Tensor, nn

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.dora import MAGNITUDE, Columns, Dora, DoraLayer
from lorasmith.adapters.lora import DOWN, UP
from tests.adapters.making import attached_to_all


def test_magnitudes_start_as_the_norms_over_the_outputs() -> None:
    model = nn.Sequential(nn.Linear(6, 10), nn.Conv2d(10, 4, 3))
    norms = [layer.weight.transpose(0, 1).flatten(1).norm(dim=1) for layer in model]
    tensors = attached_to_all(model, kind="dora", rank=2).tensors()
    found = [tensors[f"denoiser.{number}.{MAGNITUDE}"] for number in range(2)]
    assert [one.shape for one in found] == [(1, 6), (1, 10, 1, 1)]
    for one, norm in zip(found, norms, strict=True):
        torch.testing.assert_close(one.flatten(), norm)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_start_changes_no_bit(precision: torch.dtype) -> None:
    base = nn.Linear(300, 200).to(precision)
    with torch.no_grad():
        base.weight[:, 7] = 0  # an input that the base model ignores
    model = nn.Sequential(base)
    adapter = attached_to_all(model, kind="dora", rank=4)
    x = torch.randn(5, 300).to(precision)
    assert torch.equal(model(x), base(x))
    tensors = {name.removeprefix("denoiser.0."): tensor for name, tensor in adapter.tensors().items()}
    delta = Dora().delta(base.weight.detach(), tensors, LayerSettings(4, 4.0))
    assert delta.abs().max() < 1e-6 * base.weight.abs().max()


def test_norms_are_those_of_the_changed_weight() -> None:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    weight, down, up = random(7, 5, 3, 3), random(2, 45), random(7, 2)
    moved = weight + (up @ down).view(weight.shape)
    torch.testing.assert_close(Columns(weight).norms(down, up), moved.transpose(0, 1).flatten(1).norm(dim=1))


def test_a_weight_that_is_cancelled_has_a_norm_and_no_gradient_that_is_not_finite() -> None:
    weight = torch.ones(4, 3)
    norms = Columns(weight).norms(torch.ones(1, 3), -torch.ones(4, 1))
    assert norms.isfinite().all() and norms.min() > 0


def test_the_norm_follows_what_is_trained() -> None:
    model = nn.Sequential(nn.Linear(6, 10))
    adapter = attached_to_all(model, kind="dora", rank=2)
    layer = model[0]
    assert isinstance(layer, DoraLayer)
    x = torch.randn(3, 6)
    before = model(x)
    with torch.no_grad():
        layer.up.add_(1.0)
    moved = adapter.kind.delta(
        layer.base.weight, {DOWN: layer.down, UP: layer.up, MAGNITUDE: layer.magnitude}, LayerSettings(2, 2.0)
    )
    torch.testing.assert_close(model(x) - before, x @ moved.t(), rtol=1e-4, atol=1e-5)
