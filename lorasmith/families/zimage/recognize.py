"""Recognizes Z-Image in a diffusers folder. Needs no torch and reads no tensor."""

from __future__ import annotations

from lorasmith.errors import ModelError
from lorasmith.families import config_checks
from lorasmith.families.flow_recognition import Configs, FlowFamily, folder_model, is_folder_of
from lorasmith.families.weights import BaseWeights, ModelFiles
from lorasmith.families.zimage.layout import NAMES, PATCH, vae_factor

PIPELINE = "ZImagePipeline"
TURBO = "Turbo"
TURBO_SHIFT = 3.0
"""The shift in the scheduler's config of the published Turbo; that of the base is 6. Nothing else differs but names."""


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is Z-Image, else None.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if not is_folder_of(files, Z_IMAGE):
        return None
    weights = folder_model(files, Z_IMAGE)
    if weights.distilled or weights.configs["scheduler"].get("shift") == TURBO_SHIFT:
        raise ModelError("model_turbo", path=str(files.path), base="Z-Image")
    return weights


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
)
