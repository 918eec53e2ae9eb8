"""Frozen weights kept in another form or place: what a layer computes, and the gradient of its input."""

import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from lorasmith.engine.codecs import CODECS
from lorasmith.engine.stored import FrozenStore, StoredConv2d, StoredLinear
from lorasmith.targets import LayerSpec, TargetModule
from tests.engine.stored_models import store

CPU = torch.device("cpu")
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(48, 32), (2, 9, 48)),
    "linear without bias": (lambda: nn.Linear(48, 32, bias=False), (7, 48)),
    "convolution": (lambda: nn.Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 10, 6)),
}


def made(name: str, form: str, dtype: torch.dtype) -> tuple[nn.Module, StoredLinear | StoredConv2d]:
    """A layer with weights as they come back from a form, and the same layer in that form."""
    torch.manual_seed(1)
    layer = LAYERS[name][0]().to(dtype).requires_grad_(False)
    model = nn.Sequential(LAYERS[name][0]().to(dtype).requires_grad_(False))
    model[0].load_state_dict(layer.state_dict())
    store(model, form)
    stored = model[0]
    assert isinstance(stored, StoredLinear | StoredConv2d)
    layer.get_parameter("weight").copy_(stored.weight)
    return layer, stored


def passed(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient of the input."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", sorted(CODECS.keys() - {"w8a8"}))
@pytest.mark.parametrize("name", LAYERS)
def test_as_the_layer_with_the_weights_that_come_back(name: str, form: str, dtype: torch.dtype) -> None:
    layer, stored = made(name, form, dtype)
    x = torch.randn(LAYERS[name][1]).to(dtype)
    (expected, expected_gradient), (found, gradient) = passed(layer, x), passed(stored, x)
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_layers_share_the_memory_in_which_their_weights_are_made_and_compute_as_alone(form: str) -> None:
    def layers() -> list[nn.Module]:
        torch.manual_seed(1)
        return [nn.Linear(48, 96), nn.Linear(96, 32), nn.Linear(32, 40)]

    together, alone = nn.Sequential(*layers()), nn.Sequential(*(nn.Sequential(layer) for layer in layers()))
    store(together, form)
    for layer in alone:
        store(layer, form)
    layer_of: Any = together
    first, last = layer_of[0].storage, layer_of[2].storage
    assert first.passing_weight().data_ptr() == last.passing_weight().data_ptr()
    assert first.weight().data_ptr() != last.weight().data_ptr()
    x = torch.randn(5, 48)
    for found, expected in zip(passed(together, x), passed(alone, x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_in_8_bits(dtype: torch.dtype) -> None:
    """The product of numbers that are off by half of 1/127 of a row's largest at most; the gradient is the exact one
    of the stored weight, which torchao's layer cuts."""
    layer, stored = made("linear", "w8a8", dtype)
    x = torch.randn(2, 9, 48).to(dtype)
    (expected, expected_gradient), (found, gradient) = passed(layer, x), passed(stored, x)
    assert 0.002 < (found - expected).norm() / expected.norm() < 0.01
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)
    few = x[:, :1]  # 2 rows: no product of integers on a GPU
    assert torch.equal(stored(few), layer(few))
    # Rows do not depend on their neighbours.
    assert torch.equal(stored(torch.cat([x, x * 3]))[:2], found)


def test_every_linear_layer_and_convolution_is_replaced() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Conv2d(8, 8, 1), nn.LayerNorm(8)), nn.Linear(8, 8))
    model.append(nn.Conv2d(8, 8, 3, padding="same"))
    store(model, "fp8")
    assert [type(layer).__name__ for layer in (model[0], model[1][0], model[1][1], model[2], model[3])] == [
        *("StoredLinear", "StoredConv2d", "LayerNorm", "StoredLinear", "Conv2d")
    ]


def test_an_adapter_sees_its_size_without_the_weight_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    _, stored = made("convolution", "int8", torch.bfloat16)
    monkeypatch.setattr(type(stored.storage), "weight", lambda self: pytest.fail("made"))
    parent = nn.Sequential(stored)
    assert TargetModule("name", "denoiser", parent, "0").spec == LayerSpec(16, 8, (3, 3))
    placeholder = next(iter(stored.parameters()))
    assert (placeholder.dtype, placeholder.untyped_storage().nbytes()) == (torch.bfloat16, 2)
    assert placeholder.isnan().all(), "who uses it as a weight must notice"


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("form", ["auto", "int8"])
def test_weights_in_the_computers_memory_change_no_bit(form: str, share: float) -> None:
    """With layers asked for in changing orders, as by activations that are computed twice."""
    torch.manual_seed(1)
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(8)), nn.Conv2d(4, 4, 3)).requires_grad_(False)
    there, away = (nn.Sequential(*(type_of(layer) for layer in model)) for _ in range(2))
    for copy in (there, away):
        copy.load_state_dict(model.state_dict())
        copy.requires_grad_(False)
    store(there, form)
    store(away, form, offload=share)
    rings = [cast(Any, layer).storage.ring for layer in away]
    assert sum(ring is not None for ring in rings) == pytest.approx(len(rings) * share, abs=1)
    x = torch.randn(20, 32)
    for order in ([0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [0, 0, 1, 0, 5, 1, 5, 7]):
        for number in order:
            assert torch.equal(there[number](x), away[number](x))
    y, expected = x.requires_grad_(), x.detach().clone().requires_grad_()
    away[:8](y).sum().backward()
    there[:8](expected).sum().backward()
    assert torch.equal(y.grad, expected.grad)


def type_of(layer: nn.Module) -> nn.Module:
    return nn.Linear(32, 32) if isinstance(layer, nn.Linear) else nn.Conv2d(4, 4, 3)


def test_tensors_go_to_their_places_in_any_order_and_no_weight_stays() -> None:
    """As they are read into a model on the meta device: a bias may come before its weight."""

    def model() -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))

    whole = model().requires_grad_(False).eval()
    whole[1].running_mean.normal_()
    state, x = {name: tensor.clone() for name, tensor in whole.state_dict().items()}, torch.randn(3, 8)
    store(whole, "int8")
    for names in (sorted(state), sorted(state, reverse=True)):
        with torch.device("meta"):
            read = model().requires_grad_(False).eval()
        frozen, weights = FrozenStore(read, "int8", CPU), []
        for name in names:
            tensor = state[name].clone()
            weights += [weakref.ref(tensor)] if name in ("0.weight", "2.weight") else []
            frozen.put(name, tensor)
            del tensor
        frozen.finish()
        assert [weight() for weight in weights] == [None, None]
        assert torch.equal(read(x), whole(x))


@pytest.mark.parametrize("offload", [0.0, 1.0])
def test_of_a_weight_that_is_read_twice_the_last_counts_and_its_bias_stays(offload: float) -> None:
    """As where two files of a folder hold it, and the bias comes between them."""
    whole = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(4, 4, 1)).requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    store(whole, "int8")
    with torch.device("meta"):
        read = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(4, 4, 1)).requires_grad_(False)
    frozen = FrozenStore(read, "int8", CPU, offload=offload)
    for path in ("0", "1"):
        frozen.put(f"{path}.weight", state[f"{path}.weight"] * 2)
        frozen.put(f"{path}.bias", state[f"{path}.bias"])
        frozen.put(f"{path}.weight", state[f"{path}.weight"])
    frozen.finish()
    for x, found, expected in zip((torch.randn(3, 8), torch.randn(2, 4, 5, 5)), read, whole, strict=True):
        assert torch.equal(found(x), expected(x))


def test_a_part_that_is_away_never_joins_the_others_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that cannot hold the whole base in its stored form must be able to load it."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))).requires_grad_(False)
    kept, encode = list[weakref.ref[Tensor]](), CODECS["int8"].encode
    alive = list[int]()

    def noted(weight: Tensor) -> dict[str, Tensor]:
        alive.append(sum(part() is not None for part in kept))
        parts = encode(weight)
        kept.append(weakref.ref(parts["stored"]))
        return parts

    monkeypatch.setattr(CODECS["int8"], "encode", noted)
    store(model, "int8", offload=1.0)
    assert alive == [0, 0, 0, 0]
