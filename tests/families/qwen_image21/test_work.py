"""The formula against torch's own counter, which runs the model."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.families.qwen_image21.denoiser import denoiser_builder, velocity
from lorasmith.families.qwen_image21.work import denoiser_work
from tests.families.qwen_image21.miniature import DENOISER


def test_the_forward_pass_is_counted_as_torch_does() -> None:
    model = denoiser_builder()(DENOISER).to("meta")
    text = 5
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        mask = torch.ones(1, text, dtype=torch.bool)
        velocity(model, torch.ones(1, 4 * 6, 8), torch.tensor([0.5]), torch.ones(1, text, 24), mask, (4, 6))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    work = denoiser_work(shapes, picture=4 * 6, text=text)
    assert sum(layer.flop for layer in work.layers.values()) + work.attention == counter.get_total_flops()
