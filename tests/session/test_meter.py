"""Operations of a step: against torch's counter on the step itself, with the layers of the libraries."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.data.types import LATENTS, CachedExample
from lorasmith.families import load_family
from lorasmith.families.recognize import recognize
from lorasmith.session.meter import Meter, shapes_of

RANK = 4


@pytest.mark.parametrize("has_convolutions", [False, True])
def test_a_step_is_counted_as_torch_does(base_model, has_convolutions: bool) -> None:
    family = load_family(recognize(base_model))
    models = family.load_models(trained=(), dtype=torch.float32, to=torch.device("cpu"))
    shapes = shapes_of(models)
    targets = [target for target in family.target_modules(models) if has_convolutions or not target.spec.has_neighbours]
    settings = {target.name: LayerSettings(RANK, RANK) for target in targets}
    adapter = FlatAdapter.attach(adapter_kind("lora", {}), targets, settings, seed=1)
    adapter.set_training(True)
    denoiser: Any = models["denoiser"]
    width = denoiser.config.cross_attention_dim
    inputs = {LATENTS: torch.randn(4, 8, 12), "prompt_embeds": torch.randn(77, width)}
    meter = Meter(partial(family.forward_work, shapes), adapter, [CachedExample(inputs)])
    conditioning = {"prompt_embeds": inputs["prompt_embeds"][None]}
    latents = inputs[LATENTS][None].requires_grad_()  # sd-scripts asks for this gradient; the formula counts it
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it does not know the CPU's own form
        family.predict(models, latents, torch.tensor([500]), conditioning).square().sum().backward()
    assert meter.flop([0]) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert meter.flop([0, 0]) == 2 * meter.flop([0])
