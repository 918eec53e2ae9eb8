"""The formula against torch's own counter, which runs the model."""

import torch
from diffusers import Flux2Transformer2DModel
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.families.flow_transformer import grid_positions
from lorasmith.families.flux2_klein.family import join_projections, text_positions
from lorasmith.families.flux2_klein.work import denoiser_work
from tests.families.flux2_klein.miniature import DENOISER

META = torch.device("meta")


def test_the_forward_pass_is_counted_as_torch_does() -> None:
    with META, FlopCounterMode(display=False) as counter:
        model = Flux2Transformer2DModel(**DENOISER)
        join_projections(model)
        model(
            torch.ones(1, 4 * 6, 16),
            torch.ones(1, 5, 48),
            torch.tensor([0.5]),
            pad(grid_positions(4, 6, META), (0, 1)),
            text_positions(5, META),
        )
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    work = denoiser_work(shapes, picture=4 * 6, text=5)
    assert sum(layer.flop for layer in work.layers.values()) + work.attention == counter.get_total_flops()
    assert [name for name, layer in work.layers.items() if layer.sees_text] == ["context_embedder"]
