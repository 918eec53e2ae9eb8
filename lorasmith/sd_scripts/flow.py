"""Models of flow matching: what `flux_train_network.py` and `anima_train_network.py` take besides."""

from __future__ import annotations

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.arguments import OF_FLOW
from lorasmith.sd_scripts.command_line import Given
from lorasmith.sd_scripts.settings import Settings
from lorasmith.sd_scripts.table import DONE

SAID_TWICE = ("none", "uniform")  # values of --weighting_scheme for the same
LOSS_WEIGHTS = {"sigma_sqrt": "sigma-sqrt", "cosmap": "cosmap"}
"""Scheme -> our weighting of the loss. With these the levels are uniform."""
OF_SCHEMES = ("logit_mean", "logit_std", "mode_scale", "weighting_scheme")
BLOCKS = {"flux_train_network": 38, "anima_train_network": 28}
"""Blocks of the published model, of which `--blocks_to_swap` keeps some in the computer's memory. FLUX.1 has 19 of two
streams and 38 of one, which count as half a block."""
OF_SPLIT_MODE = 18  # blocks that sd-scripts swaps for it
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
    settings.values["base-form"] = "base"  # the script names the model: sd-scripts takes its file as it is
    _files(given, settings)
    _levels(given, settings)
    _memory(given, settings)
    if given.script == "flux_train_network":
        _of_flux(given, settings)


def _text_encoders(given: Given, settings: Settings) -> None:
    """They stay frozen. sd-scripts trains none of Anima's where their outputs are cached, and one of FLUX.1's."""
    is_cached = any(given.has(name) for name in CACHED)
    if given.script == "anima_train_network" and is_cached and not given.has("network_train_text_encoder_only"):
        settings.set("train-text-encoder", False, "cache_text_encoder_outputs")
        settings.values.pop("text-encoder-lr", None)
    if settings.values.get("train-text-encoder"):
        raise ConfigError("sd_text_encoder_frozen", script=f"{given.script}.py")


def _files(given: Given, settings: Settings) -> None:
    names = [name for name in ("clip_l", "t5xxl", "qwen3") if given.has(name)]
    if names:
        settings.set("text-encoder", [given.value(name) for name in names], names[0])
    if given.has("ae"):
        settings.set("vae", given.value("ae"), "ae")


def _levels(given: Given, settings: Settings) -> None:
    """The density of noise levels.

    With `--timestep_sampling sigma` a scheme gives the place in a list that begins with noise, so its mean is turned
    here, and the list is shifted; the other ways have no scheme, and only two of them a shift.
    """
    sampling, scheme = given.value("timestep_sampling"), given.value("weighting_scheme")
    shift = given.value("discrete_flow_shift")
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
        elif sampling != "flux_shift":
            settings.set("timestep-shift", 1.0, "timestep_sampling")
        elif given.script != "flux_train_network":
            raise ConfigError("sd_flux_shift", argument="--timestep_sampling flux_shift")
        weights = () if given.script == "anima_train_network" and scheme in LOSS_WEIGHTS else ("weighting_scheme",)
        _unused(given, settings, "logit_mean", "logit_std", "mode_scale", *weights)
        if sampling != "shift":
            _unused(given, settings, "discrete_flow_shift", *(("sigmoid_scale",) if is_uniform else ()))
    if given.script == "anima_train_network" and scheme in LOSS_WEIGHTS:
        settings.set("flow-weighting", LOSS_WEIGHTS[scheme], "weighting_scheme")
    popped = {name: settings.values.pop(DONE[name].options[0], None) for name in IGNORED}
    ignored = [
        f"--{name}" for name, value in popped.items() if value and value != UNLIMITED.get(name) and given.has(name)
    ]
    if ignored:
        settings.note("sd_ignored_for_flow", arguments=ignored)


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
    if given.has("unsloth_offload_checkpointing"):
        settings.set("gradient-checkpointing", "offload", "unsloth_offload_checkpointing")
    if given.script == "anima_train_network" and any(given.has(name) for name in FP8):
        settings.values.pop("base-precision", None)
        settings.note("sd_no_fp8", arguments=[f"--{name}" for name in FP8 if given.has(name)])


def _of_flux(given: Given, settings: Settings) -> None:
    """Notes where sd-scripts' defaults differ from what is done here; where they are typed they are refused."""
    if not given.has("model_prediction_type"):
        settings.note("sd_default_prediction_type")
    if not given.has("guidance_scale"):
        settings.note("sd_default_guidance", guidance=f"{given.value('guidance_scale'):g}")
