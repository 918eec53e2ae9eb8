"""The settings of OneTrainer that are about models of flow matching."""

from __future__ import annotations

import re

from lorasmith.other_trainers.imported import Imported, Source, one_of

MODELS = ("FLUX_DEV_1", "FLUX_2", "ANIMA", "KREA_2", "Z_IMAGE")
RESOLUTION_SHIFTS = ("FLUX_DEV_1", "KREA_2")
"""Models whose shift by resolution there is that of their own scheduler, which is the default here."""
CODECS = {"FLOAT_8": "fp8", "INT_8": "int8", "NFLOAT_4": "nf4", "INT_W8A8": "w8a8"}
PLAIN = dict.fromkeys(("FLOAT_32", "BFLOAT_16", "FLOAT_16", "TFLOAT_32", "NONE"), "auto")
TEXT_CODECS = {name: codec for name, codec in CODECS.items() if codec != "w8a8"}
DENSITIES = {"UNIFORM": "uniform", "LOGIT_NORMAL": "logit-normal", "HEAVY_TAIL": "mode", "COS_MAP": "cosmap"}
OF_SNR = ("min_snr_gamma", "debiased_estimation_loss")
LIMITS = ("min_noising_strength", "max_noising_strength")
UNUSED = frozenset({"include", "stop_training_after", "stop_training_after_unit", "train_embedding"})
ENCODERS = ("text_encoder", "text_encoder_2")


def flow_parts(source: Source, found: Imported) -> None:
    """The denoiser and the text encoders, which stay frozen: their files and the form they are kept in."""
    transformer = source.part("transformer")
    found.take(transformer, "learning_rate", "lr", float)
    found.take(transformer, "weight_dtype", "base_precision", one_of({**CODECS, **PLAIN}))
    found.take(transformer, "offload_fraction", "base_offload", float)
    if transformer.read("model_name"):  # a denoiser beside the other parts of a folder
        found.leave("transformer.model_name", transformer.read("model_name"))
    if transformer.read("train") is False:
        found.leave("transformer.train", False)
    checkpoints = source.read("gradient_checkpointing", transformer.read("gradient_checkpointing", True))
    is_offloaded = checkpoints == "CPU_OFFLOADED" or transformer.read("activation_offloading", False)
    found.values["gradient_checkpointing"] = "offload" if is_offloaded else checkpoints not in (False, "OFF")
    if float(transformer.read("guidance_scale", 1.0)) != 1:
        found.leave("transformer.guidance_scale", transformer.read("guidance_scale"))
    found.leave_rest(transformer, UNUSED)
    files: list[str] = []
    for name in ENCODERS:
        part = source.part(name)
        found.take(part, "weight_dtype", "text_encoder_precision", one_of({**TEXT_CODECS, **PLAIN}))
        files += [part.read("model_name")] if part.read("model_name") else []
        if part.read("dropout_probability"):
            found.values["caption_dropout_rate"] = part.read("dropout_probability")
        for setting in ("train", "offload_fraction"):
            if part.read(setting):
                found.leave(part.full(setting), part.read(setting))
        if source.read(f"{name}_layer_skip", 0):
            found.leave(f"{name}_layer_skip", source.read(f"{name}_layer_skip"))
    if files:
        found.values["text_encoder"] = files


def flow_layers(source: Source, found: Imported) -> None:
    """The layers whose names hold one of the patterns; all of the denoiser where there is none."""
    patterns = [pattern.strip() for pattern in str(source.read("layer_filter") or "").split(",")]
    is_regex = bool(source.read("layer_filter_regex", False))
    source.read("layer_filter_preset")
    if "" in patterns:
        found.values["targets"] = "full"
        return
    parts = [_anchored(pattern) if is_regex else f".*{re.escape(pattern)}" for pattern in patterns]
    found.values["targets"] = rf"^denoiser\.({'|'.join(parts)})"


def _anchored(pattern: str) -> str:
    """A regular expression behind the component of our names."""
    return f"(?:{pattern[1:]})" if pattern.startswith("^") else f".*(?:{pattern})"


def flow_levels(source: Source, found: Imported, model: str) -> None:
    """The noise levels; the weights of the loss are those of a constant."""
    for key in OF_SNR:
        if key in found.values:
            found.values.pop(key)
            found.leave("loss_weight_fn", source.read("loss_weight_fn"), "value")
    name = str(source.read("timestep_distribution", "UNIFORM"))
    bias, weight = float(source.read("noising_bias", 0.0)), float(source.read("noising_weight", 0.0))
    density = DENSITIES.get(name)
    if density is None:
        found.leave("timestep_distribution", name, "value")
    else:
        found.values["timestep_density"] = density
    if density == "logit-normal":
        found.values |= {"logit_mean": bias, "logit_std": weight + 1.0}
    elif density == "mode":
        found.values["mode_scale"] = weight
    _shift(source, found, model)
    is_part_of_plain = density == "uniform" and found.values.get("timestep_shift") == 1
    for key, limit in zip(("min_timestep", "max_timestep"), LIMITS, strict=True):
        if key in found.values and not is_part_of_plain:  # there the whole density is squeezed into the limits
            found.values.pop(key)
            found.leave(limit, source.read(limit))


def _shift(source: Source, found: Imported, model: str) -> None:
    fixed = float(source.read("timestep_shift", 1.0))
    if not source.read("dynamic_timestep_shifting", False):
        found.values["timestep_shift"] = fixed
    elif model not in RESOLUTION_SHIFTS:
        found.leave("dynamic_timestep_shifting", True)
