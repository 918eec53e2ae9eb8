"""The footprint of FLUX.1's denoiser: counted beside what autograd keeps, and the published model's size."""

from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel

from lorasmith.families import footprint_of
from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks
from lorasmith.families.flow_transformer import grid_positions
from lorasmith.families.flux1.family import denoiser_builder
from lorasmith.families.flux1.footprint import denoiser_footprint
from lorasmith.families.recognize import recognize
from tests.families.flux1.miniature import DENOISER, POOLED, WIDTH, make_model

CPU = torch.device("cpu")
SIDE, TEXT = 20, 100  # tokens


def kept_by(model: Any) -> int:
    """The bytes of activations that a forward pass keeps."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    half: Any = {"dtype": torch.bfloat16}
    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        (output,) = model(
            torch.ones(1, SIDE * SIDE, 16, **half),
            torch.ones(1, TEXT, WIDTH, **half),
            torch.ones(1, POOLED, **half),
            torch.tensor([0.5]),
            grid_positions(SIDE, SIDE, CPU),
            torch.zeros(TEXT, 3),
            torch.ones(1),
            return_dict=False,
        )
    output.float().sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("level", ["none", "elementwise", "feed-forward", "selective", "block"])
def test_activations_are_as_many_as_autograd_keeps(level: Checkpointing, results_kept: list[int]) -> None:
    """The weights of the layers that adapters attach to have gradients here: the layers' inputs are kept, as an
    adapter keeps them. A text takes as much as a picture of as many tokens."""
    config = {**DENOISER, "num_layers": 3, "num_single_layers": 6, "num_attention_heads": 4}
    model = FluxTransformer2DModel(**config)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
        parameter.requires_grad_("transformer_blocks." in name and ".norm" not in name and name.endswith("weight"))
    checkpoint_blocks(model, level, feed_forwards=("ff", "ff_context"))
    counted = denoiser_footprint(config, 0).kept[level] * 4 * (SIDE * SIDE + TEXT)
    assert (kept_by(model) + sum(results_kept)) / 2 == pytest.approx(counted, rel=0.1)


def test_the_published_model_has_its_sizes() -> None:
    """At 1024 x 1024 pixels, batch 1: 31.5 GB are kept in bfloat16."""
    model: Any = denoiser_builder()({"guidance_embeds": True})
    found = denoiser_footprint(model.config, 0)
    blocks = model.transformer_blocks.named_parameters()
    assert found.largest_layer == max(weight.numel() for name, weight in blocks if name.endswith("weight"))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 11_901
    assert 2 * (128 * 128 + found.text_pixels) * found.kept["none"] == pytest.approx(31.5e9, rel=0.01)


def test_text_encoders_count_in_16_bits(tmp_path: Any) -> None:
    weights = recognize(make_model(tmp_path / "model"))
    found = footprint_of(weights)
    assert found is not None and found.parameters == weights.denoiser_parameters
    vocabularies = 49_408 * POOLED + 32_128 * WIDTH
    assert found.text_bytes == 2
    assert found.text_parameters == pytest.approx(vocabularies, rel=0.05)
