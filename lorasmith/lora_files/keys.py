"""The keys of LoRA files: which naming a key has, which layer it is for, and which tensor of it. Knows no family."""

from __future__ import annotations

import re
from typing import NamedTuple

DOWN, UP, MID, ALPHA, DORA = "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale"

# Ends of keys -> the same tensor in the names of sd-scripts and LyCORIS.
_ENDS = {
    ".lora_down.weight": DOWN,
    ".lora_up.weight": UP,
    ".lora_mid.weight": MID,
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora_A.default.weight": DOWN,
    ".lora_B.default.weight": UP,
    ".lora_A": DOWN,
    ".lora_B": UP,
    ".lora.down.weight": DOWN,
    ".lora.up.weight": UP,
    "_lora.down.weight": DOWN,
    "_lora.up.weight": UP,
    ".lora_linear_layer.down.weight": DOWN,
    ".lora_linear_layer.up.weight": UP,
    ".lora_up.bias": "lora_up.bias",
    ".lora_B.bias": "lora_up.bias",
    ".alpha": ALPHA,
    ".lora_alpha": ALPHA,
    ".network_alpha": ALPHA,
    ".dora_scale": DORA,
    ".lora_magnitude_vector": DORA,
    ".lora_magnitude_vector.weight": DORA,
    ".lora_magnitude_vector.default.weight": DORA,
    ".oft_R.weight": "oft_R.weight",
    **{
        f".{name}": name
        for name in (
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
            *("scalar", "diff", "diff_b", "w_norm", "b_norm", "oft_blocks", "oft_diag", "rescale"),
            *("a1.weight", "a2.weight", "b1.weight", "b2.weight", "on_input", "weight"),
        )
    },
}
_LONGEST_FIRST = sorted(_ENDS, key=len, reverse=True)

# Beginnings of keys: naming, part of the model, and the beginning itself; the first that fits counts.
_BEGINNINGS = (
    ("kohya", "text_encoder_2", "lora_te2_"),
    ("kohya", "text_encoder_3", "lora_te3_"),
    ("kohya", "text_encoder", "lora_te1_"),
    ("kohya", "text_encoder", "lora_te_"),
    ("kohya", "denoiser", "lora_unet_"),
    ("kohya", "denoiser", "lora_prior_unet_"),
    ("kohya", "denoiser", "lora_transformer_"),
    ("onetrainer", "text_encoder_2", "lora_te2."),
    ("onetrainer", "text_encoder_3", "lora_te3."),
    ("onetrainer", "text_encoder", "lora_te1."),
    ("onetrainer", "text_encoder", "lora_te."),
    ("onetrainer", "denoiser", "lora_unet."),
    ("onetrainer", "denoiser", "lora_transformer."),
    ("omi", "text_encoder_2", "clip_g."),
    ("omi", "text_encoder", "clip_l."),
    ("omi", "text_encoder_3", "t5."),
    ("lycoris", "denoiser", "lycoris_"),
    ("peft", "", "base_model.model."),
    ("comfyui", "denoiser", "diffusion_model."),
    ("comfyui", "text_encoder", "text_encoders."),
    ("diffusers", "text_encoder_2", "text_encoder_2."),
    ("diffusers", "text_encoder_3", "text_encoder_3."),
    ("diffusers", "text_encoder", "text_encoder."),
    ("diffusers", "denoiser", "unet."),
    ("diffusers", "denoiser", "transformer."),
    ("diffusers", "denoiser", "prior."),
)
_TEXT_PATH = re.compile(r"^(text_model\.)?encoder\.layers\.\d")
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)$")
# XLabs' trainer: "double_blocks.0.processor.qkv_lora1.down.weight", where 1 is the stream of the picture.
_XLABS = re.compile(r"(\S+\.processor\.\w+_lora\d)\.(down|up)\.weight")
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


class Key(NamedTuple):
    """A key of a file, taken apart."""

    module: str  # its beginning: the same for all tensors of a layer
    suffix: str  # the tensor, in the names of sd-scripts and LyCORIS
    naming: str
    component: str  # denoiser, text_encoder, text_encoder_2 …
    path: str  # of the layer in its component, with "_" for "."
    dotted: str  # the same as the file writes it


def split_key(key: str) -> Key | None:
    """The parts of a key; None where it belongs to no adapter that is known."""
    if found := _XLABS.fullmatch(key):
        path = found[1]
        return Key(path, DOWN if found[2] == "down" else UP, "xlabs", "denoiser", path.replace(".", "_"), path)
    end = next((end for end in _LONGEST_FIRST if key.endswith(end)), None)
    if end is None:
        return None
    module = key.removesuffix(end)
    naming, component, beginning = next((row for row in _BEGINNINGS if module.startswith(row[2])), ("bare", "", ""))
    dotted = module.removeprefix(beginning)
    if not component:
        component = "text_encoder" if _TEXT_PATH.match(dotted) else "denoiser"
    if naming in ("diffusers", "bare") and _is_old(key, end):
        naming, dotted = "diffusers_old", _modern(dotted)
    elif naming == "diffusers" and _ENDS[end] in (DOWN, UP) and end.startswith((".lora_down", ".lora_up")):
        naming = "omi"  # diffusers itself never writes these two in dotted names
    return Key(module, _ENDS[end], naming, component, dotted.replace(".", "_"), dotted)


def _is_old(key: str, end: str) -> bool:
    return ".processor." in key or end.startswith((".lora.", "_lora.", ".lora_linear_layer."))


def _modern(path: str) -> str:
    """The path of a layer by its path in diffusers before PEFT, which named attention processors."""
    found = _PROCESSOR.search(path)
    if found:
        layer = "to_out.0" if found[1] == "out" else f"to_{found[1]}"
        return f"{path[: found.start()]}.{layer}"
    stem, _, last = path.rpartition(".")
    return f"{stem}.{_OLD_TEXT[last]}" if stem.endswith("self_attn") and last in _OLD_TEXT else path
