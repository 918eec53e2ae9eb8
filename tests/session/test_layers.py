"""The choice of layers: by the published names of the families, and the sizes that follow."""

from collections import Counter
from typing import Any

import pytest

from lorasmith.config import AdapterConfig
from lorasmith.errors import ConfigError
from lorasmith.session.layers import LayerSize, chosen_layers, published_layers

ALL = published_layers("sd15", with_text_encoders=True)
DENOISER = published_layers("sd15", with_text_encoders=False)


def sizes(**settings: Any) -> Counter[LayerSize]:
    return Counter(chosen_layers(AdapterConfig(**settings), ALL).values())


def refusal(**settings: Any) -> str:
    config = AdapterConfig(**settings)
    with pytest.raises(ConfigError) as caught:
        chosen_layers(config, ALL if config.train_text_encoder else DENOISER)
    return caught.value.code


def test_convolutions_have_a_rank_of_their_own_and_1x1_ones_do_not() -> None:
    """As in sd-scripts: time embeddings and shortcuts of the convolutional blocks have the rank of all others."""
    assert len(DENOISER) == 278 and len(ALL) == 278 + 72
    assert sizes(rank=8, alpha=2.0) == {(8, 2.0): 192 + 72}
    assert sizes(rank=8, alpha=2.0, conv_rank=4) == {(8, 2.0): 228 + 72, (4, 4.0): 50}
    assert sizes(rank=8, conv_rank=8, conv_alpha=1.0) == {(8, 8.0): 228 + 72, (8, 1.0): 50}
    chosen = chosen_layers(AdapterConfig(conv_rank=4), DENOISER)
    assert {ALL[name].kernel for name, size in chosen.items() if size.rank == 4} == {(3, 3)}
    assert list(chosen) == list(DENOISER)


def test_an_alpha_of_convolutions_that_are_not_trained() -> None:
    assert refusal(conv_alpha=2.0) == "conv_rank_unused"
