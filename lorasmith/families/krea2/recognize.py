"""Recognizes Krea 2 in a diffusers folder. Needs no torch and reads no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families.distilled import distilled_by
from lorasmith.families.folders import component_shapes, missing_files
from lorasmith.families.foreign_files import LORA_KEY
from lorasmith.families.headers import check_tokenizer, read_json
from lorasmith.families.krea2.layout import NAMES, PATCH, taps, vae_factor
from lorasmith.families.weights import BaseWeights, ModelFiles, NoiseSettings

PIPELINE = "Krea2Pipeline"
_RESOLUTION = 1024
_BUCKET_STEP = 64


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is Krea 2, else None.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if files.layout != "diffusers" or files.index.get("_class_name") != PIPELINE:
        return None
    path = files.path
    if files.index.get("is_distilled") is True:
        raise ModelError("model_turbo", path=str(path))
    missing = missing_files(path, NAMES)
    if missing:
        raise ModelError("model_incomplete", path=str(path), missing=", ".join(missing))
    shapes = {component: component_shapes(path, component, NAMES) for component in NAMES.components}
    denoiser = shapes["transformer"] or {}
    if any(LORA_KEY.search(name) for name in denoiser):
        raise ModelError("model_is_lora", path=str(path))
    configs: dict[str, Any] = {name: read_json(path / file) for name, file in NAMES.config_files.items()}
    check_tokenizer(path / NAMES.tokenizers["text_encoder"])
    wrong = _wrong_setting(configs)
    if wrong:
        raise ModelError("model_damaged", path=str(path), where=wrong)
    multiple = vae_factor(configs) * PATCH
    return BaseWeights(
        path=path,
        layout=files.layout,
        family="krea2",
        noise=_noise(files),
        resolution=_RESOLUTION,
        size_multiple=multiple,
        bucket_step=max(_BUCKET_STEP, multiple),
        denoiser_parameters=sum(map(prod, denoiser.values())) or None,
        max_clip_skip=None,
        configs={"tokenizer": None, **configs},
        names=NAMES,
        distilled=distilled_by(files, {}),
    )


def _noise(files: ModelFiles) -> NoiseSettings:
    asked = files.requested
    if asked.prediction not in ("auto", "flow"):
        raise ModelError("model_prediction", path=str(files.path), found=f"Krea 2, --prediction {asked.prediction}")
    if asked.zero_terminal_snr == "on":
        raise ModelError("model_prediction", path=str(files.path), found="Krea 2, --zero-terminal-snr on")
    return NoiseSettings("flow", zero_terminal_snr=False, source="scheduler_config", requested=asked)


def _wrong_setting(configs: Mapping[str, Any]) -> str:
    """The first setting of which training depends and that has no sense; "": none."""
    denoiser, vae, text = (configs[name] for name in ("transformer", "vae", "text_encoder"))
    language = text.get("text_config")
    if not isinstance(language, dict) or type(language.get("vocab_size")) is not int:
        return "text_encoder/config.json: text_config"
    means, deviations = vae.get("latents_mean"), vae.get("latents_std")
    channels = vae.get("z_dim")
    if not isinstance(vae.get("temperal_downsample"), list):
        return "vae/config.json: temperal_downsample"
    for name, numbers in (("latents_mean", means), ("latents_std", deviations)):
        if not _are_numbers(numbers) or len(numbers) != channels:
            return f"vae/config.json: {name}"
    if denoiser.get("in_channels") != channels * PATCH**2 or configs["pipeline"].get("patch_size", PATCH) != PATCH:
        return "transformer/config.json: in_channels"
    layers, count = taps(configs), language.get("num_hidden_layers")
    if not all(type(layer) is int for layer in layers) or len(layers) != denoiser.get("num_text_layers"):
        return "model_index.json: text_encoder_select_layers"
    if type(count) is not int or not all(0 <= layer < count for layer in layers):  # the last goes through a norm
        return "model_index.json: text_encoder_select_layers"
    if denoiser.get("text_hidden_dim") != language.get("hidden_size"):
        return "transformer/config.json: text_hidden_dim"
    return ""


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)
