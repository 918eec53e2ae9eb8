"""The footprint of Anima's denoiser: counted beside what autograd keeps, and the published model's parameters."""

from typing import Any

import pytest
import torch

from lorasmith.families.anima.family import denoiser_builder
from lorasmith.families.anima.footprint import denoiser_footprint
from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks
from lorasmith.session.name_tables import name_table
from tests.families.anima.miniature import DENOISER
from tests.families.anima.published import PUBLISHED

SIDE = 24  # tokens
LAYERS = 6


def kept_by(model: Any) -> int:
    """The bytes of activations that a forward pass keeps."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    text = torch.ones(1, 512, DENOISER["text_embed_dim"], dtype=torch.bfloat16)
    picture = torch.ones(1, 5, 1, 2 * SIDE, 2 * SIDE, dtype=torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        (output,) = model(picture, torch.tensor([0.5]), text, return_dict=False)
    output.float().sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("level", ["none", "elementwise", "feed-forward", "selective", "block"])
def test_activations_are_as_many_as_autograd_keeps(level: Checkpointing, results_kept: list[int]) -> None:
    """The weights of the layers that adapters attach to have gradients here: the layers' inputs are kept, as an
    adapter keeps them."""
    config = {**DENOISER, "num_layers": LAYERS}
    model: Any = denoiser_builder()(config).to_empty(device="cpu")
    chosen = {row.target for row in name_table("anima").targets.values() if row.preset}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f"denoiser.{name.removesuffix('.weight')}" in chosen)
        parameter.data = torch.ones_like(parameter, dtype=torch.bfloat16)
    checkpoint_blocks(model, level)
    footprint = denoiser_footprint(config, 0)
    text = footprint.text_pixels if level not in ("selective", "block") else 0
    counted = footprint.kept[level] * (4 * SIDE * SIDE + text)
    assert (kept_by(model) + sum(results_kept)) / 2 == pytest.approx(counted, rel=0.1)


def test_the_published_model_has_its_sizes() -> None:
    """At 1024 x 1024 pixels, batch 1: 13.6 GB are kept in bfloat16, 0.5 GB where whole blocks are computed twice."""
    model: Any = denoiser_builder()(PUBLISHED)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = denoiser_footprint(PUBLISHED, parameters)
    blocks = model.transformer_blocks.named_parameters()
    assert found.largest_layer == max(weight.numel() for name, weight in blocks if name.endswith("weight"))
    assert found.parameters == 1_956_405_248
    assert 2 * 128 * 128 * found.kept["none"] == pytest.approx(13.6e9, rel=0.02)
    assert 2 * 128 * 128 * found.kept["block"] == pytest.approx(0.487e9, rel=0.02)
