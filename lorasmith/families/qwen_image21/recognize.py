"""Recognizes Qwen-Image 2.1 in a diffusers folder or a single file. Needs no torch and reads no tensor."""

from __future__ import annotations

from lorasmith.errors import ModelError
from lorasmith.families.distilled import distilled_by
from lorasmith.families.flow_recognition import (
    Configs,
    FlowFamily,
    are_numbers,
    folder_model,
    is_folder_of,
    is_single_file_of,
    single_file_model,
)
from lorasmith.families.qwen_image21.layout import NAMES, SPLIT
from lorasmith.families.qwen_image21.vae_files import FACTOR, PICTURE_CHANNELS
from lorasmith.families.weights import BaseWeights, ModelFiles

PIPELINE = "QwenImage21Pipeline"
_FEW_STEPS = 12


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is Qwen-Image 2.1, else None.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    is_single_file = is_single_file_of(files, QWEN_IMAGE_21)
    if not is_single_file and not is_folder_of(files, QWEN_IMAGE_21):
        return None
    levels = files.index.get("sample_sigmas")  # with which the authors have it sampled; the base model names none
    if (isinstance(levels, list) and len(levels) <= _FEW_STEPS) or distilled_by(files, {}):
        raise ModelError("model_turbo", path=str(files.path), base="Qwen-Image 2.1")
    return single_file_model(files, QWEN_IMAGE_21) if is_single_file else folder_model(files, QWEN_IMAGE_21)


def _wrong_setting(configs: Configs) -> str:
    denoiser, vae, text = (configs[name] for name in ("transformer", "vae", "text_encoder"))
    language = text.get("text_config")
    if not isinstance(language, dict) or type(language.get("vocab_size")) is not int:
        return "text_encoder/config.json: text_config"
    means, deviations, channels = vae.get("latents_mean"), vae.get("latents_std"), vae.get("z_dim")
    for name, numbers in (("latents_mean", means), ("latents_std", deviations)):
        if not are_numbers(numbers) or len(numbers) != channels:
            return f"vae/config.json: {name}"
    for name in ("in_channels", "out_channels"):
        if vae.get(name, PICTURE_CHANNELS) != PICTURE_CHANNELS:
            return f"vae/config.json: {name}"
        if denoiser.get(name) != channels:
            return f"transformer/config.json: {name}"
    halvings = vae.get("temperal_downsample")
    if not isinstance(halvings, list) or 2 ** len(halvings) != FACTOR or vae.get("patch_size") is not None:
        return "vae/config.json: temperal_downsample"
    if denoiser.get("patch_size", 1) != 1 or denoiser.get("causal_condition", True) is not True:
        return "transformer/config.json: causal_condition"
    if denoiser.get("context_in_dim") != language.get("hidden_size"):
        return "transformer/config.json: context_in_dim"
    return ""


QWEN_IMAGE_21 = FlowFamily(
    name="qwen_image21",
    people_say="Qwen-Image 2.1",
    pipelines=frozenset({PIPELINE}),
    names=NAMES,
    wrong_setting=_wrong_setting,
    size_multiple=lambda configs: 2 * FACTOR,  # noqa: ARG005  the text encoder's eyes take 2 x 2 tokens as one
    depths={"denoiser.transformer_blocks": ("num_layers", 32)},
    split=SPLIT,
)
