"""Recognizes FLUX.1 in a diffusers folder. Needs no torch and reads no tensor."""

from __future__ import annotations

from lorasmith.errors import ModelError
from lorasmith.families.flow_recognition import Configs, FlowFamily, folder_model, is_folder_of
from lorasmith.families.flux1.layout import CLIP, NAMES, PATCH, T5, vae_factor
from lorasmith.families.headers import read_json
from lorasmith.families.weights import BaseWeights, ModelFiles

PIPELINE = "FluxPipeline"
DEV = "FLUX.1 dev"
_EDITORS = {"FluxKontextPipeline": "FLUX.1 Kontext", "FluxKontextInpaintPipeline": "FLUX.1 Kontext"}
_INPAINTERS = {"FluxFillPipeline": "FLUX.1 Fill"}


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
    if not is_folder_of(files, FLUX1):
        return None
    config = files.path / NAMES.config_files["transformer"]
    if config.is_file() and read_json(config).get("guidance_embeds", False) is not True:  # schnell
        raise ModelError("model_turbo", path=str(files.path), base=DEV)
    return folder_model(files, FLUX1)


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
)
