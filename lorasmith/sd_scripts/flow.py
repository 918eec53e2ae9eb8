"""Models of flow matching: what `flux_train_network.py`, `anima_train_network.py` and musubi-tuner's scripts take
besides."""

from __future__ import annotations

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.arguments import OF_FLOW, OF_MUSUBI
from lorasmith.sd_scripts.command_line import Given
from lorasmith.sd_scripts.settings import Settings
from lorasmith.sd_scripts.table import DONE

SAID_TWICE = ("none", "uniform")  # values of --weighting_scheme for the same
LOSS_WEIGHTS = {"sigma_sqrt": "sigma-sqrt", "cosmap": "cosmap"}
"""Scheme -> our weighting of the loss. With these the levels are uniform."""
OF_SCHEMES = ("logit_mean", "logit_std", "mode_scale", "weighting_scheme")
BLOCKS = {
    "flux_train_network": 38,
    "anima_train_network": 28,
    "zimage_train_network": 30,
    "krea2_train_network": 28,
    "flux_2_train_network": 20,
}
"""Blocks of the published model, of which `--blocks_to_swap` keeps some in the computer's memory. FLUX.1 has 19 of two
streams and 38 of one, which count as half a block; FLUX.2 klein 9B has 8 and 24."""
BY_RESOLUTION = {"flux_train_network": "flux_shift", "krea2_train_network": "krea2_shift"}
"""Script -> the sampling with the shift that the model has here anyway."""
ANY_MODEL = ("sigma", "uniform", "sigmoid", "shift")
OF_SPLIT_MODE = 18  # blocks that sd-scripts swaps for it
LIMITS = ("min_timestep", "max_timestep")
IGNORED = (
    *("min_timestep", "max_timestep", "noise_offset", "noise_offset_random_strength", "adaptive_noise_scale"),
    *("multires_noise_iterations", "multires_noise_discount"),
    *("min_snr_gamma", "debiased_estimation_loss", "scale_v_pred_loss_like_noise_pred", "v_pred_like_loss"),
    *("clip_skip", "max_token_length"),
)
"""Arguments that sd-scripts accepts for these models and does not use."""
UNLIMITED = {"max_timestep": 1000, "clip_skip": 1}
"""Values of them that ask for nothing, besides 0."""
CACHED = ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")
FP8 = ("fp8_base", "fp8_base_unet")


def flow(given: Given, settings: Settings) -> None:
    """Sets files, noise levels and memory of a model of flow matching; nothing for other scripts."""
    if given.script not in OF_FLOW:
        return
    _text_encoders(given, settings)
    if "turbo" not in str(given.value("dit") if given.script in OF_MUSUBI else "").lower():
        settings.values["base-form"] = "base"  # the script names the model: its file is taken as it is
    _files(given, settings)
    _levels(given, settings)
    _memory(given, settings)
    if given.script == "flux_train_network":
        _of_flux(given, settings)


def _text_encoders(given: Given, settings: Settings) -> None:
    """They stay frozen. sd-scripts trains none of Anima's where their outputs are cached, and one of FLUX.1's;
    musubi-tuner never trains any."""
    is_cached = any(given.has(name) for name in CACHED) or given.script in OF_MUSUBI
    if given.script != "flux_train_network" and is_cached and not given.has("network_train_text_encoder_only"):
        settings.set("train-text-encoder", False, "cache_text_encoder_outputs")
        settings.values.pop("text-encoder-lr", None)
    if settings.values.get("train-text-encoder"):
        raise ConfigError("sd_text_encoder_frozen", script=f"{given.script}.py")


def _files(given: Given, settings: Settings) -> None:
    names = [name for name in ("clip_l", "t5xxl", "qwen3", "text_encoder") if given.has(name)]
    if names:
        settings.set("text-encoder", [given.value(name) for name in names], names[0])
    for name, option in (("ae", "vae"), ("dit", "base-model")):
        if given.has(name):
            settings.set(option, given.value(name), name)
    for name in ("fp8_llm", "fp8_text_encoder"):
        if given.has(name):
            settings.set("text-encoder-precision", "fp8", name)


def _levels(given: Given, settings: Settings) -> None:
    """The density of noise levels.

    With `--timestep_sampling sigma` a scheme gives the place in a list that begins with noise, so its mean is turned
    here, and the list is shifted; the other ways have no scheme, and only two of them a shift.
    """
    sampling, scheme = given.value("timestep_sampling"), given.value("weighting_scheme")
    shift = given.value("discrete_flow_shift")
    if sampling not in (*ANY_MODEL, BY_RESOLUTION.get(given.script)):
        raise ConfigError("sd_flux_shift", argument=f"--timestep_sampling {sampling}")
    if sampling == "sigma":
        _by_scheme(scheme, given, settings)
        settings.set("timestep-shift", shift, "discrete_flow_shift")
        _unused(given, settings, "sigmoid_scale")
    else:
        is_uniform = sampling == "uniform"
        settings.set("timestep-density", "uniform" if is_uniform else "logit-normal", "timestep_sampling")
        if not is_uniform:
            settings.set("logit-std", given.value("sigmoid_scale"), "sigmoid_scale")
        if sampling == "shift":
            settings.set("timestep-shift", shift, "discrete_flow_shift")
        elif sampling != BY_RESOLUTION.get(given.script):
            settings.set("timestep-shift", 1.0, "timestep_sampling")
        weights = () if given.script != "flux_train_network" and scheme in LOSS_WEIGHTS else ("weighting_scheme",)
        _unused(given, settings, "logit_mean", "logit_std", "mode_scale", *weights)
        if sampling != "shift":
            _unused(given, settings, "discrete_flow_shift", *(("sigmoid_scale",) if is_uniform else ()))
    if given.script != "flux_train_network" and scheme in LOSS_WEIGHTS:
        settings.set("flow-weighting", LOSS_WEIGHTS[scheme], "weighting_scheme")
    if given.script in OF_MUSUBI:
        _limits(given)
        return
    popped = {name: settings.values.pop(DONE[name].options[0], None) for name in IGNORED}
    ignored = [
        f"--{name}" for name, value in popped.items() if value and value != UNLIMITED.get(name) and given.has(name)
    ]
    if ignored:
        settings.note("sd_ignored_for_flow", arguments=ignored)


def _limits(given: Given) -> None:
    """Refuses limits into which musubi-tuner squeezes a density; a part of it, as here, is trained where asked for.

    Raises:
        ConfigError: `sd_limits_squeeze`.
    """
    limits = [f"--{name}" for name in LIMITS if given.value(name) not in (None, 0, UNLIMITED["max_timestep"])]
    sampling = given.value("timestep_sampling")
    is_part = sampling == "uniform" or (given.has("preserve_distribution_shape") and sampling != "sigma")
    if limits and not is_part:
        raise ConfigError("sd_limits_squeeze", argument=limits[0])


def _by_scheme(scheme: str, given: Given, settings: Settings) -> None:
    density = {"logit_normal": "logit-normal", "mode": "mode"}.get(scheme, "uniform")
    settings.set("timestep-density", density, "weighting_scheme")
    if density == "logit-normal":
        settings.set("logit-mean", -given.value("logit_mean"), "logit_mean")
        settings.set("logit-std", given.value("logit_std"), "logit_std")
    if density == "mode":
        settings.set("mode-scale", given.value("mode_scale"), "mode_scale")
    used = {"logit-normal": ("logit_mean", "logit_std"), "mode": ("mode_scale",)}.get(density, ())
    _unused(given, settings, *(name for name in ("logit_mean", "logit_std", "mode_scale") if name not in used))
    if given.script == "flux_train_network" and scheme in LOSS_WEIGHTS:
        _unused(given, settings, "weighting_scheme")


def _unused(given: Given, settings: Settings, *names: str) -> None:
    """Notes those of the arguments that are given with a value other than the default, and have no effect."""
    defaults = Given({}, script=given.script)
    unused = [f"--{name}" for name in names if given.has(name) and given.value(name) != defaults.value(name)]
    unused = [name for name in unused if not (name == "--weighting_scheme" and given.value(name[2:]) in SAID_TWICE)]
    if unused:
        settings.note("sd_levels_unused", arguments=unused, sampling=given.value("timestep_sampling"))


def _memory(given: Given, settings: Settings) -> None:
    swapped = given.value("blocks_to_swap") or 0
    argument = "blocks_to_swap"
    if given.has("split_mode") and not given.has("blocks_to_swap"):
        swapped, argument = OF_SPLIT_MODE, "split_mode"
    if swapped:
        settings.set("base-offload", min(1.0, swapped / BLOCKS[given.script]), argument)
    for name in ("unsloth_offload_checkpointing", "gradient_checkpointing_cpu_offload"):
        if given.has(name):
            settings.set("gradient-checkpointing", "offload", name)
    if given.script == "anima_train_network" and any(given.has(name) for name in FP8):
        settings.values.pop("base-precision", None)
        settings.note("sd_no_fp8", arguments=[f"--{name}" for name in FP8 if given.has(name)])


def _of_flux(given: Given, settings: Settings) -> None:
    """Notes where sd-scripts' defaults differ from what is done here; where they are typed they are refused."""
    if not given.has("model_prediction_type"):
        settings.note("sd_default_prediction_type")
    if not given.has("guidance_scale"):
        settings.note("sd_default_guidance", guidance=f"{given.value('guidance_scale'):g}")
