"""The formula against torch's own counter, which runs the model."""

import torch
from diffusers import FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.families.flow_transformer import grid_positions
from lorasmith.families.flux1.work import denoiser_work
from tests.families.flux1.miniature import DENOISER, POOLED, WIDTH

META = torch.device("meta")


def test_the_forward_pass_is_counted_as_torch_does() -> None:
    with META, FlopCounterMode(display=False) as counter:
        model = FluxTransformer2DModel(**DENOISER)
        model(
            torch.ones(1, 4 * 6, 16),
            torch.ones(1, 5, WIDTH),
            torch.ones(1, POOLED),
            torch.tensor([0.5]),
            grid_positions(4, 6, META),
            torch.zeros(5, 3),
            torch.ones(1),
        )
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    work = denoiser_work(shapes, picture=4 * 6, text=5)
    assert sum(layer.flop for layer in work.layers.values()) + work.attention == counter.get_total_flops()
    assert [name for name, layer in work.layers.items() if layer.sees_text] == ["context_embedder"]
