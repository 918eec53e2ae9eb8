"""Makes the objective and the noise of training from the settings, and their facts for the metadata."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from lorasmith.config.sections import LossConfig, NoiseConfig
from lorasmith.diffusion import losses, weightings
from lorasmith.diffusion.densities import UNIFORM, CosMap, Density, LogitNormal, Mode
from lorasmith.diffusion.draw import NoiseOptions
from lorasmith.diffusion.flow import FixedShift, FlowMatching
from lorasmith.diffusion.objective import Elementwise, Objective, Weight, squared_error
from lorasmith.diffusion.process import NoiseProcess, Prediction
from lorasmith.errors import ConfigError
from lorasmith.exporting.objective_metadata import ObjectiveFacts

_FLOW_WEIGHTINGS: dict[str, Weight] = {"sigma-sqrt": weightings.inverse_square, "cosmap": weightings.cosmap}


def objective_of(loss: LossConfig, prediction: Prediction) -> Objective:
    """The loss of these settings for a model of that prediction."""
    weights: list[Weight] = []
    if loss.min_snr_gamma:
        weights.append(weightings.min_snr(loss.min_snr_gamma, prediction))
    if loss.scale_v_pred:
        weights.append(weightings.like_noise_prediction)
    if loss.v_pred_like:
        weights.append(weightings.like_v_prediction(loss.v_pred_like))
    if loss.debiased_estimation:
        weights.append(weightings.debiased_estimation(prediction))
    if loss.flow_weighting != "none":
        weights.append(_FLOW_WEIGHTINGS[loss.flow_weighting])
    return Objective(_elementwise(loss), tuple(weights))


def noise_options(noise: NoiseConfig) -> NoiseOptions:
    """The options of the noise, timesteps aside."""
    return NoiseOptions(
        offset=noise.offset,
        has_random_offset=noise.has_random_offset,
        adaptive_scale=noise.adaptive_scale or 0.0,
        levels=noise.multires_iterations,
        level_discount=noise.multires_discount,
        perturbation=noise.perturbation,
        has_random_perturbation=noise.has_random_perturbation,
    )


def trained_process(process: NoiseProcess, noise: NoiseConfig) -> NoiseProcess:
    """The process with the timesteps that are trained, and with the density and the shift that are asked for.

    Raises:
        ConfigError: `timestep_range`, the process has no such timesteps.
    """
    count = process.timestep_count
    first, stop = noise.min_timestep, count if noise.max_timestep is None else noise.max_timestep
    if first > stop or first >= count or stop > count:
        raise ConfigError("timestep_range", first=first, stop=stop, count=count)
    if isinstance(process, FlowMatching):
        process = _as_asked(process, noise)
    return process.between(first, max(stop, first + 1))


def _as_asked(process: FlowMatching, noise: NoiseConfig) -> FlowMatching:
    density: Density = {
        "auto": process.density,
        "uniform": UNIFORM,
        "logit-normal": LogitNormal(noise.logit_mean, noise.logit_std),
        "mode": Mode(noise.mode_scale),
        "cosmap": CosMap(),
    }[noise.density]
    shift = process.training_shift if noise.shift is None else FixedShift(noise.shift)
    return replace(process, density=density, training_shift=shift)


def objective_identity(loss: LossConfig, noise: NoiseConfig) -> str:
    """The settings that a validation loss depends on, as text: losses are comparable where it is the same; "" for the
    defaults."""
    changed: dict[str, Any] = {}
    for section in (loss, noise):
        changed |= section.model_dump(exclude={"prior_loss_weight", "mask_folder"}, exclude_defaults=True)
    return json.dumps(changed, sort_keys=True) if changed else ""


def objective_facts(loss: LossConfig, noise: NoiseConfig, process: NoiseProcess) -> ObjectiveFacts:
    """The facts of an exported file."""
    stop = process.timestep_count if noise.max_timestep is None else noise.max_timestep
    timesteps = noise.min_timestep, stop
    return ObjectiveFacts(
        loss_type=loss.loss_type,
        huber=(loss.huber_schedule, loss.huber_c, loss.huber_scale) if loss.has_threshold else None,
        min_snr_gamma=loss.min_snr_gamma,
        debiased_estimation=loss.debiased_estimation,
        regularisation_weight=loss.prior_loss_weight,
        noise_offset=noise.offset,
        has_random_offset=noise.has_random_offset,
        adaptive_noise_scale=noise.adaptive_scale or 0.0,
        multires_iterations=noise.multires_iterations,
        multires_discount=noise.multires_discount,
        perturbation=noise.perturbation,
        has_random_perturbation=noise.has_random_perturbation,
        timesteps=None if timesteps == (0, process.timestep_count) else timesteps,
        flow_weighting=loss.flow_weighting,
        density=_density_name(noise),
        shift=noise.shift,
    )


def _density_name(noise: NoiseConfig) -> str:
    """The density with its numbers, "" for the family's own."""
    numbers = {"logit-normal": f"({noise.logit_mean}, {noise.logit_std})", "mode": f"({noise.mode_scale})"}
    return "" if noise.density == "auto" else noise.density + numbers.get(noise.density, "")


def _elementwise(loss: LossConfig) -> Elementwise:
    if loss.loss_type == "l2":
        return squared_error
    if loss.loss_type == "l1":
        return losses.absolute_error
    threshold = {
        "constant": losses.constant_threshold(loss.huber_c, loss.huber_scale),
        "exponential": losses.exponential_threshold(loss.huber_c, loss.huber_scale),
        "snr": losses.snr_threshold(loss.huber_c),
    }[loss.huber_schedule]
    return (losses.pseudo_huber if loss.loss_type == "huber" else losses.smooth_l1)(threshold)
