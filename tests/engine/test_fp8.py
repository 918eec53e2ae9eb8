"""Frozen weights in 8 bits: the error of a weight, the gradient of the input, and the memory."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from lorasmith.engine.fp8 import Fp8Layer, store_in_fp8

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(48, 32), (2, 5, 48)),
    "linear without bias": (nn.Linear(48, 32, bias=False), (7, 48)),
    "convolution": (nn.Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 10, 6)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_as_the_layer_with_the_rounded_weight(name: str, dtype: torch.dtype) -> None:
    """Its output and the gradient of its input, to the bit."""
    layer, shape = LAYERS[name]
    layer = layer.to(dtype).requires_grad_(False)
    stored = Fp8Layer(layer)  # type: ignore[arg-type]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs: list[Tensor] = [stored(inputs[0])]
    layer.weight.copy_(stored.weight)
    outputs.append(layer(inputs[1]))
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_weights_of_any_size_are_within_a_sixteenth(scale: float) -> None:
    """Three bits after the first: half of an eighth, but for those so small beside the largest of their row."""
    layer = nn.Linear(640, 64, bias=False).requires_grad_(False)
    layer.weight.normal_(generator=torch.Generator().manual_seed(1)).mul_(scale)
    before = layer.weight.clone()
    error = (Fp8Layer(layer).weight - before).abs()
    is_large = before.abs() >= before.abs().amax(1, keepdim=True) / 448 * 2**-6
    assert (error <= before.abs() / 16)[is_large].all()
    assert error.norm() / before.norm() < 0.03


def test_all_frozen_layers_and_no_other() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Conv2d(8, 8, 1), nn.LayerNorm(8)), nn.Linear(8, 8))
    model.requires_grad_(False)
    model[2].weight.requires_grad_()
    assert store_in_fp8(model) == 2
    assert [type(layer).__name__ for layer in (model[0], model[1][0], model[1][1], model[2])] == [
        *("Fp8Layer", "Fp8Layer", "LayerNorm", "Linear")
    ]
    stored = model[0].stored
    assert (stored.dtype, stored.element_size()) == (torch.float8_e4m3fn, 1)


def test_a_row_of_zeros() -> None:
    layer = nn.Conv2d(4, 4, 1, bias=False).requires_grad_(False)
    layer.weight.zero_()
    x = torch.ones(1, 4, 2, 2)
    assert torch.equal(Fp8Layer(layer)(x), conv2d(x, layer.weight))
