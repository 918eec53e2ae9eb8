"""The formula against torch's own counter, which runs the model."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.demo.miniature import _configs
from lorasmith.families.unet_work import unet_work

SIDES = [(32, 32), (24, 40), (22, 26)]


@pytest.mark.parametrize(
    ("family", "size", "side"),
    [
        *(("sd15", "nano", side) for side in SIDES),
        ("sd15", "sd15", SIDES[-1]),
        *(pytest.param("sd15", "sd15", side, marks=pytest.mark.ci) for side in SIDES[:-1]),
        *(pytest.param("sdxl", "sdxl", side, marks=pytest.mark.ci) for side in SIDES),
    ],
)
def test_the_forward_pass_is_counted_as_torch_does(family, size, side: tuple[int, int]) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(_configs(family, size, 49408)["unet"])
        text = torch.randn(1, 154, unet.config.cross_attention_dim)
        added = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)} if family == "sdxl" else None
        with FlopCounterMode(display=False) as counter:
            unet(torch.randn(1, 4, *side), torch.tensor([1]), text, added_cond_kwargs=added)
    shapes = {name: tuple(parameter.shape) for name, parameter in unet.named_parameters()}
    work = unet_work(shapes, height=side[0], width=side[1], tokens=154)
    assert sum(layer.flop for layer in work.layers.values()) + work.attention == counter.get_total_flops()
