"""Qwen-Image 2.1 among base models, by its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.base import ModelFamily
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import NoiseRequest
from tests.families.qwen_image21.miniature import make_model, make_split


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("qwen_image21") / "model")


@pytest.fixture
def folder(unchanged: Path, tmp_path: Path) -> Path:
    """A copy whose configs may be changed."""
    for file in unchanged.rglob("*"):
        place = tmp_path / file.relative_to(unchanged)
        if file.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    return tmp_path


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_it_is_follows_from_headers_and_configs(unchanged: Path) -> None:
    weights = recognize(unchanged)
    assert (weights.family, weights.layout, weights.distilled) == ("qwen_image21", "diffusers", "")
    assert (weights.noise.prediction, weights.resolution) == ("flow", 1024)
    assert (weights.size_multiple, weights.bucket_step, weights.max_clip_skip) == (32, 64, None)
    assert weights.denoiser_parameters is not None and weights.denoiser_parameters > 20_000


def test_another_noise_process_is_refused(unchanged: Path) -> None:
    with pytest.raises(ModelError, match="model_prediction"):
        recognize(unchanged, asked=NoiseRequest("epsilon"))


def test_levels_of_few_steps_show_that_it_was_distilled(folder: Path) -> None:
    index = folder / "model_index.json"
    changed(index, lambda index: index.update(sample_sigmas=[1 - number / 40 for number in range(40)]))
    assert recognize(folder).family == "qwen_image21"
    changed(index, lambda index: index.update(sample_sigmas=[1.0, 0.75, 0.5, 0.25]))
    with pytest.raises(ModelError, match="model_turbo"):
        recognize(folder)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
def test_comfyuis_files_hold_the_tensors_of_the_folder(unchanged: Path, tmp_path: Path, prefix: str) -> None:
    weights, whole = recognize(make_split(unchanged, tmp_path / "models", prefix=prefix)), recognize(unchanged)
    assert (weights.family, weights.layout, weights.assumed) == ("qwen_image21", "single_file", "")
    assert {name: part.asked.name for name, part in weights.replaced.items()} == {
        "text_encoder": "qwen3vl_8b_bf16.safetensors",
        "vae": "qwen_image_2.1_vae_bf16.safetensors",
    }
    assert weights.size_multiple == whole.size_multiple and weights.noise == whole.noise
    assert weights.denoiser_parameters == whole.denoiser_parameters
    both = [_tensors(load_family(one)) for one in (weights, whole)]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(both[0][name], tensor) for name, tensor in both[1].items())


def _tensors(family: ModelFamily) -> dict[str, torch.Tensor]:
    models = {
        **family.load_encoders(torch.device("cpu")),
        **family.load_models(trained=[], dtype=torch.bfloat16, to=torch.device("cpu")),
    }
    return {f"{name}.{key}": tensor for name, model in models.items() for key, tensor in model.state_dict().items()}


def test_a_name_of_a_distilled_model_is_refused(unchanged: Path, tmp_path: Path) -> None:
    for name in ("Qwen-Image-2.1-Turbo", "qwen_image_2.1_lightning_8steps"):
        with pytest.raises(ModelError, match="model_turbo"):
            recognize(make_split(unchanged, tmp_path / name, name=name))


@pytest.mark.parametrize("missing", ["vae/config.json", "processor", "transformer/diffusion_pytorch_model.safetensors"])
def test_an_incomplete_folder_is_named(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(ModelError, match="model_incomplete"):
        recognize(folder)


WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "three channels": ("vae/config.json", lambda config: config.update(in_channels=3)),
    "means": ("vae/config.json", lambda config: config.update(latents_mean=[0.1, 0.2])),
    "deviations": ("vae/config.json", lambda config: config.update(latents_std=["x"] * 8)),
    "levels": ("vae/config.json", lambda config: config.update(temperal_downsample=[True])),
    "patches in the VAE": ("vae/config.json", lambda config: config.update(patch_size=2)),
    "channels": ("transformer/config.json", lambda config: config.update(in_channels=32)),
    "patches": ("transformer/config.json", lambda config: config.update(patch_size=2)),
    "text with a level": ("transformer/config.json", lambda config: config.update(causal_condition=False)),
    "text": ("transformer/config.json", lambda config: config.update(context_in_dim=32)),
    "no text": ("text_encoder/config.json", lambda config: config.pop("text_config")),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_that_do_not_fit_each_other_are_refused(folder: Path, name: str) -> None:
    file, change = WRONG[name]
    changed(folder / file, change)
    with pytest.raises(ModelError, match="model_damaged"):
        recognize(folder)
