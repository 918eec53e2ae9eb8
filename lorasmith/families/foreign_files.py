"""What a file of weights is that is no Stable Diffusion 1.x model, told by the names and shapes of its tensors.

Reads no file; what a file is that holds no weights at all is told by `headers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lorasmith.errors import ModelError
from lorasmith.families import sd15_layout

Shapes = Mapping[str, tuple[int, ...]]

LORA_KEY = re.compile(
    r"^(lora_(unet|te\d?|transformer)|lycoris)_|(^|[._])(lora_(down|up|mid|A|B)|lora\.(down|up)|hada_w1_[ab]|lokr_w[12])\b"
)
INPUT_CHANNELS = {9: "SD 1.x inpainting", 8: "SD 1.x InstructPix2Pix"}

_FAMILIES = (  # the start of a key that only this family has, after "model.diffusion_model."
    ("joint_blocks.", "SD 3"),
    ("distilled_guidance_layer.", "Chroma"),
    ("single_stream_modulation.", "FLUX.2"),
    ("double_blocks.", "FLUX"),
    ("single_transformer_blocks.", "FLUX"),
    ("conditioner.embedders.", "SDXL"),
    ("label_emb.", "SDXL"),
    ("add_embedding.", "SDXL"),
    ("cond_stage_model.model.", "SD 2"),
    ("txt_norm.weight", "Qwen-Image"),
    ("cap_embedder.", "Lumina 2"),
    ("head.modulation", "Wan"),
    ("adaln_single.", "LTX"),
)
_CONTROL_NET = re.compile(
    r"^control_model\.|(^|\.)(controlnet_(cond_embedding|down_blocks|mid_block)|input_hint_block)\."
)
_KINDS = (  # what a file is that has no UNet in it, by a key
    ("model_is_adapter", re.compile(r"^(image_proj|ip_adapter|adapter\.body|body\.\d+\.(in_conv|block1))\b")),
    ("model_is_embedding", re.compile(r"^(emb_params|clip_[lg]|string_to_param(\..*)?)$")),
    (
        "model_is_upscaler",
        re.compile(r"^(params(_ema)?\.)?(conv_first\.|RRDB_trunk\.|body\.\d+\.rdb1\.|model\.1\.sub\.)"),
    ),
    ("model_is_unet", re.compile(r"^((diffusion_model|unet)\.)?(input_blocks\.0\.0\.|down_blocks\.0\.resnets\.0\.)")),
    (
        "model_is_vae",
        re.compile(r"^((first_stage_model|vae)\.)?((en|de)coder\.(conv_in|mid|down|up)|(post_)?quant_conv)\b"),
    ),
    (
        "model_is_text_encoder",
        re.compile(
            r"(^|\.)(text_model|vision_model)\.(encoder|embeddings)\.|^(text_encoder\.|encoder\.block\.0\.layer\.0\.)"
        ),
    ),
)
_EMBEDDING_WIDTHS = (768, 1024, 1280)


def refuse_foreign(path: Path, shapes: Shapes) -> None:
    """Nothing where the weights may be those of Stable Diffusion 1.x.

    Raises:
        ModelError: `model_is_lora`, `model_is_controlnet`, `model_other_family`.
    """
    if any(LORA_KEY.search(name) for name in shapes):
        raise ModelError("model_is_lora", path=str(path))
    if any(_CONTROL_NET.search(name) for name in shapes):
        raise ModelError("model_is_controlnet", path=str(path))
    prefix = sd15_layout.LDM_PREFIXES["unet"]
    for name in shapes:
        for start, family in _FAMILIES:
            if name.removeprefix(prefix).startswith(start):
                raise ModelError("model_other_family", path=str(path), found=family)
    channels = (*shapes.get(f"{prefix}input_blocks.0.0.weight", (0, 4)), 0, 0)[1]
    if channels != 4:
        found = INPUT_CHANNELS.get(channels, f"UNet with {channels} input channels")
        raise ModelError("model_other_family", path=str(path), found=found)
    projections = [shape for name, shape in shapes.items() if name.endswith(".proj_in.weight")]
    if any(len(shape) == 2 for shape in projections):  # SD 1.x projects with 1x1 convolutions
        raise ModelError("model_other_family", path=str(path), found="SD 2")


def without_unet(path: Path, shapes: Shapes) -> ModelError:
    """The error that says what a file is in which there is no UNet."""
    for code, key in _KINDS:
        if any(key.search(name) for name in shapes):
            return ModelError(code, path=str(path))
    rows = [shape for shape in shapes.values() if shape]
    if rows and len(shapes) <= 3 and all(len(row) <= 2 and row[-1] in _EMBEDDING_WIDTHS for row in rows):
        return ModelError("model_is_embedding", path=str(path))
    return ModelError("model_unknown", path=str(path))
