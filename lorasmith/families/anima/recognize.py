"""Recognizes Anima in a diffusers folder or a single file. Needs no torch and reads no tensor."""

from __future__ import annotations

import re
from dataclasses import replace

from lorasmith.errors import ModelError
from lorasmith.families.anima.layout import MOST, NAMES, PATCH, SPLIT, vae_factor
from lorasmith.families.flow_recognition import (
    Configs,
    FlowFamily,
    are_numbers,
    folder_model,
    is_folder_of,
    is_single_file_of,
    single_file_model,
)
from lorasmith.families.t5_vocabulary import T5_TOKENS
from lorasmith.families.weights import BaseWeights, ModelFiles

PIPELINE = "AnimaModularPipeline"
_CONNECTOR = re.compile(r"(^|\.)anima_v2_connector\.")  # of Anima-3.8B v1.1, which is sampled with Qwen3.5 besides
_JOINT = "qwen35_joint_dit_blocks"  # in the metadata of v1.0 too, whose connector is a file of its own
_DEEP = 52  # blocks of Anima-3.8B, whose file may have lost its metadata
_BY_QWEN3 = "Anima with captions by Qwen3-0.6B alone"
_NAMED = re.compile(r"0[._]?6b")
_DENOISER = {  # settings of Cosmos' transformer that every Anima has, and what they are where a config leaves them out
    "patch_size": ([1, PATCH, PATCH], [1, PATCH, PATCH]),
    "concat_padding_mask": (True, True),
    "extra_pos_embed_type": (None, "learnable"),
    "use_crossattn_projection": (False, False),
    "img_context_dim_in": (None, None),
}


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is Anima, else None.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if is_single_file_of(files, ANIMA):
        if files.form != "base" and (_JOINT in files.metadata or any(map(_CONNECTOR.search, files.shapes))):
            facts = {"found": "Anima-3.8B", "second": "Qwen3.5-4B", "used": "Qwen3-0.6B"}
            raise ModelError("model_second_text_encoder", path=str(files.path), **facts)
        found = single_file_model(files, ANIMA)
        is_deep = found.configs["transformer"]["num_layers"] >= _DEEP
        return replace(found, assumed=_BY_QWEN3) if is_deep and not _NAMED.search(files.path.stem.lower()) else found
    return folder_model(files, ANIMA) if is_folder_of(files, ANIMA) else None


def _wrong_setting(configs: Configs) -> str:
    return _wrong_vae(configs) or _wrong_denoiser(configs) or _wrong_text(configs)


def _wrong_vae(configs: Configs) -> str:
    vae = configs["vae"]
    if not isinstance(vae.get("temperal_downsample"), list):
        return "vae/config.json: temperal_downsample"
    for name in ("latents_mean", "latents_std"):
        if not are_numbers(vae.get(name)) or len(vae[name]) != vae.get("z_dim"):
            return f"vae/config.json: {name}"
    return ""


def _wrong_denoiser(configs: Configs) -> str:
    denoiser, channels = configs["transformer"], configs["vae"].get("z_dim")
    for name, (wanted, missing) in _DENOISER.items():
        if denoiser.get(name, missing) != wanted:
            return f"transformer/config.json: {name}"
    if denoiser.get("in_channels") != channels or denoiser.get("out_channels") != channels:
        return "transformer/config.json: in_channels"
    return ""


def _wrong_text(configs: Configs) -> str:
    conditioner, text = configs["text_conditioner"], configs["text_encoder"]
    if type(text.get("vocab_size")) is not int:
        return "text_encoder/config.json: vocab_size"
    if conditioner.get("source_dim") != text.get("hidden_size"):
        return "text_conditioner/config.json: source_dim"
    if conditioner.get("target_dim") != configs["transformer"].get("text_embed_dim"):
        return "text_conditioner/config.json: target_dim"
    for name, least in (("target_vocab_size", T5_TOKENS), ("min_sequence_length", MOST)):
        if type(conditioner.get(name)) is not int or conditioner[name] < least:
            return f"text_conditioner/config.json: {name}"
    return ""


ANIMA = FlowFamily(
    name="anima",
    people_say="Anima",
    pipelines=frozenset({PIPELINE}),
    names=NAMES,
    wrong_setting=_wrong_setting,
    size_multiple=lambda configs: vae_factor(configs) * PATCH,
    depths={"denoiser.transformer_blocks": ("num_layers", 28)},
    split=SPLIT,
)
