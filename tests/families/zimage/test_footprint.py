"""The footprint of Z-Image's denoiser: counted beside what autograd keeps, and the published model's parameters."""

from typing import Any

import pytest
import torch

from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks
from lorasmith.families.zimage.denoiser import forward
from lorasmith.families.zimage.family import ZImage, denoiser_builder
from lorasmith.families.zimage.footprint import denoiser_footprint
from tests.families.qwen_miniature import fill
from tests.families.zimage.miniature import DENOISER

SIDE = 32  # tokens
LAYERS = 6
TRAINED = tuple(f"{layer}.weight" for layer in ("to_q", "to_out.0", *(f"feed_forward.w{number}" for number in "123")))


def kept_by(model: Any) -> int:
    """The bytes of activations that a forward pass keeps."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    picture = torch.ones(1, 4, 2 * SIDE, 2 * SIDE, dtype=torch.bfloat16)
    text, is_text = torch.ones(1, 32, 24, dtype=torch.bfloat16), torch.ones(1, 32, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        output = forward(model, picture, torch.tensor([0.5]), text, is_text)
    output.float().sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("level", ["none", "elementwise", "feed-forward", "selective", "block"])
def test_activations_are_as_many_as_autograd_keeps(level: Checkpointing, results_kept: list[int]) -> None:
    """The weights of the layers that adapters attach to have gradients here: the layers' inputs are kept, as an
    adapter keeps them."""
    config = {**DENOISER, "dim": 64, "n_heads": 4, "n_kv_heads": 4, "n_layers": LAYERS}
    model: Any = denoiser_builder()(config).to_empty(device="cpu")
    fill(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("layers.") and name.endswith(TRAINED))
        parameter.data = parameter.data.to(torch.bfloat16)
    checkpoint_blocks(model, level, feed_forwards=ZImage.feed_forwards)
    counted = denoiser_footprint(config, 0).kept[level] * 4 * SIDE * SIDE
    assert (kept_by(model) + sum(results_kept)) / 2 == pytest.approx(counted, rel=0.12)


def test_the_published_model_has_its_sizes() -> None:
    """At 1024 x 1024 pixels, batch 1: 33 GB are kept in bfloat16, 1 GB where whole blocks are computed twice."""
    model: Any = denoiser_builder()({})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = denoiser_footprint(model.config, parameters)
    blocks = model.layers.named_parameters()
    assert found.largest_layer == max(weight.numel() for name, weight in blocks if "modulation" not in name)
    assert (found.parameters, found.text_parameters) == (6_154_908_736, 0)
    assert 2 * 128 * 128 * found.kept["none"] == pytest.approx(32.8e9, rel=0.02)
    assert 2 * 128 * 128 * found.kept["block"] == pytest.approx(1.04e9, rel=0.02)
