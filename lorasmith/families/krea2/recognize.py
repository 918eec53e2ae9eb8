"""Recognizes Krea 2 in a diffusers folder or a single file. Needs no torch and reads no tensor."""

from __future__ import annotations

import re
from dataclasses import replace

from lorasmith.errors import ModelError
from lorasmith.families.flow_recognition import (
    Configs,
    FlowFamily,
    are_numbers,
    folder_model,
    is_folder_of,
    is_single_file_of,
    single_file_model,
)
from lorasmith.families.krea2.layout import NAMES, PATCH, SPLIT, taps, vae_factor
from lorasmith.families.weights import BaseWeights, ModelFiles

PIPELINE = "Krea2Pipeline"
RAW, TURBO = "Krea 2 Raw", "Turbo"
_NAMED = re.compile("raw|base")  # a file of Raw: its header is that of Turbo


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is Krea 2, else None.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if is_single_file_of(files, KREA2):
        return _of_single_file(files)
    if not is_folder_of(files, KREA2):
        return None
    if files.index.get("is_distilled") is not True:
        return folder_model(files, KREA2)
    if files.form != "distilled":
        raise ModelError("model_turbo", path=str(files.path), base=RAW)
    return replace(folder_model(files, KREA2), distilled=TURBO)


def _of_single_file(files: ModelFiles) -> BaseWeights:
    """The model in a file: Raw or Turbo, by its name or as the user states."""
    name = files.path.stem.lower()
    if TURBO.lower() in name and files.form == "auto":
        raise ModelError("model_turbo", path=str(files.path), base=RAW)
    found = single_file_model(files, KREA2)
    if files.form == "distilled":
        return replace(found, distilled=TURBO)
    return replace(found, distilled="", assumed="" if _NAMED.search(name) else RAW)


def _wrong_setting(configs: Configs) -> str:
    denoiser, vae, text = (configs[name] for name in ("transformer", "vae", "text_encoder"))
    language = text.get("text_config")
    if not isinstance(language, dict) or type(language.get("vocab_size")) is not int:
        return "text_encoder/config.json: text_config"
    means, deviations = vae.get("latents_mean"), vae.get("latents_std")
    channels = vae.get("z_dim")
    if not isinstance(vae.get("temperal_downsample"), list):
        return "vae/config.json: temperal_downsample"
    for name, numbers in (("latents_mean", means), ("latents_std", deviations)):
        if not are_numbers(numbers) or len(numbers) != channels:
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


KREA2 = FlowFamily(
    name="krea2",
    people_say="Krea 2",
    pipelines=frozenset({PIPELINE}),
    names=NAMES,
    wrong_setting=_wrong_setting,
    size_multiple=lambda configs: vae_factor(configs) * PATCH,
    depths={
        "denoiser.transformer_blocks": ("num_layers", 28),
        "denoiser.text_fusion.layerwise_blocks": ("num_layerwise_text_blocks", 2),
        "denoiser.text_fusion.refiner_blocks": ("num_refiner_text_blocks", 2),
    },
    split=SPLIT,
)
