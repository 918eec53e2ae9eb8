"""Recognizes Stable Diffusion 1.x and reads its configs. Needs no torch and reads no tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families import config_checks
from lorasmith.families.clip_bpe import CLIP_TOKENS
from lorasmith.families.folders import component_shapes, missing_files
from lorasmith.families.foreign_files import LORA_KEY, foreign_family, foreign_unet
from lorasmith.families.headers import check_tokenizer, read_json
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.noise_settings import noise_settings, scheduler_config
from lorasmith.families.places import shapes_at
from lorasmith.families.sd15.layout import NAMES, UnusualShapesError, deduce_configs, usual_config
from lorasmith.families.weights import BaseWeights, ModelFiles, PredictionSource, Shapes

CONFIGS_KEY = "lorasmith.configs"
"""Metadata of a single file that describe it: JSON {"unet": …, "vae": …, "text_encoder": …, "scheduler": …,
"tokenizer": {file name: text}}, the last two optional."""

_LAYERS = 12  # of a text encoder whose config does not name a number


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is Stable Diffusion 1.x, else None. A pickle whose tensors are not known yet is taken for this
    family, and stays without a name.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if files.layout == "diffusers":
        return _recognize_folder(files)
    if not files.is_examined:
        configs: dict[str, Any] = {component: usual_config(component) for component in NAMES.components}
        configs["scheduler"], source = scheduler_config(files, None, usual_config("scheduler"))
        return replace(_described(files, {**configs, "tokenizer": None}, source=source, parameters=None), family="")
    return _recognize_single_file(files)


def _recognize_single_file(files: ModelFiles) -> BaseWeights | None:
    names = {component: NAMES.from_single_file(component, files.shapes) for component in NAMES.components}
    if foreign_family(files.shapes) or not names["unet"]:
        return None
    missing = [component for component, found in names.items() if not found]
    if missing:
        raise ModelError("model_incomplete", path=str(files.path), missing=", ".join(missing))
    shapes = {component: shapes_at(found, files.shapes) for component, found in names.items()}
    configs = _embedded_configs(files)
    if configs is None:
        configs = _deduced_configs(files.path, shapes)
    scheduler, source = scheduler_config(files, _object(configs.get("scheduler")), usual_config("scheduler"))
    count = sum(prod(shape) for shape in shapes["unet"].values())
    return _described(files, {**configs, "scheduler": scheduler}, source=source, parameters=count)


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _embedded_configs(files: ModelFiles) -> dict[str, Any] | None:
    if CONFIGS_KEY not in files.metadata:
        return None
    damaged = ModelError("model_damaged", path=str(files.path), where=CONFIGS_KEY)
    try:
        configs = json.loads(files.metadata[CONFIGS_KEY])
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(configs, dict) or not all(isinstance(configs.get(name), dict) for name in NAMES.components):
        raise damaged
    return {"tokenizer": None, **configs}


def _deduced_configs(path: Path, shapes: Mapping[str, Shapes]) -> dict[str, Any]:
    try:
        configs = deduce_configs(shapes)
    except UnusualShapesError as error:
        raise ModelError("model_configs_needed", path=str(path), key=CONFIGS_KEY) from error
    context, width = configs["unet"]["cross_attention_dim"], configs["text_encoder"]["hidden_size"]
    if context != width:
        raise ModelError("model_other_family", path=str(path), found=f"UNet for text of width {context}, not {width}")
    return {**configs, "tokenizer": None}


def _recognize_folder(files: ModelFiles) -> BaseWeights | None:
    folder = files.path
    if "transformer" in files.index or "text_encoder_2" in files.index:
        return None
    missing = missing_files(folder, NAMES)
    if missing:
        raise ModelError("model_incomplete", path=str(folder), missing=", ".join(missing))
    configs: dict[str, Any] = {name: read_json(folder / file) for name, file in NAMES.config_files.items()}
    shapes = {component: component_shapes(folder, component, NAMES) for component in NAMES.components}
    if any(LORA_KEY.search(name) for name in shapes["unet"] or {}):
        raise ModelError("model_is_lora", path=str(folder))
    if foreign_unet(configs["unet"]):
        return None
    check_tokenizer(folder / "tokenizer")
    parameters = None if shapes["unet"] is None else sum(prod(shape) for shape in shapes["unet"].values())
    configs["scheduler"], source = scheduler_config(files, configs["scheduler"], {})
    return _described(files, {**configs, "tokenizer": None}, source=source, parameters=parameters)


def _described(
    files: ModelFiles, configs: Mapping[str, Any], *, source: PredictionSource, parameters: int | None
) -> BaseWeights:
    """Checks the configs as far as training depends on them, and sums them up."""
    unet, path = configs["unet"], files.path
    rows = configs["text_encoder"].get("vocab_size", CLIP_TOKENS)
    if rows != CLIP_TOKENS and files.layout != "diffusers" and configs["tokenizer"] is None:
        raise ModelError("model_vocabulary", path=str(path), rows=rows, expected=CLIP_TOKENS, key=CONFIGS_KEY)
    noise = noise_settings(path, configs["scheduler"], source)
    wrong = config_checks.wrong_setting({name: configs[name] for name in NAMES.config_files})
    if wrong:
        raise ModelError("model_damaged", path=str(path), where=wrong)
    factor = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    return BaseWeights(
        path=path,
        layout=files.layout,
        family="sd15",
        noise=noise,
        resolution=unet.get("sample_size", 64) * factor,
        size_multiple=factor * 2 ** (len(unet["block_out_channels"]) - 1),
        denoiser_parameters=parameters,
        max_clip_skip=configs["text_encoder"].get("num_hidden_layers", _LAYERS),
        configs=configs,
        names=NAMES,
    )
