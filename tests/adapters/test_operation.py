"""An operation gives what the layer gives, whatever its window."""

import pytest
import torch
from torch import nn

from lorasmith.adapters.operation import Operation

LAYERS = {
    "linear": (nn.Linear(6, 8, bias=False), (2, 5, 6)),
    "convolution": (nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False), (2, 6, 9, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_layer_without_its_bias(name: str) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(Operation(layer)(x, layer.weight.flatten(1)), layer(x))


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 8, 1, groups=2), nn.Conv2d(6, 8, 3, padding="same"), nn.LayerNorm(4)])
def test_other_layers_are_refused(layer: nn.Module) -> None:
    with pytest.raises(AssertionError):
        Operation(layer)
