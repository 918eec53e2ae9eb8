"""Z-Image among base models, by its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.other_vae import with_vae
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import NoiseRequest
from tests.families.zimage.miniature import make_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_it_is_follows_from_headers_and_configs(folder: Path) -> None:
    weights = recognize(folder)
    assert (weights.family, weights.layout, weights.distilled) == ("zimage", "diffusers", "")
    assert (weights.noise.prediction, weights.resolution) == ("flow", 1024)
    assert (weights.size_multiple, weights.bucket_step, weights.max_clip_skip) == (16, 64, None)
    assert weights.denoiser_parameters is not None and weights.denoiser_parameters > 50_000
    assert recognize(folder, asked=NoiseRequest("flow", "off")).noise.prediction == "flow"


@pytest.mark.parametrize("asked", [NoiseRequest("epsilon"), NoiseRequest("v_prediction"), NoiseRequest("auto", "on")])
def test_another_noise_process_is_refused(folder: Path, asked: NoiseRequest) -> None:
    with pytest.raises(ModelError, match="model_prediction"):
        recognize(folder, asked=asked)


@pytest.mark.parametrize("sign", ["the folder's name", "the name in its index", "the shift"])
def test_turbo_is_refused_with_the_reason(folder: Path, sign: str) -> None:
    """Its files have the names and shapes of the base's: only names and the shift of its scheduler tell them apart."""
    if sign == "the folder's name":
        folder = folder.rename(folder.with_name("Z-Image-Turbo"))
    elif sign == "the shift":
        changed(folder / "scheduler" / "scheduler_config.json", lambda config: config.update(shift=3.0))
    else:
        changed(folder / "model_index.json", lambda index: index.update(_name_or_path="Tongyi-MAI/Z-Image-Turbo"))
    with pytest.raises(ModelError, match="model_turbo") as caught:
        recognize(folder)
    assert caught.value.fields["base"] == "Z-Image"


@pytest.mark.parametrize("missing", ["vae/config.json", "tokenizer", "transformer/diffusion_pytorch_model.safetensors"])
def test_an_incomplete_folder_is_named(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(ModelError, match="model_incomplete"):
        recognize(folder)


WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "channels": ("transformer/config.json", lambda config: config.update(in_channels=16)),
    "patches": ("transformer/config.json", lambda config: config.update(all_patch_size=[2, 4])),
    "frames": ("transformer/config.json", lambda config: config.update(all_f_patch_size=[2])),
    "pictures as conditions": ("transformer/config.json", lambda config: config.update(siglip_feat_dim=1152)),
    "text": ("transformer/config.json", lambda config: config.update(cap_feat_dim=32)),
    "levels": ("vae/config.json", lambda config: config.update(block_out_channels=None)),
    "no shift of latents": ("vae/config.json", lambda config: config.update(shift_factor=None)),
    "no vocabulary": ("text_encoder/config.json", lambda config: config.pop("vocab_size")),
    "no layers": ("text_encoder/config.json", lambda config: config.update(num_hidden_layers="4")),
    "shift": ("scheduler/scheduler_config.json", lambda config: config.update(shift=0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_that_do_not_fit_each_other_are_refused(folder: Path, name: str) -> None:
    file, change = WRONG[name]
    changed(folder / file, change)
    with pytest.raises(ModelError, match="model_damaged") as caught:
        recognize(folder)
    assert str(caught.value.fields["where"]).startswith(file)


def test_its_vae_stays(folder: Path) -> None:
    with pytest.raises(ModelError, match="vae_fixed"):
        with_vae(recognize(folder), folder / "vae")
