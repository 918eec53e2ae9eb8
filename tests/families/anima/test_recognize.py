"""Anima among base models, by its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import NoiseRequest
from tests.families.anima.miniature import make_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_it_is_follows_from_headers_and_configs(folder: Path) -> None:
    weights = recognize(folder)
    assert (weights.family, weights.layout, weights.distilled) == ("anima", "diffusers", "")
    assert (weights.noise.prediction, weights.resolution) == ("flow", 1024)
    assert (weights.size_multiple, weights.bucket_step, weights.max_clip_skip) == (16, 64, None)
    assert weights.denoiser_parameters is not None and weights.denoiser_parameters > 50_000
    with pytest.raises(ModelError, match="model_prediction"):
        recognize(folder, asked=NoiseRequest("epsilon"))
    (folder / "modular_model_index.json").rename(folder / "model_index.json")
    assert recognize(folder).family == "anima"


@pytest.mark.parametrize("missing", ["text_conditioner/config.json", "t5_tokenizer", "transformer"])
def test_an_incomplete_folder_is_named(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(ModelError, match="model_incomplete"):
        recognize(folder)


WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "patches": ("transformer", lambda config: config.update(patch_size=[1, 4, 4])),
    "learned positions": ("transformer", lambda config: config.pop("extra_pos_embed_type")),
    "no padding mask": ("transformer", lambda config: config.update(concat_padding_mask=False)),
    "channels": ("transformer", lambda config: config.update(in_channels=16)),
    "text": ("transformer", lambda config: config.update(text_embed_dim=32)),
    "states": ("text_conditioner", lambda config: config.update(source_dim=32)),
    "T5's vocabulary": ("text_conditioner", lambda config: config.update(target_vocab_size=32_000)),
    "length of texts": ("text_conditioner", lambda config: config.update(min_sequence_length=256)),
    "means": ("vae", lambda config: config.update(latents_mean=[0.1, 0.2])),
    "levels": ("vae", lambda config: config.update(temperal_downsample=None)),
    "vocabulary": ("text_encoder", lambda config: config.pop("vocab_size")),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_that_do_not_fit_each_other_are_refused(folder: Path, name: str) -> None:
    component, change = WRONG[name]
    changed(folder / component / "config.json", change)
    with pytest.raises(ModelError, match="model_damaged"):
        recognize(folder)
