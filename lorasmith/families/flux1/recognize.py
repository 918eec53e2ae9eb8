"""Recognizes FLUX.1 in a diffusers folder or a single file. Needs no torch and reads no tensor."""

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
from lorasmith.families.flux1.layout import CLIP, NAMES, PATCH, SPLIT, T5, find_denoiser, vae_factor
from lorasmith.families.headers import read_json
from lorasmith.families.weights import BaseWeights, ModelFiles

PIPELINE = "FluxPipeline"
DEV, KONTEXT = "FLUX.1 dev", "FLUX.1 Kontext"
_NAMED = re.compile(r"dev|krea")  # a file of dev, or of a model trained from it: its header is that of Kontext
_EDITORS = {"FluxKontextPipeline": KONTEXT, "FluxKontextInpaintPipeline": KONTEXT}
_INPAINTERS = {"FluxFillPipeline": "FLUX.1 Fill"}
_OTHER_INPUTS = (384, 128, 196)  # numbers of a token where the model sees more than a picture: Fill, Canny, Flex.2


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is FLUX.1, else None.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    pipeline = str(files.index.get("_class_name"))
    if files.layout == "diffusers" and pipeline in _EDITORS:
        raise ModelError("model_edits_pictures", path=str(files.path), found=_EDITORS[pipeline])
    if files.layout == "diffusers" and pipeline in _INPAINTERS:
        raise ModelError("model_inpainting", path=str(files.path), found=_INPAINTERS[pipeline])
    if is_single_file_of(files, FLUX1):
        return _single_file(files)
    if not is_folder_of(files, FLUX1):
        return None
    config = files.path / NAMES.config_files["transformer"]
    if config.is_file() and read_json(config).get("guidance_embeds", False) is not True:  # schnell
        raise ModelError("model_turbo", path=str(files.path), base=DEV)
    return folder_model(files, FLUX1)


def _single_file(files: ModelFiles) -> BaseWeights | None:
    places, name = find_denoiser(files.shapes), files.path.stem.lower()
    if (*files.shapes[places["x_embedder.weight"].name], 0, 0)[1] in _OTHER_INPUTS:
        return None
    if "kontext" in name:
        raise ModelError("model_edits_pictures", path=str(files.path), found=KONTEXT)
    if not any(".guidance_embedder." in ours for ours in places):  # schnell
        raise ModelError("model_turbo", path=str(files.path), base=DEV)
    found = single_file_model(files, FLUX1)
    return found if _NAMED.search(name) else replace(found, assumed=DEV)


def _wrong_setting(configs: Configs) -> str:
    denoiser, vae, clip, t5 = (configs[name] for name in ("transformer", "vae", CLIP, T5))
    if type(clip.get("vocab_size")) is not int or clip.get("hidden_size") != denoiser.get("pooled_projection_dim"):
        return "text_encoder/config.json: hidden_size"
    if type(t5.get("vocab_size")) is not int or t5.get("d_model") != denoiser.get("joint_attention_dim"):
        return "text_encoder_2/config.json: d_model"
    channels, blocks = vae.get("latent_channels"), vae.get("block_out_channels")
    if type(channels) is not int or denoiser.get("in_channels") != channels * PATCH**2:
        return "transformer/config.json: in_channels"
    if not isinstance(blocks, list) or not blocks:
        return "vae/config.json: block_out_channels"
    for name in ("scaling_factor", "shift_factor"):
        if type(vae.get(name)) not in (int, float):
            return f"vae/config.json: {name}"
    return ""


FLUX1 = FlowFamily(
    name="flux1",
    people_say="FLUX.1",
    pipelines=frozenset({PIPELINE}),
    names=NAMES,
    wrong_setting=_wrong_setting,
    size_multiple=lambda configs: vae_factor(configs) * PATCH,
    depths={
        "denoiser.transformer_blocks": ("num_layers", 19),
        "denoiser.single_transformer_blocks": ("num_single_layers", 38),
    },
    split=SPLIT,
)
