"""Models in memory whose weights are brought into another form, as if they were read."""

import torch
from torch import nn

from lorasmith.engine.stored import FrozenStore


def store(model: nn.Module, form: str, *, offload: float = 0.0) -> None:
    """Replaces the linear layers and convolutions inside `model`, on a CPU."""
    model.requires_grad_(False)
    frozen = FrozenStore(model, form, torch.device("cpu"), offload=offload)
    for name, tensor in model.state_dict().items():
        frozen.put(name, tensor)
    frozen.finish()
