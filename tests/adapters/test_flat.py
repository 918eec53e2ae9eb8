"""How the numbers of an adapter lie in its buffer, whatever its kind computes."""

from itertools import accumulate, pairwise

import pytest
import torch
from torch import nn

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import AdaptedLayer, FlatAdapter
from lorasmith.adapters.lora import DOWN, Lora
from lorasmith.targets import LayerSpec, TargetModule
from tests.adapters.making import attached, attached_to_all, padding_of


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 24), nn.Linear(24, 8))


def targets(model: nn.Sequential) -> list[TargetModule]:
    return [TargetModule(name, "denoiser", model, name) for name, _ in model.named_children()]


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_every_view_begins_at_a_multiple_of_64_bytes(rank: int) -> None:
    """Products of operands at other places may have other bits."""
    adapter = attached_to_all(nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 16)), rank=rank)
    for view in adapter.parameters("denoiser"):
        assert view.grad is not None
        assert view.data_ptr() % 64 == 0 and view.grad.data_ptr() % 64 == 0


def test_parameters_and_gradients_are_views_of_the_buffers() -> None:
    model = layers()
    adapter = attached_to_all(model)
    adapter.flat.normal_(generator=torch.Generator().manual_seed(2))
    views = adapter.parameters("denoiser")
    assert [tuple(view.shape) for view in views] == [(2, 8), (16, 2), (2, 16), (24, 2), (2, 24), (8, 2)]
    assert not padding_of(views, adapter.flat).numel()
    model(torch.ones(3, 8)).square().sum().backward()
    grads = [view.grad for view in views if view.grad is not None]
    assert len(grads) == len(views) and min(grad.abs().max() for grad in grads) > 0
    padding_of(grads, adapter.gradient())


def test_layers_may_have_ranks_alphas_and_dropouts_of_their_own() -> None:
    model = layers()
    settings = {
        "0": LayerSettings(1, 0.5),
        "1": LayerSettings(4, 4.0, 0.5),
        "2": LayerSettings(2, 8.0),
    }
    adapter = FlatAdapter.attach(Lora(), targets(model), settings, seed=1)
    assert adapter.layers == {
        "0": AdaptedLayer(LayerSpec(16, 8), settings["0"]),
        "1": AdaptedLayer(LayerSpec(24, 16), settings["1"]),
        "2": AdaptedLayer(LayerSpec(8, 24), settings["2"]),
    }
    assert [view.shape[0] for view in adapter.parameters("denoiser")[::2]] == [1, 4, 2]
    adapter.flat.fill_(0.1)
    x = torch.ones(1, 16)
    change = model[1](x) - model[1].base(x)
    torch.testing.assert_close(change, torch.full((1, 24), 4 / 4 * 4 * 16 * 0.01))
    assert [layer.dropout for layer in model] == [0, 0.5, 0]


def test_a_group_is_a_slice_whatever_it_is_made_of() -> None:
    """As with a rate for the up matrices, and one for a block."""
    model = layers()

    def group_of(target: TargetModule, suffix: str) -> str:
        return "block 1" if target.name == "1" else suffix

    same = dict.fromkeys("012", LayerSettings(2, 2.0))
    adapter = FlatAdapter.attach(Lora(), targets(model), same, seed=1, group_of=group_of)
    groups = adapter.groups()
    assert list(groups) == [DOWN, "lora_up.weight", "block 1"]
    ends = [0, *accumulate([2 * (8 + 24), 2 * (16 + 8), 2 * (16 + 24)])]
    assert list(groups.values()) == [slice(start, stop) for start, stop in pairwise(ends)]
    plain = FlatAdapter.attach(Lora(), targets(layers()), same, seed=1)
    there = plain.tensors()
    assert {name: tensor.tolist() for name, tensor in adapter.tensors().items()} == {
        name: tensor.tolist() for name, tensor in there.items()
    }
    for group, part in groups.items():
        padding_of(adapter.parameters(group), adapter.flat[part])
    assert torch.equal(adapter.flat[groups[DOWN]], torch.cat([there[f"{name}.{DOWN}"].flatten() for name in "02"]))


def test_convolutions_are_matrices_in_training_and_have_their_kernel_in_files() -> None:
    adapter = attached_to_all(nn.Sequential(nn.Conv2d(6, 10, 1)), rank=3)
    assert [tuple(view.shape) for view in adapter.parameters("denoiser")] == [(3, 6), (10, 3)]
    assert [tuple(tensor.shape) for tensor in adapter.tensors().values()] == [(3, 6, 1, 1), (10, 3, 1, 1)]


def test_two_targets_of_a_name_are_our_own_mistake() -> None:
    model = layers()
    with pytest.raises(AssertionError, match="two targets"):
        attached([TargetModule("same", "denoiser", model, name) for name in "01"])
