"""Recognizes Z-Image in a diffusers folder or a single file. Needs no torch and reads no tensor."""

from __future__ import annotations

import re
from dataclasses import replace

from lorasmith.families import config_checks
from lorasmith.families.flow_recognition import (
    Configs,
    FlowFamily,
    folder_model,
    is_folder_of,
    is_single_file_of,
    single_file_model,
)
from lorasmith.families.weights import BaseWeights, ModelFiles
from lorasmith.families.zimage.layout import NAMES, PATCH, SPLIT, TURBO_SHIFT, vae_factor

PIPELINE = "ZImagePipeline"
TURBO = "Turbo"
_NAMED = re.compile(r"base|^z[-_ ]?image([-_](bf16|fp16|fp32))?$")  # a file of the base: its header is that of Turbo


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is Z-Image, else None.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if is_single_file_of(files, Z_IMAGE):
        return _of_its_form(files, single_file_model(files, Z_IMAGE))
    return _of_its_form(files, folder_model(files, Z_IMAGE)) if is_folder_of(files, Z_IMAGE) else None


def _of_its_form(files: ModelFiles, weights: BaseWeights) -> BaseWeights:
    """The base or Turbo: as the user states, by its name, and in a folder by its scheduler."""
    if files.form == "base":
        return replace(weights, distilled="")
    scheduler, is_folder = weights.configs["scheduler"], files.layout == "diffusers"
    if files.form == "distilled" or weights.distilled or scheduler.get("shift") == TURBO_SHIFT:
        configs = {**weights.configs, "scheduler": scheduler if is_folder else {**scheduler, "shift": TURBO_SHIFT}}
        return replace(weights, distilled=weights.distilled or TURBO, needs_adapter=True, configs=configs)
    is_named = is_folder or _NAMED.search(files.path.stem.lower())
    return replace(weights, assumed="" if is_named else Z_IMAGE.people_say)


def _wrong_setting(configs: Configs) -> str:
    denoiser, vae, text = (configs[name] for name in ("transformer", "vae", "text_encoder"))
    wrong = config_checks.wrong_setting({"vae": vae})
    if wrong:
        return f"vae/config.json: {wrong.removeprefix('vae: ')}"
    if type(vae.get("shift_factor")) not in (int, float):
        return "vae/config.json: shift_factor"
    if denoiser.get("in_channels") != vae.get("latent_channels"):
        return "transformer/config.json: in_channels"
    for name, only in (("all_patch_size", PATCH), ("all_f_patch_size", 1)):
        if denoiser.get(name, [only]) != [only]:
            return f"transformer/config.json: {name}"
    if denoiser.get("siglip_feat_dim") is not None:  # Omni, which sees pictures
        return "transformer/config.json: siglip_feat_dim"
    for name in ("vocab_size", "num_hidden_layers"):
        if type(text.get(name)) is not int:
            return f"text_encoder/config.json: {name}"
    if denoiser.get("cap_feat_dim", 2560) != text.get("hidden_size"):
        return "transformer/config.json: cap_feat_dim"
    shift = configs["scheduler"].get("shift", 1.0)
    return "" if type(shift) in (int, float) and shift > 0 else "scheduler/scheduler_config.json: shift"


Z_IMAGE = FlowFamily(
    name="zimage",
    people_say="Z-Image",
    pipelines=frozenset({PIPELINE}),
    names=NAMES,
    wrong_setting=_wrong_setting,
    size_multiple=lambda configs: vae_factor(configs) * PATCH,
    depths={
        "denoiser.layers": ("n_layers", 30),
        "denoiser.noise_refiner": ("n_refiner_layers", 2),
        "denoiser.context_refiner": ("n_refiner_layers", 2),
    },
    split=SPLIT,
)
