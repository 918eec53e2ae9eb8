"""Rules of diffusers and ComfyUI for the names that LoRA files have, by family.

For diffusers the rules are measured: tests/lora_files/test_readers.py loads every form with diffusers and compares the
weights of all layers. ComfyUI's key maps and model classes (783545f6, 2026-08-22) were run apart from this project on
every form; for Qwen-Image 2.1 the modules of 08f68f09 with the key map of 17358c8f. So were Forge's (dfdcbab6,
2025-06-26) for FLUX.1, of which AUTOMATIC1111 has no models.
"""

from __future__ import annotations

import re
from typing import NamedTuple

DIFFUSERS, COMFYUI, WEBUI, FORGE = "diffusers 0.42.1", "ComfyUI 783545f6", "AUTOMATIC1111, Forge", "Forge dfdcbab6"
FORGE_LIMIT = 12
"""Keys without a match, above which Forge ignores the whole file."""


class Form(NamedTuple):
    """A spelling of the keys of a layer of the denoiser."""

    prefix: str
    names: str  # "D": the path of diffusers, "N": that of the original model
    pair: str  # "AB": lora_A and lora_B, "du": lora_down and lora_up


class Rule(NamedTuple):
    """The fate of a layer in a file without `.alpha` keys and in one with them: read; unscaled, read as if alpha were
    the rank; lost, without an error; refused, with the whole file."""

    without: str
    with_alphas: str
    only: str = ""  # an expression that the path, with "_" for ".", has to contain


Rules = dict[Form, list[Rule]]  # the first that fits the path counts


def _rules(table: str) -> Rules:
    rules: Rules = {}
    for line in table.strip().splitlines():
        prefix, names, pair, *rule = line.split()
        rules.setdefault(Form("" if prefix == "-" else prefix, names, pair), []).append(Rule(*rule))
    return rules


def fate(rules: Rules, form: Form, path: str, *, has_alphas: bool) -> str:
    """The fate of a layer; "" where its form is in no rule."""
    found = next((rule for rule in rules.get(form, ()) if re.search(rule.only, path)), None)
    return "" if found is None else found.with_alphas if has_alphas else found.without


OF_DIFFUSERS: dict[str, Rules] = {
    "krea2": _rules(
        """
        transformer.       D AB  read     refused
        transformer.       D du  refused  refused
        diffusion_model.   N AB  read     refused
        diffusion_model.   N du  refused  refused
        diffusion_model.   D AB  refused  refused
        diffusion_model.   D du  refused  refused
        base_model.model.  D AB  refused  refused
        -                  D AB  lost     refused
        -                  D du  lost     refused
        lora_unet_         N du  lost     lost
        lora_unet_         D du  lost     lost
        lora_transformer_  D du  lost     lost
        lycoris_           D du  lost     refused
        """
    ),
    "flux1": _rules(
        """
        transformer.       D AB  read     read
        transformer.       D du  read     unscaled
        transformer.       N AB  refused  refused
        diffusion_model.   N AB  lost     lost
        diffusion_model.   N du  read     read     _blocks_\\d
        diffusion_model.   N du  lost     lost
        diffusion_model.   D AB  lost     lost
        diffusion_model.   D du  refused  refused
        base_model.model.  D AB  refused  refused
        -                  D AB  lost     lost
        -                  D du  refused  refused
        -                  N AB  lost     lost
        lora_unet_         N du  read     read     _blocks_\\d
        lora_unet_         N du  lost     lost
        lora_unet_         D du  refused  refused
        lora_transformer_  D du  refused  refused
        lycoris_           D du  refused  refused
        """
    ),
    "flux2_klein": _rules(
        """
        transformer.       D AB  read     refused
        transformer.       D du  lost     lost
        transformer.       N AB  refused  refused
        diffusion_model.   N AB  read     refused
        diffusion_model.   N du  lost     lost
        diffusion_model.   D AB  read     refused  transformer_blocks_\\d
        diffusion_model.   D AB  refused  refused
        diffusion_model.   D du  lost     lost
        base_model.model.  D AB  read     refused  transformer_blocks_\\d
        base_model.model.  D AB  refused  refused
        -                  D AB  lost     refused
        -                  D du  lost     lost
        -                  N AB  lost     refused
        lora_unet_         N du  lost     lost     _modulation
        lora_unet_         N du  read     read
        lora_unet_         D du  lost     lost
        lora_transformer_  D du  lost     lost
        lycoris_           D du  lost     lost
        """
    ),
    "qwen_image21": _rules(
        """
        transformer.       D AB  read     refused
        transformer.       D du  refused  refused
        transformer.       N AB  lost     refused  gate_up$
        diffusion_model.   D AB  read     read
        diffusion_model.   D du  read     read
        diffusion_model.   N AB  lost     lost     gate_up$
        diffusion_model.   N du  lost     lost     gate_up$
        base_model.model.  D AB  lost     refused
        -                  D AB  lost     read
        -                  D du  lost     read
        -                  N AB  lost     lost     gate_up$
        lora_unet_         D du  lost     lost     gate_layer$
        lora_unet_         D du  read     read     transformer_blocks_\\d
        lora_unet_         D du  refused  refused
        lora_unet_         N du  lost     lost     gate_up$
        lora_transformer_  D du  lost     refused
        lycoris_           D du  lost     refused
        """
    ),
    "anima": _rules(
        """
        transformer.       D AB  read     refused
        transformer.       D du  refused  refused
        transformer.       N AB  refused  refused
        diffusion_model.   N AB  read     refused
        diffusion_model.   N du  refused  refused
        diffusion_model.   D du  refused  refused
        base_model.model.  D AB  lost     refused
        -                  D AB  lost     refused
        -                  D du  lost     refused
        -                  N AB  lost     refused
        lora_unet_         N du  lost     lost
        lora_unet_         D du  lost     lost
        lora_transformer_  D du  lost     lost
        lycoris_           D du  lost     refused
        """
    ),
    "zimage": _rules(
        """
        transformer.       D AB  read     refused
        transformer.       D du  refused  refused
        transformer.       N AB  lost     refused
        diffusion_model.   N AB  lost     refused
        diffusion_model.   N du  read     read     attention_out$
        diffusion_model.   N du  lost     lost
        diffusion_model.   D AB  read     read
        diffusion_model.   D du  read     read
        base_model.model.  D AB  lost     refused
        -                  D AB  lost     read
        -                  D du  lost     read
        -                  N AB  lost     refused
        lora_unet_         N du  read     read     attention_(qkv|out)$
        lora_unet_         N du  lost     lost
        lora_unet_         D du  read     read
        lora_transformer_  D du  lost     refused
        lycoris_           D du  lost     refused
        """
    ),
}
"""Rules for plain pairs of matrices. Kinds of more matrices are refused, but for OF_KRONECKER."""

OF_KRONECKER: dict[str, frozenset[tuple[str, str]]] = {
    "zimage": frozenset({("diffusion_model.", "D")}),
    "flux2_klein": frozenset({("lycoris_", "D"), ("diffusion_model.", "N"), ("lora_unet_", "N")}),
}
"""Prefixes and names under which it reads LoKr."""

_PLAIN = frozenset({("transformer.", "D"), ("lycoris_", "D"), ("", "D")})
OF_COMFYUI: dict[str, frozenset[tuple[str, str]]] = {
    "krea2": _PLAIN | {("diffusion_model.", "D")},
    "zimage": _PLAIN | {("diffusion_model.", "D")},
    "qwen_image21": _PLAIN,
    "flux1": _PLAIN | {("lora_transformer_", "D")},
    "flux2_klein": _PLAIN | {("lora_transformer_", "D")},
    "anima": frozenset(),
}
"""The prefixes that it reads besides those of every family, OF_COMFYUI_ALWAYS; with alphas and of every kind."""
NOT_OF_COMFYUI = {"flux2_klein": r"_stream_modulation_|^time_guidance_embed_"}
"""Paths of diffusers that it does not know, under whatever prefix."""
OF_COMFYUI_ALWAYS = frozenset({("diffusion_model.", "N"), ("lora_unet_", "N")})

OF_FORGE = {
    "flux1": OF_COMFYUI_ALWAYS | {("transformer.", "D"), ("lycoris_", "D"), ("lora_transformer_", "D")},
}
"""The prefixes that it reads of families that only it has, with alphas and of every kind."""
TEXT_OF_FORGE = re.compile(
    r"(lora_te1?_text_model_encoder_layers_|text_encoder\.text_model\.encoder\.layers\.)"
    r"\d+.(mlp.fc[12]|self_attn.[qkv]_proj|self_attn.out_proj)"
    r"|lora_te1_text_projection|lora_te[23]_encoder_block_\w+"
)
"""Modules of FLUX.1's text encoders that it reads: of CLIP with `text_model` in their names alone."""

_LDM = _rules(
    """
    unet.              D AB  read     refused
    unet.              D du  refused  refused
    -                  D AB  lost     refused
    base_model.model.  D AB  lost     refused
    lora_unet_         D du  read     read
    lora_unet_         N du  read     read
    lora_unet_         D AB  refused  refused
    lycoris_           D du  lost     refused
    diffusion_model.   D AB  lost     refused
    transformer.       D AB  lost     refused
    """
)
OF_DIFFUSERS |= dict.fromkeys(("sd15", "sd2", "sdxl"), _LDM)
OF_COMFYUI |= dict.fromkeys(("sd15", "sd2", "sdxl"), frozenset({("lora_unet_", "D"), ("lycoris_", "D")}))
