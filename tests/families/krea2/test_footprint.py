"""The footprint of Krea 2's denoiser: counted beside what autograd keeps, and the published model's parameters."""

from typing import Any

import pytest
import torch
from diffusers import Krea2Transformer2DModel

from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks
from lorasmith.families.krea2.family import denoiser_builder, positions
from lorasmith.families.krea2.footprint import denoiser_footprint
from lorasmith.families.krea2.layout import FLOAT32
from tests.families.krea2.miniature import DENOISER

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

    text = torch.ones(1, 1, 3, 24, dtype=torch.bfloat16)
    picture = torch.ones(1, SIDE * SIDE, 16, dtype=torch.bfloat16)
    mask = torch.ones(1, 1, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        (output,) = model(
            picture,
            text,
            torch.tensor([0.5]),
            positions(1, SIDE, SIDE, torch.device("cpu")),
            mask,
            return_dict=False,
        )
    output.float().sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("level", ["none", "elementwise", "feed-forward", "selective", "block"])
def test_activations_are_as_many_as_autograd_keeps(level: Checkpointing, results_kept: list[int]) -> None:
    """The weights of the layers that adapters attach to have gradients here: the layers' inputs are kept, as an
    adapter keeps them."""
    config = {**DENOISER, "num_layers": LAYERS}
    model = Krea2Transformer2DModel(**config)
    for name, parameter in model.named_parameters():
        is_target = name.startswith("transformer_blocks.") and name.endswith(("to_q.weight", "to_gate.weight"))
        is_target |= name.startswith("transformer_blocks.") and name.endswith(("to_out.0.weight", ".down.weight"))
        is_target |= name.startswith("transformer_blocks.") and name.endswith((".gate.weight", ".up.weight"))
        parameter.requires_grad_(is_target)
        if FLOAT32.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(torch.bfloat16)
    checkpoint_blocks(model, level)
    counted = denoiser_footprint(config, 0).kept[level] * 4 * SIDE * SIDE
    assert (kept_by(model) + sum(results_kept)) / 2 == pytest.approx(counted, rel=0.1)


def test_the_published_model_has_its_sizes() -> None:
    """At 1024 x 1024 pixels, batch 1: 35.5 GB are kept in bfloat16, 1.5 GB where whole blocks are computed twice."""
    model: Any = denoiser_builder()({})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = denoiser_footprint(model.config, parameters)
    blocks = model.transformer_blocks.named_parameters()
    assert found.largest_layer == max(weight.numel() for name, weight in blocks if name.endswith("weight"))
    assert (found.parameters, found.text_parameters) == (12_820_073_036, 0)
    assert 2 * 128 * 128 * found.kept["none"] == pytest.approx(35.5e9, rel=0.02)
    assert 2 * 128 * 128 * found.kept["block"] == pytest.approx(1.51e9, rel=0.02)
