"""Activations that are computed twice: the same bits, and less memory at each level."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lorasmith.demo.layouts import LAYOUTS, unet_config
from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks

LEVELS: tuple[Checkpointing, ...] = ("none", "feed-forward", "block", "offload")


def gradients(unet: Any) -> tuple[list[Tensor], int, int]:
    """The gradients of all weights, the bytes of activations that a forward pass keeps where they were made, and of
    those among them that are kept elsewhere."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}
    here: dict[int, int] = {}
    away: dict[int, int] = {}
    inputs = torch.linspace(-1, 1, 2 * 4 * 8 * 8).view(2, 4, 8, 8)
    text = torch.linspace(-1, 1, 2 * 7 * unet.config.cross_attention_dim).view(2, 7, -1)

    def noted(kept: dict[int, int], tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    class SaveOnCpu(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, pin_memory: bool) -> None:
            assert not pin_memory  # on a CPU
            super().__init__(lambda tensor: noted(away, tensor), lambda tensor: tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lorasmith.families.checkpointing.save_on_cpu", SaveOnCpu)
        unet.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: noted(here, tensor), lambda tensor: tensor):
            (output,) = unet(inputs, torch.tensor([3, 700]), text, return_dict=False)
        output.square().sum().backward()
    return [parameter.grad.clone() for parameter in unet.parameters()], sum(here.values()), sum(away.values())


@pytest.mark.parametrize("draws", [False, True])
def test_generators_are_kept_where_something_draws(draws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    unet: Any = UNet2DConditionModel.from_config(unet_config(LAYOUTS["nano"]))
    unet.conv_in.draws = draws
    kept = []
    real = torch.utils.checkpoint.checkpoint

    def noted(*given: Any, **named: Any) -> Any:
        kept.append(named["preserve_rng_state"])
        return real(*given, **named)

    monkeypatch.setattr("lorasmith.families.checkpointing.checkpoint", noted)
    checkpoint_blocks(unet, "block")
    gradients(unet)
    assert set(kept) == {draws}


def test_the_same_bits_in_less_memory() -> None:
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel.from_config(unet_config(LAYOUTS["nano"]))
    expected, kept, _ = gradients(unet)
    memory = []
    for level in (*LEVELS, "none"):
        checkpoint_blocks(unet, level)
        found, here, away = gradients(unet)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True)), level
        assert (away > 0) == (level == "offload")
        memory.append(here)
    assert memory[0] == memory[-1] == kept, "the last level is undone"
    assert memory[0] > 1.1 * memory[1] and memory[1] > memory[2] > memory[3]
