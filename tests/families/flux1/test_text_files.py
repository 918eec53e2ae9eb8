"""CLIP-L and T5-XXL in files of their own, against the libraries' own classes at their published sizes."""

from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lorasmith.families.clip import text_builder
from lorasmith.families.flux1.text import t5_builder
from lorasmith.families.flux1.text_files import clip_config, find_clip, find_t5, t5_config, t5_names
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at

DENOISER = {"joint_attention_dim": 4096, "pooled_projection_dim": 768}
T5 = {
    "d_model": 4096,
    "d_ff": 10_240,
    "num_heads": 64,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
}
CLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "eos_token_id": 2, "bos_token_id": 0}


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "text_encoders.t5xxl.transformer."])
def test_t5_is_found_and_its_config_follows(prefix: str) -> None:
    settings: dict[str, Any] = {**T5, "tie_word_embeddings": False}
    with torch.device("meta"):
        published = T5EncoderModel(T5Config(**settings))
    stored = {prefix + name: shape for name, shape in shapes_of(published).items()}
    stored.pop(f"{prefix}encoder.embed_tokens.weight")
    found = shapes_at(find_t5(stored), stored)
    config = t5_config(found, DENOISER)
    assert shapes_of(t5_builder()(config)) == found
    expected = published.config.to_dict()
    assert {name: expected[name] for name in config} == config
    with pytest.raises(UnusualShapesError):
        t5_config(found, {"joint_attention_dim": 2048})
    assert not find_clip(stored)


def test_the_table_of_tokens_has_either_name() -> None:
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        assert t5_names([name, "encoder.block.0.x"]) == {"embed_tokens.weight": name, "block.0.x": "encoder.block.0.x"}


@pytest.mark.parametrize("prefix", ["", "text_encoders.clip_l.transformer."])
def test_clip_is_found_and_its_config_follows(prefix: str) -> None:
    with torch.device("meta"):
        published = CLIPTextModel(CLIPTextConfig(**CLIP))
    named = {f"text_model.{name.removeprefix('text_model.')}": shape for name, shape in shapes_of(published).items()}
    stored = {prefix + name: shape for name, shape in named.items()}
    beside = {f"{prefix}text_projection.weight": (768, 768), f"{prefix}text_model.embeddings.position_ids": (1, 77)}
    found = shapes_at(find_clip({**stored, **beside}), stored)
    assert found == named
    config = clip_config(found, DENOISER)
    built = shapes_of(text_builder()(config))
    assert {f"text_model.{name.removeprefix('text_model.')}": shape for name, shape in built.items()} == found
    expected = published.config.to_dict()
    unused = ("projection_dim", "dropout", "initializer_factor")
    assert {name: expected[name] for name in config if name not in unused} == {
        name: value for name, value in config.items() if name not in unused
    }
    with pytest.raises(UnusualShapesError):
        clip_config(found, {"pooled_projection_dim": 1280})
    assert not find_t5(stored)
