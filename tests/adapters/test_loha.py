"""LoHa: its change in layers of every form, and its start."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, linear

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.loha import W1_A, W1_B, W2_A, W2_B, Loha
from lorasmith.targets import LayerSpec
from tests.adapters.making import attached_to_all

BASES = {
    "linear": (lambda: nn.Linear(6, 10), (2, 5, 6)),
    "pixelwise": (lambda: nn.Conv2d(6, 10, 1), (2, 6, 4, 5)),
    "convolution": (lambda: nn.Conv2d(6, 10, 3, stride=2, padding=1), (2, 6, 8, 6)),
}


@pytest.mark.parametrize("form", BASES)
def test_it_adds_the_change(form: str) -> None:
    make, shape = BASES[form]
    base = make().requires_grad_(False)
    model = nn.Sequential(base)
    adapter = attached_to_all(model, kind="loha", rank=3, alpha=1.5)
    adapter.flat.normal_(generator=torch.Generator().manual_seed(7))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(8))
    w1_a, w1_b, w2_a, w2_b = adapter.tensors().values()
    assert w1_b.shape == (3, base.weight[0].numel())  # as LyCORIS writes convolutions
    change = (0.5 * (w1_a @ w1_b) * (w2_a @ w2_b)).view_as(base.weight)
    apply = linear if form == "linear" else lambda x, weight: conv2d(x, weight, None, base.stride, base.padding)
    torch.testing.assert_close(model(x), base(x) + apply(x, change))
    adapter.set_multiplier(0.6)
    torch.testing.assert_close(model(x), base(x) + 0.6 * apply(x, change))


def test_it_starts_as_lycoris_does() -> None:
    adapter = attached_to_all(nn.Sequential(nn.Linear(400, 500)), kind="loha", rank=8)
    deviations = {name.removeprefix("denoiser.0."): tensor.std().item() for name, tensor in adapter.tensors().items()}
    expected = {W1_A: 0.1, W1_B: 1.0, W2_A: 0.0, W2_B: 1.0}
    assert deviations == pytest.approx(expected, rel=0.05)


def test_the_layer_of_a_convolution_is_found_by_its_kernel() -> None:
    layer, settings = LayerSpec(10, 6, (3, 3)), LayerSettings(4, 4.0)
    assert Loha().layer_of(Loha().shapes(layer, settings), (3, 3)) == (layer, 4)
