"""Loads the models of a run, their frozen weights in the form that its settings name."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from lorasmith.config import ModelConfig
from lorasmith.engine.device import Device
from lorasmith.engine.stored import store_frozen
from lorasmith.families.base import ModelFamily


def load_frozen(
    config: ModelConfig, family: ModelFamily, *, trained: Collection[str], dtype: torch.dtype, device: Device
) -> dict[str, nn.Module]:
    """ "denoiser", and the text encoders named in `trained`.

    What is kept in another form goes to the device layer by layer: a GPU never holds the whole in the run's precision.
    """
    if config.base_precision == "auto" and not config.base_offload:
        return family.load_models(trained=trained, dtype=dtype, device=device.torch_device)
    models = family.load_models(trained=trained, dtype=dtype, device=torch.device("cpu"))
    for model in models.values():
        store_frozen(model, config.base_precision, device.torch_device, offload=config.base_offload)
    device.release_memory()
    return models
