"""The formula against torch's own counter, which runs the model."""

import torch
from diffusers import Krea2Transformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.families.krea2.family import positions
from lorasmith.families.krea2.work import Sizes, denoiser_work
from tests.families.krea2.miniature import DENOISER


def test_the_forward_pass_is_counted_as_torch_does() -> None:
    sizes = Sizes(picture=4 * 6, text=5, taps=3, width=24)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = Krea2Transformer2DModel(**DENOISER)
        model(
            torch.ones(1, sizes.picture, 16),
            torch.ones(1, sizes.text, sizes.taps, sizes.width),
            torch.tensor([0.5]),
            positions(sizes.text, 4, 6, torch.device("meta")),
            torch.ones(1, sizes.text, dtype=torch.bool),
        )
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    work = denoiser_work(shapes, sizes)
    assert sum(layer.flop for layer in work.layers.values()) + work.attention == counter.get_total_flops()
