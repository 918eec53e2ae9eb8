"""LoHa's shapes and start; tests/contracts has its formula."""

import pytest
import torch
from torch import Tensor, nn

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.loha import W1_A, W1_B, W2_A, W2_B, Loha, add_product
from lorasmith.targets import LayerSpec
from tests.adapters.making import attached_to_all


def test_a_convolution_has_a_column_for_each_number_of_its_window() -> None:
    layer = LayerSpec(10, 6, (3, 3))
    shapes = Loha().shapes(layer, LayerSettings(4, 4.0))
    assert shapes == {W1_A: (10, 4), W1_B: (4, 54), W2_A: (10, 4), W2_B: (4, 54)}
    assert Loha().layer_of(shapes, (3, 3)) == (layer, 4)


def test_it_starts_as_lycoris_does() -> None:
    adapter = attached_to_all(nn.Sequential(nn.Linear(400, 500)), kind="loha", rank=8)
    deviations = {name.removeprefix("denoiser.0."): tensor.std().item() for name, tensor in adapter.tensors().items()}
    assert deviations == pytest.approx({W1_A: 0.1, W1_B: 1.0, W2_A: 0.0, W2_B: 1.0}, rel=0.05)


@pytest.mark.parametrize("weight", [None, torch.ones(300, 1000)])
def test_a_large_weight_is_made_of_blocks(weight: Tensor | None) -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = {W1_A: (300, 3), W1_B: (3, 1000), W2_A: (300, 3), W2_B: (3, 1000)}
    tensors = {suffix: torch.randn(shape, generator=generator).requires_grad_() for suffix, shape in shapes.items()}
    w1_a, w1_b, w2_a, w2_b = tensors.values()
    expected = 0.7 * (w1_a @ w1_b) * (w2_a @ w2_b) + (0 if weight is None else weight)
    found = add_product(weight, tensors, 0.7)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn(300, 1000, generator=generator)
    wanted = torch.autograd.grad(expected, list(tensors.values()), gradient)
    for one, other in zip(torch.autograd.grad(found, list(tensors.values()), gradient), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
