"""Recognizes FLUX.2 klein in a diffusers folder or a single file. Needs no torch and reads no tensor."""

from __future__ import annotations

import re
from dataclasses import replace

from lorasmith.errors import ModelError
from lorasmith.families.flow_recognition import (
    Configs,
    FlowFamily,
    folder_model,
    is_folder_of,
    is_single_file_of,
    single_file_model,
)
from lorasmith.families.flux2_klein.layout import NAMES, PATCH, SPLIT, TAPS, vae_factor
from lorasmith.families.weights import BaseWeights, ModelFiles

PIPELINE = "Flux2KleinPipeline"
BASE = "FLUX.2 klein Base"
_DISTILLED = re.compile(r"distil|turbo|klein[-_. ]?[49]b")  # a file's name without "base": headers are the same


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is FLUX.2 klein, else None.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if is_single_file_of(files, FLUX2_KLEIN):
        name = files.path.stem.lower()
        if "base" not in name and _DISTILLED.search(name):
            raise ModelError("model_turbo", path=str(files.path), base=BASE)
        found = single_file_model(files, FLUX2_KLEIN)
        return found if "base" in name else replace(found, assumed=BASE)
    if not is_folder_of(files, FLUX2_KLEIN):
        return None
    if files.index.get("is_distilled") is True:
        raise ModelError("model_turbo", path=str(files.path), base=BASE)
    return folder_model(files, FLUX2_KLEIN)


def _wrong_setting(configs: Configs) -> str:
    denoiser, vae, text = (configs[name] for name in ("transformer", "vae", "text_encoder"))
    if type(text.get("vocab_size")) is not int:
        return "text_encoder/config.json: vocab_size"
    layers, width = text.get("num_hidden_layers"), text.get("hidden_size")
    if type(layers) is not int or layers <= max(TAPS):  # the last goes through a norm
        return "text_encoder/config.json: num_hidden_layers"
    channels, blocks = vae.get("latent_channels"), vae.get("block_out_channels")
    if type(channels) is not int:
        return "vae/config.json: latent_channels"
    if not isinstance(blocks, list) or not blocks:
        return "vae/config.json: block_out_channels"
    if list(vae.get("patch_size", (PATCH, PATCH))) != [PATCH, PATCH]:
        return "vae/config.json: patch_size"
    if denoiser.get("in_channels") != channels * PATCH**2:
        return "transformer/config.json: in_channels"
    if type(width) is not int or denoiser.get("joint_attention_dim") != width * len(TAPS):
        return "transformer/config.json: joint_attention_dim"
    if denoiser.get("guidance_embeds") is not False:  # FLUX.2 dev
        return "transformer/config.json: guidance_embeds"
    return ""


FLUX2_KLEIN = FlowFamily(
    name="flux2_klein",
    people_say="FLUX.2 klein",
    pipelines=frozenset({PIPELINE}),
    names=NAMES,
    wrong_setting=_wrong_setting,
    size_multiple=lambda configs: vae_factor(configs) * PATCH,
    depths={
        "denoiser.transformer_blocks": ("num_layers", 8),
        "denoiser.single_transformer_blocks": ("num_single_layers", 48),
    },
    split=SPLIT,
)
