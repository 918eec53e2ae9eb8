"""The families of denoisers by the names and shapes of their tensors: those that are trained here, and many others that
people are likely to have. Reads no file.

A file is named after the first row of the table all of whose patterns fit some name, without the prefixes of programs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial

from lorasmith.families import FAMILIES
from lorasmith.families.weights import Shapes

_PREFIX = re.compile(r"^(model\.diffusion_model\.|diffusion_model\.|net\.|transformer\.|model\.model\.|model\.)")
_BLOCK = r"(transformer_)?blocks\.\d+\."
_TABLE = (  # what people say, patterns at the start of names; rows that are special cases of others come first
    ("Krea 2", (r"txtfusion\.|text_fusion\.",)),
    ("Ideogram 4", (r"llm_cond_proj\.",)),
    ("FLUX.3", (r"early_stream_modulations\.",)),
    ("FLUX.2 dev", (r"single_stream_modulation\.", r"guidance_in\.|time_guidance_embed\.guidance_embedder\.")),
    ("FLUX.2 klein", (r"single_stream_modulation\.",)),
    ("Qwen-Image 2.1", (r"txt_in\.text_norm\.",)),
    ("Chroma Radiance", (r"nerf_",)),
    ("Chroma", (r"distilled_guidance_layer\.",)),
    ("ERNIE-Image", (r"layers\.\d+\.mlp\.linear_fc2\.",)),
    ("HiDream-O1", (r"t_embedder1\.", r"x_embedder\.proj1\.")),
    ("HiDream", (r"double_stream_blocks\.",)),
    ("JoyImage", (r"double_blocks\.\d+\.attn\.img_attn_qkv\.",)),
    ("Qwen-Image-Layered", (r"txt_norm\.", r"time_text_embed\.addition_t_embedding\.")),
    ("Qwen-Image-Edit", (r"txt_norm\.", r"__index_timestep_zero__")),
    ("Qwen-Image", (r"txt_norm\.", r"txt_in\.", rf"{_BLOCK}txt_mlp\.")),
    ("Nucleus-Image", (r"txt_norm\.", rf"{_BLOCK}attn\.add_k_proj\.")),
    ("Z-Image Omni", (r"siglip_embedder\.",)),
    ("Z-Image", (r"cap_pad_token|x_pad_token",)),
    ("FIBO 2", (r"perceiver\.", r"noise_refiner\.")),
    ("Lumina 2", (r"cap_embedder\.|time_caption_embed\.",)),
    ("Anima", (r"llm_adapter\.",)),
    ("Hunyuan", (r"txt_in\.individual_token_refiner\.|context_embedder\.token_refiner\.",)),
    ("Ovis-Image", (r"context_embedder_norm\.",)),
    ("FIBO", (r"single_transformer_blocks\.", r"caption_projection\.")),
    ("LongCat-Image", (r"single_transformer_blocks\.", r"time_embed\.")),
    ("AuraFlow", (r"joint_transformer_blocks\.|double_layers\.",)),
    ("SD 3.5", (r"joint_blocks\.", r"joint_blocks\.\d+\.x_block\.attn\.ln_q\.")),
    ("SD 3.5", (r"pos_embed\.proj\.", rf"{_BLOCK}attn\.add_q_proj\.", rf"{_BLOCK}attn\.norm_q\.")),
    ("SD 3", (r"joint_blocks\.",)),
    ("SD 3", (r"pos_embed\.proj\.", rf"{_BLOCK}attn\.add_q_proj\.")),
    ("FLUX.1 dev", (r"single_blocks\.", r"guidance_in\.")),
    ("FLUX.1 schnell", (r"single_blocks\.", r"time_in\.")),
    ("FLUX.1 dev", (r"single_transformer_blocks\.", r"time_text_embed\.guidance_embedder\.")),
    ("FLUX.1 schnell", (r"single_transformer_blocks\.", r"time_text_embed\.")),
    ("FLUX.1", (r"double_blocks\.|single_blocks\.|single_transformer_blocks\.",)),
    ("Mochi", (rf"{_BLOCK}attn(\.qkv_x|1\.add_q_proj)\.",)),
    ("GLM-Image", (r"glyph_projector\.",)),
    ("CogView 4", (r"time_condition_embed\.",)),
    ("Cosmos", (r"blocks\.\d+\.(mlp\.layer1|adaln_modulation_self_attn)\.|time_embed\.t_embedder\.",)),
    ("Sana", (r"attention_y_norm\.|caption_norm\.",)),
    ("LTX", (r"patchify_proj\.|audio_proj_in\.",)),
    ("LTX", (r"proj_in\.", r"scale_shift_table$", r"caption_projection\.")),
    ("PixArt", (r"adaln_single\.|blocks\.\d+\.cross_attn\.q_linear\.",)),
    ("Wan", (r"head\.modulation",)),
    ("Wan", (r"patch_embedding\.", r"condition_embedder\.")),
    ("Stable Cascade", (r"clip_txt_mapper\.",)),
)
_FLUX_INPUTS = {384: "FLUX.1 Fill", 128: "FLUX.1 Canny or Depth", 196: "Flex.2"}  # width of a token -> form
_TRAINED = {
    "Krea 2": "krea2",
    "Anima": "anima",
    "Z-Image": "zimage",
    "Qwen-Image 2.1": "qwen_image21",
    "FLUX.2 klein": "flux2_klein",
    "FLUX.1 dev": "flux1",
}
_Z_IMAGE_WIDTH = 3840  # of Lumina 2 it is 2304


def denoiser_family(shapes: Shapes) -> str:
    """The family of flow matching, as people call it, that has these tensors; "" where the table has none."""
    bare = {_PREFIX.sub("", name): shape for name, shape in shapes.items()}
    for family, patterns in _TABLE:
        if all(_occurs(pattern, bare) for pattern in patterns):
            return _by_width(family, bare)
    return ""


def is_trained(family: str) -> bool:
    """Whether a family of the table is trained here, in other files than those that were refused."""
    return _TRAINED.get(family) in FAMILIES


def pipeline_family(pipeline: str) -> str:
    """The family of a pipeline's class, as people call it: the class's name where nothing else is known."""
    found = next((family for start, family in _PIPELINES if pipeline.startswith(start)), "")
    return found or pipeline


_PIPELINES = (  # the start of a class name -> the family
    ("FluxKontext", "FLUX.1 Kontext"),
    ("FluxFill", "FLUX.1 Fill"),
    ("FluxControlNet", "FLUX.1 with a ControlNet"),
    ("FluxControl", "FLUX.1 Canny or Depth"),
    ("Flux2KleinKV", "FLUX.2 klein KV"),
    ("Flux2Klein", "FLUX.2 klein"),
    ("Flux2", "FLUX.2 dev"),
    ("Flux3", "FLUX.3"),
    ("Flux", "FLUX.1"),
    ("StableDiffusion3", "SD 3"),
    ("QwenImage21", "Qwen-Image 2.1"),
    ("QwenImageEdit", "Qwen-Image-Edit"),
    ("QwenImageLayered", "Qwen-Image-Layered"),
    ("QwenImage", "Qwen-Image"),
    ("ZImageOmni", "Z-Image Omni"),
    ("ZImage", "Z-Image"),
    ("Krea2", "Krea 2"),
    ("Anima", "Anima"),
    ("Ideogram4", "Ideogram 4"),
    ("ErnieImage", "ERNIE-Image"),
    ("Chroma", "Chroma"),
    ("HiDream", "HiDream"),
    ("Lumina2", "Lumina 2"),
    ("Lumina", "Lumina"),
    ("BriaFibo2", "FIBO 2"),
    ("BriaFibo", "FIBO"),
    ("LongCatImage", "LongCat-Image"),
    ("OvisImage", "Ovis-Image"),
    ("GlmImage", "GLM-Image"),
    ("NucleusMoE", "Nucleus-Image"),
    ("JoyImage", "JoyImage"),
    ("Hunyuan", "Hunyuan"),
    ("Wan", "Wan"),
    ("LTX", "LTX"),
    ("Sana", "Sana"),
    ("PixArt", "PixArt"),
    ("AuraFlow", "AuraFlow"),
    ("CogView4", "CogView 4"),
    ("Cosmos", "Cosmos"),
    ("Mochi", "Mochi"),
    ("Kolors", "Kolors"),
    ("StableCascade", "Stable Cascade"),
)


def _occurs(pattern: str, names: Iterable[str]) -> bool:
    fits: Callable[[str], object] = partial(re.match, pattern)
    return any(map(fits, names))


def _by_width(family: str, shapes: Shapes) -> str:
    """The form of a family by the widths of its inputs."""
    if family == "Lumina 2":
        width = (*shapes.get("cap_embedder.1.weight", ()), 0)[0]
        return "Z-Image" if width == _Z_IMAGE_WIDTH else family
    if family.startswith("FLUX.1"):
        shape = shapes.get("img_in.weight") or shapes.get("x_embedder.weight") or ()
        return _FLUX_INPUTS.get((*shape, 0, 0)[1], family)
    return family
