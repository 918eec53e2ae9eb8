"""Z-Image among base models, by its folder and by its files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.recognize import recognize
from lorasmith.families.stored_tensors import read_component
from lorasmith.families.weights import NoiseRequest, PartFiles, RequestedForm
from lorasmith.lora_files.training_adapter import with_training_adapter
from tests.families.tiny import write_header
from tests.families.zimage.miniature import make_model, make_split
from tests.families.zimage.turbo import write_adapter


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
    assert not weights.needs_adapter
    assert (weights.noise.prediction, weights.resolution) == ("flow", 1024)
    assert (weights.size_multiple, weights.bucket_step, weights.max_clip_skip) == (16, 64, None)
    assert weights.denoiser_parameters is not None and weights.denoiser_parameters > 50_000
    assert recognize(folder, asked=NoiseRequest("flow", "off")).noise.prediction == "flow"


@pytest.mark.parametrize("asked", [NoiseRequest("epsilon"), NoiseRequest("v_prediction"), NoiseRequest("auto", "on")])
def test_another_noise_process_is_refused(folder: Path, asked: NoiseRequest) -> None:
    with pytest.raises(ModelError, match="model_prediction"):
        recognize(folder, asked=asked)


@pytest.mark.parametrize("sign", ["the folder's name", "the name in its index", "the shift"])
def test_turbo_is_known_by_its_name_or_the_shift_of_its_scheduler(folder: Path, sign: str) -> None:
    """Its files have the names and shapes of the base's."""
    if sign == "the folder's name":
        folder = folder.rename(folder.with_name("Z-Image-Turbo"))
    elif sign == "the shift":
        changed(folder / "scheduler" / "scheduler_config.json", lambda config: config.update(shift=3.0))
    else:
        changed(folder / "model_index.json", lambda index: index.update(_name_or_path="Tongyi-MAI/Z-Image-Turbo"))
    weights = recognize(folder)
    assert (weights.distilled, weights.needs_adapter) == ("Turbo", True)
    base = recognize(folder, form="base")
    assert (base.distilled, base.needs_adapter) == ("", False)


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


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
def test_a_single_file_is_the_model_with_the_files_beside_it(folder: Path, tmp_path: Path, prefix: str) -> None:
    file = make_split(folder, tmp_path / "models", prefix=prefix)
    weights, whole = recognize(file), recognize(folder)
    assert (weights.family, weights.layout, weights.assumed) == ("zimage", "single_file", "")
    assert {name: part.asked.name for name, part in weights.replaced.items()} == {
        "text_encoder": "qwen_3_4b.safetensors",
        "vae": "ae.safetensors",
    }
    assert weights.denoiser_parameters == whole.denoiser_parameters
    assert weights.size_multiple == whole.size_multiple and weights.noise == whole.noise
    assert weights.configs["scheduler"]["shift"] == whole.configs["scheduler"]["shift"] == 6.0


def test_the_form_of_a_file_is_known_by_its_name_or_stated(folder: Path, tmp_path: Path) -> None:
    """An adapter for Turbo states it too."""
    mine, turbo = (make_split(folder, tmp_path / "models", name=name) for name in ("mine", "z_image_turbo_bf16"))

    def forms(path: Path, form: RequestedForm) -> tuple[str, str, bool, float]:
        found = recognize(path, form=form)
        return found.assumed, found.distilled, found.needs_adapter, found.configs["scheduler"]["shift"]

    assert forms(mine, "auto") == ("Z-Image", "", False, 6.0)
    assert forms(turbo, "auto") == forms(turbo, "distilled") == forms(mine, "distilled") == ("", "Turbo", True, 3.0)
    assert forms(turbo, "base") == forms(mine, "base") == ("", "", False, 6.0)
    adapter = write_adapter(tmp_path / "adapter.safetensors")
    assert with_training_adapter(recognize(mine), adapter).assumed == ""


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_its_files_hold_the_tensors_of_the_folder(folder: Path, tmp_path: Path, component: str) -> None:
    whole, split = recognize(folder), recognize(make_split(folder, tmp_path / "models"))
    expected, found = (read_component(weights, component, torch.float32) for weights in (whole, split))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_pickle_of_it_is_refused(tmp_path: Path) -> None:
    torch.save({"cap_pad_token": torch.zeros(1, 12)}, tmp_path / "zimage.ckpt")
    with pytest.raises(ModelError, match="model_form_unread") as error:
        load_family(recognize(tmp_path / "zimage.ckpt"))
    assert error.value.fields["found"] == "Z-Image"


def test_omni_is_named(tmp_path: Path) -> None:
    shapes = {"cap_pad_token": (1, 3840), "siglip_embedder.0.weight": (1152,)}
    with pytest.raises(ModelError, match="model_other_family") as error:
        recognize(write_header(tmp_path / "omni.safetensors", shapes))
    assert error.value.fields["found"] == "Z-Image Omni"


def test_a_vae_may_take_the_place_of_a_folders(folder: Path, tmp_path: Path) -> None:
    make_split(folder, tmp_path / "models")
    vae = tmp_path / "models" / "vae" / "ae.safetensors"
    weights = recognize(folder, parts=PartFiles(vae=vae))
    assert weights.source("vae") == vae and weights.source("text_encoder") == folder
