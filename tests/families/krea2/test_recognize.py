"""Krea 2 among base models, by its folder."""

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.errors import ModelError
from lorasmith.families import footprint_of, load_family
from lorasmith.families.krea2.family import denoiser_builder
from lorasmith.families.krea2.layout import taps
from lorasmith.families.other_vae import with_vae
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import NoiseRequest, PartFiles
from tests.families.krea2.miniature import make_model, make_split, native_name
from tests.families.qwen_miniature import language_shapes, original_vae_name
from tests.families.tiny import write_header


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_it_is_follows_from_headers_and_configs(folder: Path) -> None:
    weights = recognize(folder)
    assert (weights.family, weights.layout, weights.distilled) == ("krea2", "diffusers", "")
    assert (weights.noise.prediction, weights.resolution) == ("flow", 1024)
    assert (weights.size_multiple, weights.bucket_step, weights.max_clip_skip) == (16, 64, None)
    assert weights.denoiser_parameters is not None and weights.denoiser_parameters > 100_000
    assert recognize(folder, asked=NoiseRequest("flow", "off")).noise.prediction == "flow"


@pytest.mark.parametrize("asked", [NoiseRequest("epsilon"), NoiseRequest("v_prediction"), NoiseRequest("auto", "on")])
def test_another_noise_process_is_refused(folder: Path, asked: NoiseRequest) -> None:
    with pytest.raises(ModelError, match="model_prediction"):
        recognize(folder, asked=asked)


def test_turbo_is_refused_with_the_reason(folder: Path) -> None:
    """Its files have the names and shapes of Raw's: only the pipeline's own config tells them apart."""
    changed(folder / "model_index.json", lambda index: index.update(is_distilled=True))
    for form in ("auto", "base"):
        with pytest.raises(ModelError, match="model_turbo"):
            recognize(folder, form=form)
    assert recognize(folder, form="distilled").distilled == "Turbo"


@pytest.mark.parametrize("missing", ["vae/config.json", "tokenizer", "transformer/diffusion_pytorch_model.safetensors"])
def test_an_incomplete_folder_is_named(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(ModelError, match="model_incomplete"):
        recognize(folder)


WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "a tap too many": ("model_index.json", lambda index: index["text_encoder_select_layers"].append(3)),
    "a tap behind the final norm": (
        "model_index.json",
        lambda index: index.update(text_encoder_select_layers=[1, 2, 5]),
    ),
    "patches": ("model_index.json", lambda index: index.update(patch_size=4)),
    "channels": ("transformer/config.json", lambda config: config.update(in_channels=32)),
    "text": ("transformer/config.json", lambda config: config.update(text_hidden_dim=32)),
    "means": ("vae/config.json", lambda config: config.update(latents_mean=[0.1, 0.2])),
    "deviations": ("vae/config.json", lambda config: config.update(latents_std=["x"] * 4)),
    "levels": ("vae/config.json", lambda config: config.update(temperal_downsample=None)),
    "no text": ("text_encoder/config.json", lambda config: config.pop("text_config")),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_that_do_not_fit_each_other_are_refused(folder: Path, name: str) -> None:
    file, change = WRONG[name]
    changed(folder / file, change)
    with pytest.raises(ModelError, match="model_damaged"):
        recognize(folder)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
def test_a_single_file_is_the_model_with_the_files_beside_it(folder: Path, tmp_path: Path, prefix: str) -> None:
    file = make_split(folder, tmp_path / "models", prefix=prefix)
    weights, whole = recognize(file), recognize(folder)
    assert (weights.family, weights.layout, weights.assumed) == ("krea2", "single_file", "")
    assert {name: part.asked.name for name, part in weights.replaced.items()} == {
        "text_encoder": "qwen3vl_4b.safetensors",
        "vae": "qwen_image_vae.safetensors",
    }
    assert weights.denoiser_parameters == whole.denoiser_parameters
    assert weights.size_multiple == whole.size_multiple and weights.noise == whole.noise


def test_the_published_files_need_nothing_but_headers(tmp_path: Path) -> None:
    """Sparse files of the published sizes: configs follow from shapes, with the constants of the published configs."""
    from diffusers import AutoencoderKLQwenImage

    denoiser = {name: tuple(tensor.shape) for name, tensor in denoiser_builder()({}).state_dict().items()}
    with torch.device("meta"):
        vae = {name: tuple(tensor.shape) for name, tensor in AutoencoderKLQwenImage().state_dict().items()}
    text = {f"model.{name}": shape for name, shape in language_shapes(layers=36, width=2560).items()}
    for folder in ("diffusion_models", "text_encoders", "vae"):
        (tmp_path / folder).mkdir()
    file = write_header(
        tmp_path / "diffusion_models" / "krea2_raw_bf16.safetensors",
        {
            native_name(name): (prod(shape),) if len(shape) == 2 and shape[0] == 6 else shape
            for name, shape in denoiser.items()
        },
    )
    write_header(
        tmp_path / "vae" / "qwen_image_vae.safetensors", {original_vae_name(name, 2): vae[name] for name in vae}
    )
    encoders = tmp_path / "text_encoders"
    write_header(encoders / "qwen3vl_4b_bf16.safetensors", {**text, "visual.merger.norm.weight": (1024,)})
    write_header(encoders / "qwen_3_4b.safetensors", text)  # of Z-Image, with the same names and shapes
    weights = recognize(file)
    assert weights.source("text_encoder").name == "qwen3vl_4b_bf16.safetensors"
    assert weights.denoiser_parameters == 12_820_073_036 and weights.size_multiple == 16
    assert weights.configs["transformer"]["num_layers"] == 28
    assert weights.configs["text_encoder"]["text_config"]["num_hidden_layers"] == 36
    assert weights.configs["scheduler"]["max_shift"] == 1.15 and taps(weights.configs) == tuple(range(2, 36, 3))
    assert footprint_of(weights) is not None
    wrong = encoders / "qwen_3_4b.safetensors"
    with pytest.raises(ModelError, match="part_other"):
        recognize(file, parts=PartFiles(text_encoders=(wrong,)))


def test_raw_is_known_by_its_name_alone(folder: Path, tmp_path: Path) -> None:
    assert recognize(make_split(folder, tmp_path / "models", name="mine")).assumed == "Krea 2 Raw"
    turbo = make_split(folder, tmp_path / "models", name="Krea2_Turbo_bf16")
    with pytest.raises(ModelError, match="model_turbo"):
        recognize(turbo)
    distilled, base = (recognize(turbo, form=form) for form in ("distilled", "base"))
    assert (distilled.distilled, distilled.assumed) == ("Turbo", "") == (base.assumed + "Turbo", base.distilled)
    assert recognize(make_split(folder, tmp_path / "models", name="mine"), form="distilled").distilled == "Turbo"


def test_a_pickle_of_it_is_refused(tmp_path: Path) -> None:
    torch.save({"txtfusion.projector.weight": torch.zeros(1, 12)}, tmp_path / "krea2.ckpt")
    with pytest.raises(ModelError, match="model_form_unread") as error:
        load_family(recognize(tmp_path / "krea2.ckpt"))
    assert error.value.fields["found"] == "Krea 2"


def test_a_vae_may_take_the_place_of_a_folders(folder: Path) -> None:
    weights = recognize(folder, parts=PartFiles(vae=folder / "vae"))
    assert weights.source("vae") == folder / "vae" and weights.source("text_encoder") == folder
    with pytest.raises(ModelError, match="vae_fixed"):
        with_vae(recognize(folder), folder / "vae")
