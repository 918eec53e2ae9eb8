"""Rules of diffusers and ComfyUI for the names that LoRA files have, by family.

For diffusers the rules are measured: tests/lora_files/test_readers.py loads every form with diffusers and compares the
weights of all layers. ComfyUI's are those of its `comfy/lora.py`, which was run apart from this project.
"""

from __future__ import annotations

from typing import NamedTuple

DIFFUSERS, COMFYUI, WEBUI = "diffusers 0.42.1", "ComfyUI 17358c8f", "AUTOMATIC1111, Forge"


class Form(NamedTuple):
    """A spelling of the keys of a layer of the denoiser."""

    prefix: str
    names: str  # "D": the path of diffusers, "N": that of the original model
    pair: str  # "AB": lora_A and lora_B, "du": lora_down and lora_up


class Rule(NamedTuple):
    """The outcome without `.alpha` keys and with them: whole, part or nothing (both without an error), refused."""

    without: str
    with_alphas: str


def _rules(table: str) -> dict[Form, Rule]:
    rows = (line.split() for line in table.strip().splitlines())
    return {Form("" if row[0] == "-" else row[0], row[1], row[2]): Rule(row[3], row[4]) for row in rows}


OF_DIFFUSERS: dict[str, dict[Form, Rule]] = {
    "krea2": _rules(
        """
        transformer.       D AB  whole    refused
        transformer.       D du  refused  refused
        diffusion_model.   N AB  whole    refused
        diffusion_model.   N du  refused  refused
        diffusion_model.   D AB  refused  refused
        diffusion_model.   D du  refused  refused
        base_model.model.  D AB  refused  refused
        -                  D AB  nothing  refused
        -                  D du  nothing  refused
        lora_unet_         N du  nothing  nothing
        lora_unet_         D du  nothing  nothing
        lora_transformer_  D du  nothing  nothing
        lycoris_           D du  nothing  refused
        """
    ),
}
"""Rules for plain pairs of matrices. Kinds of more matrices are refused, but for OF_KRONECKER."""

OF_KRONECKER: dict[str, frozenset[tuple[str, str]]] = {}
"""Prefixes and names under which it reads LoKr."""

OF_COMFYUI: dict[str, frozenset[tuple[str, str]]] = {
    "krea2": frozenset({("diffusion_model.", "D"), ("transformer.", "D"), ("lycoris_", "D"), ("", "D")}),
}
"""The prefixes that it reads besides those of every family, OF_COMFYUI_ALWAYS; with alphas and of every kind."""
OF_COMFYUI_ALWAYS = frozenset({("diffusion_model.", "N"), ("lora_unet_", "N")})

_LDM = _rules(
    """
    unet.              D AB  whole    refused
    unet.              D du  refused  refused
    -                  D AB  nothing  refused
    base_model.model.  D AB  nothing  refused
    lora_unet_         D du  whole    whole
    lora_unet_         N du  whole    whole
    lora_unet_         D AB  refused  refused
    lycoris_           D du  nothing  refused
    diffusion_model.   D AB  nothing  refused
    transformer.       D AB  nothing  refused
    """
)
OF_DIFFUSERS |= dict.fromkeys(("sd15", "sd2", "sdxl"), _LDM)
OF_COMFYUI |= dict.fromkeys(("sd15", "sd2", "sdxl"), frozenset({("lora_unet_", "D"), ("lycoris_", "D")}))
