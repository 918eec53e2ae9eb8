"""The models of a run: in which form their frozen weights are kept, and which activations are computed twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import torch
from torch import nn

from lorasmith.config import ModelConfig, TrainingConfig
from lorasmith.engine.device import Device
from lorasmith.engine.stored import FrozenStore
from lorasmith.families.base import ModelFamily


def load_frozen(
    config: ModelConfig, family: ModelFamily, *, trained: Collection[str], dtype: torch.dtype, device: Device
) -> dict[str, nn.Module]:
    """ "denoiser", and the text encoders named in `trained`.

    What is kept in another form is brought into it as it is read: no memory ever holds the whole in the run's
    precision.
    """
    where = device.torch_device
    if config.base_precision == "auto" and not config.base_offload:
        return family.load_models(trained=trained, dtype=dtype, to=where)
    store = partial(FrozenStore, form=config.base_precision, device=where, offload=config.base_offload)
    models = family.load_models(trained=trained, dtype=dtype, to=store)
    device.release_memory()
    return models


def form_of_frozen(config: ModelConfig, device: Device, *, precision: str) -> str:
    """The form of the frozen weights as far as bits depend on it. On a CPU the layers of an offloaded base compute as
    those of a stored base do, not as those that `engine.cpu` makes."""
    is_plain = config.base_precision == "auto" and config.base_offload > 0 and device.torch_device.type == "cpu"
    return precision if is_plain else config.base_precision


def set_checkpointing(
    config: TrainingConfig, family: ModelFamily, models: Mapping[str, nn.Module], every_block: bool
) -> None:
    """Sets which activations are computed twice: those of the settings, or of every block since memory ran out."""
    level = config.gradient_checkpointing
    family.set_checkpointing(models, "block" if every_block and not config.checkpoints_blocks else level)
