"""The footprint of FLUX.2's denoiser: counted beside what autograd keeps, and the published models' sizes."""

from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from torch.nn.functional import pad

from lorasmith.config import AdapterConfig
from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks
from lorasmith.families.flow_transformer import grid_positions
from lorasmith.families.flux2_klein.family import join_projections, text_positions
from lorasmith.families.flux2_klein.footprint import denoiser_footprint
from lorasmith.session.layers import chosen_layers, published_layers
from tests.families.flux2_klein.miniature import DENOISER
from tests.families.flux2_klein.test_layout import published

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

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        (output,) = model(
            torch.ones(1, SIDE * SIDE, 16, dtype=torch.bfloat16),
            torch.ones(1, TEXT, 48, dtype=torch.bfloat16),
            torch.tensor([0.5]),
            pad(grid_positions(SIDE, SIDE, CPU), (0, 1)),
            text_positions(TEXT, CPU),
            return_dict=False,
        )
    output.float().sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("level", ["none", "elementwise", "feed-forward", "selective", "block"])
def test_activations_are_as_many_as_autograd_keeps(level: Checkpointing, results_kept: list[int]) -> None:
    """The weights of the layers that adapters attach to have gradients here: the layers' inputs are kept, as an
    adapter keeps them. A text takes as much as a picture of as many tokens."""
    config = {**DENOISER, "num_layers": 3, "num_single_layers": 6, "num_attention_heads": 4}
    model = Flux2Transformer2DModel(**config)
    join_projections(model)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
        parameter.requires_grad_("transformer_blocks." in name and ".norm_" not in name)
    checkpoint_blocks(model, level, feed_forwards=("ff", "ff_context"))
    counted = denoiser_footprint(config, 0).kept[level] * 4 * (SIDE * SIDE + TEXT)
    assert (kept_by(model) + sum(results_kept)) / 2 == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(("size", "gigabytes"), [("4B", 17.6), ("9B", 30.0)])
def test_the_published_models_have_their_sizes(size: str, gigabytes: float) -> None:
    """At 1024 x 1024 pixels, batch 1, in bfloat16."""
    model = published(size)
    found = denoiser_footprint(model.config, 0)
    blocks = model.single_transformer_blocks.named_parameters()
    assert found.largest_layer == max(weight.numel() for name, weight in blocks if name.endswith("weight"))
    assert 2 * (128 * 128 + found.text_pixels) * found.kept["none"] == pytest.approx(gigabytes * 1e9, rel=0.01)


def test_an_adapter_of_4b_is_counted_by_its_own_width_and_depth() -> None:
    """The table of layers is that of 9B."""
    config = published("4B").config
    width, doubles, singles = 3072, config["num_layers"], config["num_single_layers"]
    double = 2 * ((width + 3 * width) + (width + width) + (width + 6 * width) + (3 * width + width))
    single = (width + 9 * width) + (4 * width + width)
    depths = {"denoiser.transformer_blocks": doubles, "denoiser.single_transformer_blocks": singles}
    layers = published_layers("flux2_klein", with_text_encoders=False, depths=depths)
    trained = [layers[name] for name in chosen_layers(AdapterConfig(), "flux2_klein", layers)]
    by_table = sum(layer.inputs + layer.outputs for layer in trained)
    relative = denoiser_footprint(config, 0).relative_width
    assert relative * by_table == doubles * double + singles * single
