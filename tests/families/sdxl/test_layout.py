"""Where Stable Diffusion XL keeps its components."""

import pytest

from lorasmith.families.sdxl.layout import usual_config


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "text_encoder_2", "scheduler"])
def test_a_config_is_a_copy_of_its_own(component: str) -> None:
    usual_config(component)["changed"] = True
    assert "changed" not in usual_config(component)
