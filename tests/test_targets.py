"""A layer by its place: found at any depth, and replaced there."""

import pytest
from torch import nn

from lorasmith.targets import TargetModule


@pytest.mark.parametrize("path", ["0", "1.0"])
def test_a_layer_is_found_and_replaced_at_any_depth(path: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3)))
    target = TargetModule.inside(model, path, name=f"denoiser.{path}", component="denoiser")
    assert target.module is model.get_submodule(path)
    other = nn.Linear(2, 3)
    target.replace_with(other)
    assert model.get_submodule(path) is other and target.module is other
