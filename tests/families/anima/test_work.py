"""The formula against torch's own counter, which runs the model."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.families.anima.family import denoiser_builder
from lorasmith.families.anima.work import denoiser_work
from tests.families.anima.miniature import DENOISER


def test_the_forward_pass_is_counted_as_torch_does() -> None:
    model = denoiser_builder()(DENOISER)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model(torch.ones(1, 5, 1, 8, 12), torch.tensor([0.5]), torch.ones(1, 512, 24))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    work = denoiser_work(shapes, picture=4 * 6, text=512)
    assert sum(layer.flop for layer in work.layers.values()) + work.attention == counter.get_total_flops()
    assert {name.rpartition(".")[2] for name, layer in work.layers.items() if layer.sees_text} == {"to_k", "to_v"}
