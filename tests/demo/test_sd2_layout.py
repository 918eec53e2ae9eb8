"""The configs of the made SD 2 of full size are those of the published model."""

import pytest

from lorasmith.demo.sd2_layout import sd2_configs
from lorasmith.families.sd2.layout import usual_config

# Numbers of special tokens, which published folders have as they are in OpenCLIP, and of what no UNet here reads.
OTHERS = {"bos_token_id", "eos_token_id", "pad_token_id", "projection_dim"}


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_the_full_size_is_the_published_model(component: str) -> None:
    ours, published = sd2_configs("sd2", 49_408)[component], usual_config(component)
    shared = (ours.keys() & published.keys()) - OTHERS
    assert len(shared) >= 9
    assert {name: ours[name] for name in shared} == {name: published[name] for name in shared}
