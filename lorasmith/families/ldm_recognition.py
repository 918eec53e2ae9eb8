"""Reads what a model of latent-diffusion's families is, from its headers and configs; a family gives the facts.

Needs no torch and reads no tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families import config_checks
from lorasmith.families.clip_bpe import CLIP_TOKENS
from lorasmith.families.distilled import distilled_by
from lorasmith.families.folders import component_shapes, missing_files
from lorasmith.families.foreign_files import LORA_KEY
from lorasmith.families.headers import check_tokenizer, read_json
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.noise_settings import noise_settings, scheduler_config
from lorasmith.families.places import shapes_at
from lorasmith.families.weights import (
    CONFIGS_KEY,
    BaseWeights,
    ComponentNames,
    ModelFiles,
    PredictionSource,
    Shapes,
)

_LAYERS = 12  # of a text encoder whose config does not name a number
_LATENT_SIDE = 64  # of a UNet whose config does not name it


@dataclass(frozen=True, slots=True)
class LdmFamily:
    """Facts of a family for its recognizer."""

    name: str  # a key of FAMILIES
    names: ComponentNames
    usual_config: Callable[[str], dict[str, Any]]  # of a component, or of "scheduler", as published
    deduce_configs: Callable[[Mapping[str, Shapes]], dict[str, Any]]
    """Shapes by component -> configs by component; raises UnusualShapesError."""
    least_step: int = 1  # pixels: buckets differ by no less unless asked, whatever the UNet accepts


def unexamined_pickle(files: ModelFiles, family: LdmFamily) -> BaseWeights:
    """A pickle before it is loaded: taken for this family's published model, and without a name."""
    configs: dict[str, Any] = {component: family.usual_config(component) for component in family.names.components}
    configs["scheduler"], source = scheduler_config(files, None, family.usual_config("scheduler"))
    configs = _tokenizers(family) | configs
    return replace(_described(files, family, configs, source=source, parameters=None), family="")


def single_file_model(files: ModelFiles, family: LdmFamily) -> BaseWeights:
    """The model of a file that holds this family's UNet.

    Raises:
        ModelError: it is incomplete, damaged or of a form that cannot be trained.
    """
    places = {
        component: family.names.from_single_file(component, files.shapes) for component in family.names.components
    }
    missing = [component for component, found in places.items() if not found]
    if missing:
        raise ModelError("model_incomplete", path=str(files.path), missing=", ".join(missing))
    try:
        shapes = {component: shapes_at(found, files.shapes) for component, found in places.items()}
    except ValueError as error:
        raise ModelError("model_damaged", path=str(files.path), where=str(error)) from error
    configs = _tokenizers(family) | (_embedded_configs(files, family) or _deduced_configs(files, family, shapes))
    stored = configs.get("scheduler")
    usual = family.usual_config("scheduler")
    configs["scheduler"], source = scheduler_config(files, stored if isinstance(stored, dict) else None, usual)
    return _described(files, family, configs, source=source, parameters=_count(shapes["unet"]))


def check_folder(files: ModelFiles, family: LdmFamily) -> None:
    """Returns where a diffusers folder holds the configs, tokenizers and weights of this family.

    Raises:
        ModelError: `model_incomplete`, `model_damaged`, `model_is_lora`.
    """
    missing = missing_files(files.path, family.names)
    if missing:
        raise ModelError("model_incomplete", path=str(files.path), missing=", ".join(missing))
    shapes = {component: component_shapes(files.path, component, family.names) for component in family.names.components}
    if any(LORA_KEY.search(name) for name in shapes["unet"] or {}):
        raise ModelError("model_is_lora", path=str(files.path))


def folder_model(files: ModelFiles, family: LdmFamily) -> BaseWeights:
    """The model of a diffusers folder that `check_folder` has passed.

    Raises:
        ModelError: it is damaged or of a form that cannot be trained.
    """
    configs: dict[str, Any] = {name: read_json(files.path / file) for name, file in family.names.config_files.items()}
    for tokenizer in family.names.tokenizers.values():
        check_tokenizer(files.path / tokenizer)
    shapes = component_shapes(files.path, "unet", family.names)
    configs["scheduler"], source = scheduler_config(files, configs["scheduler"], {})
    configs = _tokenizers(family) | configs
    return _described(files, family, configs, source=source, parameters=None if shapes is None else _count(shapes))


def _tokenizers(family: LdmFamily) -> dict[str, Any]:
    """No texts: a folder's tokenizers are read from their files, a single file's are CLIP's own."""
    return dict.fromkeys(family.names.tokenizers.values())


def _count(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes.values())


def _embedded_configs(files: ModelFiles, family: LdmFamily) -> dict[str, Any] | None:
    configs = config_checks.described_configs(files)
    if configs is not None and not all(isinstance(configs.get(name), dict) for name in family.names.components):
        raise ModelError("model_damaged", path=str(files.path), where=CONFIGS_KEY)
    return configs


def _deduced_configs(files: ModelFiles, family: LdmFamily, shapes: Mapping[str, Shapes]) -> dict[str, Any]:
    path = str(files.path)
    try:
        configs = family.deduce_configs(shapes)
    except UnusualShapesError as error:
        raise ModelError("model_configs_needed", path=path, key=CONFIGS_KEY) from error
    context = configs["unet"]["cross_attention_dim"]
    width = sum(configs[name]["hidden_size"] for name in family.names.tokenizers)
    if context != width:
        raise ModelError("model_other_family", path=path, found=f"UNet for text of width {context}, not {width}")
    return configs


def _described(
    files: ModelFiles,
    family: LdmFamily,
    configs: Mapping[str, Any],
    *,
    source: PredictionSource,
    parameters: int | None,
) -> BaseWeights:
    """Checks the configs as far as training depends on them, and sums them up."""
    unet, path = configs["unet"], files.path
    for text_encoder, tokenizer in family.names.tokenizers.items():
        rows = configs[text_encoder].get("vocab_size", CLIP_TOKENS)
        if rows != CLIP_TOKENS and files.layout != "diffusers" and configs[tokenizer] is None:
            raise ModelError("model_vocabulary", path=str(path), rows=rows, expected=CLIP_TOKENS, key=CONFIGS_KEY)
    noise = noise_settings(files, configs["scheduler"], source)
    wrong = config_checks.wrong_setting({name: configs[name] for name in family.names.config_files})
    if wrong:
        raise ModelError("model_damaged", path=str(path), where=wrong)
    factor = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    multiple = factor * 2 ** (len(unet["block_out_channels"]) - 1)
    return BaseWeights(
        path=path,
        layout=files.layout,
        family=family.name,
        noise=noise,
        resolution=unet.get("sample_size", _LATENT_SIDE) * factor,
        size_multiple=multiple,
        bucket_step=max(family.least_step, multiple),
        denoiser_parameters=parameters,
        max_clip_skip=min(configs[name].get("num_hidden_layers", _LAYERS) for name in family.names.tokenizers),
        configs=configs,
        names=family.names,
        distilled=distilled_by(files, configs["scheduler"]),
    )
