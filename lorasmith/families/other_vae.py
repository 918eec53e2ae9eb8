"""A VAE that is used in place of the base model's own: a file or a diffusers folder. Needs no torch.

Its tensors may have the names of diffusers or those of single files (latent-diffusion's), with or without a prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families import config_checks
from lorasmith.families.folders import weight_files
from lorasmith.families.headers import file_kind, read_header, read_json
from lorasmith.families.ldm_configs import UnusualShapesError, vae_config
from lorasmith.families.ldm_names import VAE_PREFIX, vae_names
from lorasmith.families.places import Place, shapes_at
from lorasmith.families.weights import BaseWeights, OtherFile

_PREFIXES = (VAE_PREFIX, "vae.")
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_STEM = "diffusion_pytorch_model"


def with_vae(weights: BaseWeights, path: Path) -> BaseWeights:
    """The base model with the VAE of `path`, a file or a folder.

    Raises:
        ModelError: `vae_fixed`, the base model is of no family that has other VAEs; `vae_missing`, `vae_none`,
            `vae_other`: nothing is there, no VAE, or a VAE of other latents;
            `model_incomplete`, `model_damaged` and the like.
    """
    if "unet" not in weights.names.components:
        raise ModelError("vae_fixed", path=str(path))
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        file, config = _of_folder(folder)
    elif path.exists():
        file, config = path, {}
    else:
        raise ModelError("vae_missing", path=str(path))
    config = _checked(weights, path, config or _config_of(weights, file))
    other = OtherFile(asked=path, paths=(file,), find=find_vae)
    return replace(weights, configs={**weights.configs, "vae": config}, replaced={"vae": other})


def find_vae(names: Iterable[str]) -> dict[str, Place]:
    """Canonical name -> place, of a VAE under any of its names."""
    names = list(names)
    prefix = next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in names)), "")
    return {ours: Place(theirs) for ours, theirs in vae_names(names, prefix).items() if ours.startswith(_PARTS)}


def _of_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The weights and the config of a diffusers folder."""
    if not (folder / "config.json").is_file():
        raise ModelError("vae_none", path=str(folder))
    files = weight_files(folder, _STEM)
    if len(files) != 1:
        raise ModelError("model_incomplete", path=str(folder), missing=f"{_STEM}.safetensors")
    return files[0], read_json(folder / "config.json")


def _config_of(weights: BaseWeights, file: Path) -> dict[str, Any]:
    """The config by the shapes of the tensors, the rest as in the base model; of a pickle all of it."""
    usual: dict[str, Any] = dict(weights.configs["vae"])
    if file_kind(file) == "pickle":
        return usual
    stored = {name: info.shape for name, info in read_header(file).tensors.items()}
    places = find_vae(stored)
    if not any(name.startswith("encoder.") for name in places):
        raise ModelError("vae_none", path=str(file))
    try:
        return vae_config(shapes_at(places, stored), usual)
    except UnusualShapesError as error:
        raise ModelError("vae_other", path=str(file), found="") from error


def _checked(weights: BaseWeights, path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config, where its latents are those of the base model."""
    wrong = config_checks.wrong_setting({"vae": config})
    if wrong:
        raise ModelError("model_damaged", path=str(path), where=wrong)
    own = weights.configs["vae"]
    for name, default in (("scaling_factor", 0.18215), ("latent_channels", 4), ("latents_mean", None)):
        found, expected = config.get(name, default), own.get(name, default)
        if found != expected:
            raise ModelError("vae_other", path=str(path), found=f"{name} {found}, not {expected}")
    if len(config["block_out_channels"]) != len(own["block_out_channels"]):
        raise ModelError("vae_other", path=str(path), found=f"{len(config['block_out_channels'])} levels")
    return dict(config)
