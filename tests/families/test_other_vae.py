"""A VAE of its own takes the place of the base model's, whatever its names; others are refused with the reason."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.demo import layouts
from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.identity import component_sha256, short_hash, weights_sha256
from lorasmith.families.other_vae import with_vae
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import BaseWeights
from tests.families.unet_miniature import make_model

CPU = torch.device("cpu")


@dataclass(frozen=True)
class OtherVae:
    folder: Path  # a diffusers folder of the VAE alone
    tensors: dict[str, Tensor]  # by diffusers' names
    original: dict[str, Tensor]  # by the names of single files, without a prefix
    latents: Tensor  # of `pixels`


def pixels() -> Tensor:
    return torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1


def latents_of(weights: BaseWeights) -> Tensor:
    family = load_family(weights)
    return family.encode_image(family.load_encoders(CPU, only=("vae",)), pixels())["latents"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> OtherVae:
    model = make_model(tmp_path_factory.mktemp("other") / "model", seed=7)
    config = json.loads((model / "vae" / "config.json").read_text())
    tensors = load_file(model / "vae" / "diffusion_pytorch_model.safetensors")
    original = {layouts.ldm_vae_name(name, config): tensor for name, tensor in tensors.items()}
    return OtherVae(model / "vae", tensors, original, latents_of(recognize(model)))


def saved(tensors: dict[str, Tensor], path: Path, prefix: str = "") -> Path:
    named = {prefix + name: tensor for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(named, path)
    else:
        torch.save({"state_dict": named}, path)
    return path


FORMS: dict[str, Callable[[OtherVae, Path], Path]] = {
    "folder": lambda other, at: other.folder,
    "model folder": lambda other, at: other.folder.parent,
    "diffusers names": lambda other, at: saved(other.tensors, at / "vae.safetensors"),
    "original names": lambda other, at: saved(other.original, at / "vae.safetensors"),
    "with a prefix": lambda other, at: saved(other.original, at / "vae.safetensors", "first_stage_model."),
    "pickle": lambda other, at: saved(other.original | {"loss.logvar": torch.zeros(1)}, at / "vae.pt"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", ["folder", "single"])
def test_pictures_become_its_latents(miniature, other: OtherVae, tmp_path: Path, form: str, base: str) -> None:
    weights = recognize(getattr(miniature, base))
    path = FORMS[form](other, tmp_path)
    changed = with_vae(weights, path)
    assert torch.equal(latents_of(changed), other.latents)
    assert not torch.equal(latents_of(weights), other.latents)
    assert component_sha256(changed, "vae") != component_sha256(weights, "vae")
    assert component_sha256(changed, "text_encoder") == component_sha256(weights, "text_encoder")
    assert weights_sha256(changed) == weights_sha256(weights)
    assert changed.source("vae") == path


def test_a_pickled_base_model_keeps_it(narrow, tmp_path: Path) -> None:
    vae = make_model(tmp_path / "other", size="narrow", seed=7) / "vae"
    family = load_family(with_vae(recognize(narrow.ckpt), vae))
    assert family.weights.family == "sd15"
    assert family.weights.source("vae") == vae


def test_identities_follow_its_bytes(miniature, other: OtherVae, tmp_path: Path) -> None:
    weights = recognize(miniature.folder)
    path = saved(other.tensors, tmp_path / "vae.safetensors")
    before = component_sha256(with_vae(weights, path), "vae"), short_hash(path)
    saved({name: tensor * 1.5 for name, tensor in other.tensors.items()}, path)
    assert component_sha256(with_vae(weights, path), "vae") != before[0]


def with_wide_latents(other: OtherVae, path: Path) -> Path:
    return saved({**other.tensors, "post_quant_conv.weight": torch.ones(16, 16, 1, 1)}, path)


def edited(other: OtherVae, to: Path, **changes: object) -> Path:
    folder = Path(shutil.copytree(other.folder, to))
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (lambda other, at: at / "nothing.safetensors", "vae_missing"),
        (lambda other, at: saved({"a": torch.ones(2)}, at / "a.safetensors"), "vae_none"),
        (lambda other, at: at, "vae_none"),
        (lambda other, at: edited(other, at / "x", scaling_factor=0.13025), "vae_other"),
        (lambda other, at: edited(other, at / "x", latent_channels=16), "vae_other"),
        (lambda other, at: edited(other, at / "x", block_out_channels=[8, 8, 16]), "vae_other"),
        (lambda other, at: edited(other, at / "x", block_out_channels=5), "model_damaged"),
        (lambda other, at: with_wide_latents(other, at / "x.safetensors"), "vae_other"),
    ],
)
def test_what_is_refused(
    miniature, other: OtherVae, tmp_path: Path, form: Callable[[OtherVae, Path], Path], code: str
) -> None:
    with pytest.raises(ModelError) as caught:
        with_vae(recognize(miniature.folder), form(other, tmp_path))
    assert caught.value.code == code
