"""Names what a model is that no family here recognizes, by the names and shapes of its tensors.

Reads no tensor. A file that holds no weights at all is named by `headers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families.foreign_families import denoiser_family, is_trained, pipeline_family
from lorasmith.families.headers import Header, pickle_mentions, read_header, read_json
from lorasmith.families.ldm_names import UNET_PREFIX
from lorasmith.families.weights import AS_STATED, ModelFiles, Shapes

LORA_KEY = re.compile(
    r"^(lora_(unet|te\d?|transformer)|lycoris)_|(^|[._])(lora_(down|up|mid|A|B)|lora\.(down|up)|hada_w1_[ab]|lokr_w[12])\b"
)
SD2, SDXL = "SD 2", "SDXL"
_INPUT_CHANNELS = {9: "inpainting", 8: "InstructPix2Pix"}
_SD2_CHANNELS = {**_INPUT_CHANNELS, 7: "upscaler", 5: "depth"}
_UNCLIP = "SD 2 unCLIP"
_REFINER, _PLAYGROUND, _EDM = "SDXL refiner", "Playground 2.5", "SDXL with EDM noise"
_REASONS = {  # the end of a name -> the error that says why such a model cannot be trained
    "inpainting": "model_inpainting",
    "InstructPix2Pix": "model_edits_pictures",
    "upscaler": "model_upscales_pictures",
    "depth": "model_takes_depth",
    _UNCLIP: "model_unclip",
    _REFINER: "model_refiner",
    _PLAYGROUND: "model_edm",
    _EDM: "model_edm",
}

_LDM_FAMILIES = (  # the start of a key that only this family has, after UNET_PREFIX
    ("cond_stage_model.model.", SD2),
    ("conditioner.embedders.", SDXL),
    ("label_emb.", SDXL),
)
_QUANTIZED = (  # names in files whose weights are stored with scales or codes, and what such a form is called
    ("nunchaku", re.compile(r"\.(qweight|wscales|smooth_factor(_orig)?)$")),
    ("nf4", re.compile(r"\.(absmax|quant_map|quant_state\.\w+)$")),
    ("comfy_quant", re.compile(r"\.comfy_quant$")),
    ("fp8 scaled", re.compile(r"(^|\.)scaled_fp8$|\.(scale_weight|weight_scale(_inv|_2)?|scale_input|input_scale)$")),
)
_CONTROL_NET = re.compile(
    r"^control_model\.|(^|\.)(controlnet_(cond_embedding|down_blocks|mid_block)|input_hint_block)\."
)
_KINDS = (  # kinds of files without a denoiser, by a key
    ("model_is_adapter", re.compile(r"^(image_proj|ip_adapter|adapter\.body|body\.\d+\.(in_conv|block1))\b")),
    ("model_is_embedding", re.compile(r"^(emb_params|clip_[lg]|string_to_param(\..*)?)$")),
    (
        "model_is_upscaler",
        re.compile(r"^(params(_ema)?\.)?(conv_first\.|RRDB_trunk\.|body\.\d+\.rdb1\.|model\.1\.sub\.)"),
    ),
    ("model_is_unet", re.compile(r"^((diffusion_model|unet)\.)?(input_blocks\.0\.0\.|down_blocks\.0\.resnets\.0\.)")),
    (
        "model_is_vae",
        re.compile(
            r"^((first_stage_model|vae)\.)?((en|de)coder\.(conv_in|conv1|mid|middle|down|up)|(post_)?quant_conv)\b"
        ),
    ),
    (
        "model_is_text_encoder",
        re.compile(
            r"(^|\.)(text_model|vision_model)\.(encoder|embeddings)\.|^(text_encoder\.|encoder\.block\.0\.layer\.0\.)"
            r"|(^|\.)embed_tokens\.weight$"
        ),
    ),
)
_EMBEDDING_WIDTHS = (768, 1024, 1280)


def refuse_adapters(files: ModelFiles) -> None:
    """Returns where the file is no adapter to a model: no family is trained on those.

    Raises:
        ModelError: `model_is_lora`, `model_is_controlnet`.
    """
    if any(LORA_KEY.search(name) for name in files.shapes):
        raise ModelError("model_is_lora", path=str(files.path))
    if any(_CONTROL_NET.search(name) for name in files.shapes):
        raise ModelError("model_is_controlnet", path=str(files.path))


def check_not_quantized(path: Path, names: Iterable[str]) -> None:
    """Returns where each weight of a file is its tensor alone: with scales apart it would be another weight.

    Raises:
        ModelError: `model_quantized`.
    """
    names = list(names)
    for form, key in _QUANTIZED:
        if any(key.search(name) for name in names):
            raise ModelError("model_quantized", path=str(path), form=form)


def header_of_plain_weights(path: Path) -> Header:
    """The header of a safetensors file that holds a model's weights as they are computed with.

    Raises:
        ModelError: `model_is_lora`, `model_quantized`, and those of `read_header`.
    """
    header = read_header(path)
    shapes = {name: info.shape for name, info in header.tensors.items()}
    refuse_adapters(ModelFiles(path, "single_file", AS_STATED, shapes))
    check_not_quantized(path, shapes)
    return header


def foreign_family(shapes: Shapes) -> str:
    """The family of a single file as people call it, "" where it may be Stable Diffusion 1.x; a form of it that is
    trained otherwise has a name of its own."""
    found = denoiser_family(shapes)
    if found:
        return found
    found = next((family for start, family in _LDM_FAMILIES if any(_begins(name, start) for name in shapes)), "")
    if not found:  # SD 1.x projects with 1x1 convolutions
        projections = [shape for name, shape in shapes.items() if name.endswith(".proj_in.weight")]
        found = SD2 if any(len(shape) == 2 for shape in projections) else ""
    if found == SDXL:
        found = _form_of_sdxl(shapes)
    channels = (*shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight", (0, 4)), 0, 0)[1]
    if channels != 4 and found in ("", SD2, SDXL):
        return _by_channels(found, channels)
    return _UNCLIP if found == SD2 and any(_begins(name, "label_emb.") for name in shapes) else found


def is_sdxl_pickle(path: Path) -> bool:
    """Whether a pickle that is not examined yet names SDXL's second text encoder."""
    return pickle_mentions(path, b"conditioner.embedders.1.")


def foreign_unet(config: Mapping[str, Any]) -> str:
    """The same by the config of a UNet in a diffusers folder."""
    conditions = config.get("addition_embed_type")
    if conditions not in (None, "text_time"):
        return f"UNet with {conditions} conditions"
    found = SDXL if conditions else SD2 if config.get("use_linear_projection") else ""
    channels = config.get("in_channels", 4)
    if channels != 4:
        return _by_channels(found, channels)
    return _UNCLIP if found == SD2 and config.get("class_embed_type") else found


def foreign_folder(files: ModelFiles) -> str:
    """The same of a diffusers folder, by its index and its small configs; "" also where they do not tell."""
    is_sdxl = str(files.index.get("_class_name")).startswith("StableDiffusionXL")
    unet = files.path / "unet" / "config.json"
    if "transformer" in files.index or not unet.is_file():
        return SDXL if is_sdxl else ""
    found = foreign_unet(read_json(unet))
    if found != SDXL:
        return found
    if not is_sdxl:  # Kolors
        return str(files.index.get("_class_name", "?"))
    if files.index.get("text_encoder") in (None, [None, None]):
        return _REFINER
    configs = [files.path / "vae" / "config.json", files.path / "scheduler" / "scheduler_config.json"]
    vae, scheduler = (read_json(file) if file.is_file() else {} for file in configs)
    if vae.get("latents_mean") is not None:
        return _PLAYGROUND
    return _EDM if str(scheduler.get("_class_name")).startswith("EDM") else SDXL


def unrecognized(files: ModelFiles) -> ModelError:
    """The error that names what the files are, if only roughly."""
    path = str(files.path)
    is_folder = files.layout == "diffusers"
    found = foreign_folder(files) if is_folder else foreign_family(files.shapes)
    if is_folder and not found:
        found = pipeline_family(str(files.index.get("_class_name", "?")))
    if found:
        known = "model_form_unread" if is_trained(found) else "model_other_family"
        code = next((code for end, code in _REASONS.items() if found.endswith(end)), known)
        return ModelError(code, path=path, found=found)
    for code, key in _KINDS:
        if any(key.search(name) for name in files.shapes):
            return ModelError(code, path=path)
    rows = [shape for shape in files.shapes.values() if shape]
    if rows and len(files.shapes) <= 3 and all(len(row) <= 2 and row[-1] in _EMBEDDING_WIDTHS for row in rows):
        return ModelError("model_is_embedding", path=path)
    return ModelError("model_unknown", path=path)


def _begins(name: str, start: str) -> bool:
    return name.removeprefix(UNET_PREFIX).startswith(start)


def _form_of_sdxl(shapes: Shapes) -> str:
    if "edm_mean" in shapes or "edm_std" in shapes:
        return _PLAYGROUND
    if any(name.startswith("edm_vpred.") for name in shapes):
        return _EDM
    return _REFINER if any(name.startswith("conditioner.embedders.0.model.") for name in shapes) else SDXL


def _by_channels(family: str, channels: int) -> str:
    named = (_SD2_CHANNELS if family == SD2 else _INPUT_CHANNELS).get(channels)
    return f"{family or 'SD 1.x'} {named}" if named else f"UNet with {channels} input channels"
