"""The configs of the made SDXL of full size are those of the published model."""

import pytest

from lorasmith.demo.sdxl_layout import sdxl_configs
from lorasmith.families.sdxl.layout import usual_config


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_the_full_size_is_the_published_model(component: str) -> None:
    ours, published = sdxl_configs("sdxl", 49_408)[component], usual_config(component)
    shared = ours.keys() & published.keys()
    assert len(shared) >= 10
    assert {name: ours[name] for name in shared} == {name: published[name] for name in shared}
