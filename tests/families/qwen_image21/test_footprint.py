"""The footprint of Qwen-Image 2.1's denoiser: counted beside what autograd keeps, and the published model's sizes."""

from typing import Any

import pytest
import torch
from torch import nn

from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks
from lorasmith.families.qwen_image21.denoiser import denoiser_builder, velocity
from lorasmith.families.qwen_image21.family import QwenImage21
from lorasmith.families.qwen_image21.footprint import denoiser_footprint
from tests.families.qwen_image21.miniature import DENOISER
from tests.families.qwen_miniature import fill

SIDE = 24  # tokens
LAYERS = 6


def built(config: dict[str, Any]) -> nn.Module:
    """The denoiser with random weights."""
    model = denoiser_builder()(config)
    tensors = {name: torch.empty_like(tensor, device="cpu") for name, tensor in model.state_dict().items()}
    model.load_state_dict(tensors, assign=True)
    fill(model)
    return model


def kept_by(model: Any) -> int:
    """The bytes of activations that a forward pass keeps."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    text = torch.ones(1, 1, 24, dtype=torch.bfloat16)
    picture = torch.ones(1, SIDE * SIDE, 8, dtype=torch.bfloat16)
    mask = torch.ones(1, 1, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        output = velocity(model, picture, torch.tensor([0.5], dtype=torch.bfloat16), text, mask, (SIDE, SIDE))
    output.float().sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("level", ["none", "elementwise", "feed-forward", "selective", "block"])
def test_activations_are_as_many_as_autograd_keeps(level: Checkpointing, results_kept: list[int]) -> None:
    """The weights of the layers that adapters attach to have gradients here: the layers' inputs are kept, as an
    adapter keeps them."""
    config = {**DENOISER, "num_attention_heads": 4, "num_layers": LAYERS}
    model = built(config).to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("transformer_blocks.") and "norm" not in name)
    checkpoint_blocks(model, level, feed_forwards=QwenImage21.feed_forwards)
    counted = denoiser_footprint(config, 0).kept[level] * 4 * SIDE * SIDE
    assert (kept_by(model) + sum(results_kept)) / 2 == pytest.approx(counted, rel=0.1)


def test_the_published_model_has_its_sizes() -> None:
    """At 1024 x 1024 pixels, batch 1: 34 GB are kept in bfloat16, 1.1 GB where whole blocks are computed twice."""
    model: Any = denoiser_builder()({})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = denoiser_footprint(model.config, parameters)
    assert found.largest_layer == max(weight.numel() for weight in model.parameters())
    assert (found.parameters, found.text_parameters) == (7_115_124_736, 0)
    assert 2 * 128 * 128 * found.kept["none"] == pytest.approx(33.8e9, rel=0.02)
    assert 2 * 128 * 128 * found.kept["block"] == pytest.approx(1.1e9, rel=0.02)
