"""The formula against torch's own counter, which runs the model."""

import torch
from diffusers import ZImageTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.families.zimage.denoiser import forward
from lorasmith.families.zimage.work import denoiser_work
from tests.families.zimage.miniature import DENOISER


def test_the_forward_pass_is_counted_as_torch_does() -> None:
    """36 tokens of a picture are filled up to 64, 5 of a caption to 32."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = ZImageTransformer2DModel(**DENOISER)
        text, is_text = torch.ones(1, 32, 24), torch.ones(1, 32, dtype=torch.bool)
        forward(model, torch.ones(1, 4, 8, 18), torch.tensor([0.5]), text, is_text)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    work = denoiser_work(shapes, picture=36, text=5)
    assert sum(layer.flop for layer in work.layers.values()) + work.attention == counter.get_total_flops()
