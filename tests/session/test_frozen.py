"""The models of a run, their weights in the form of the settings."""

import pytest
import torch
from torch import nn

from lorasmith.config import ModelConfig
from lorasmith.engine.device import choose_device
from lorasmith.engine.stored import StoredConv2d, StoredLinear
from lorasmith.families.loading import Destination
from lorasmith.session.frozen import load_frozen


class Family:
    """Loads a model of two layers."""

    def load_models(self, *, trained: tuple[str, ...], dtype: torch.dtype, to: Destination) -> dict[str, nn.Module]:
        return {name: self._loaded(dtype, to) for name in ("denoiser", *trained)}

    def _loaded(self, dtype: torch.dtype, to: Destination) -> nn.Module:
        model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.LayerNorm(4), nn.Linear(4, 4)).requires_grad_(False).to(dtype)
        if isinstance(to, torch.device):
            return model.to(to)
        into = to(model)
        for name, tensor in model.state_dict().items():
            into.put(name, tensor)
        into.finish()
        return model


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({}, (nn.Conv2d, nn.Linear)),
        ({"base_precision": "int8"}, (StoredConv2d, StoredLinear)),
        ({"base_offload": 1.0}, (StoredConv2d, StoredLinear)),
    ],
)
def test_layers_are_as_the_settings_say(values: dict[str, object], kinds: tuple[type[nn.Module], ...]) -> None:
    config = ModelConfig.model_validate(values)
    device = choose_device("cpu", threads=1)
    models = load_frozen(config, Family(), trained=("text_encoder",), dtype=torch.bfloat16, device=device)
    assert list(models) == ["denoiser", "text_encoder"]
    for model in models.values():
        assert (type(model[0]), type(model[2])) == kinds
        assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
