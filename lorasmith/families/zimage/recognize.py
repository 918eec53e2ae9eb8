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
    """The model where it is Z-Image, else None. Turbo is known by its name, and in a folder by its scheduler.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if is_single_file_of(files, Z_IMAGE):
        weights = single_file_model(files, Z_IMAGE)
        if weights.distilled:
            scheduler = {**weights.configs["scheduler"], "shift": TURBO_SHIFT}
            return replace(weights, needs_adapter=True, configs={**weights.configs, "scheduler": scheduler})
        return weights if _NAMED.search(files.path.stem.lower()) else replace(weights, assumed=Z_IMAGE.people_say)
    if not is_folder_of(files, Z_IMAGE):
        return None
    weights = folder_model(files, Z_IMAGE)
    has_shift_of_turbo = weights.configs["scheduler"].get("shift") == TURBO_SHIFT
    distilled = weights.distilled or (TURBO if has_shift_of_turbo else "")
    return replace(weights, distilled=distilled, needs_adapter=bool(distilled))


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
    split=SPLIT,
)
