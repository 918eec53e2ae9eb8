"""Resolves what a start leaves to the machine and the base model, and records the choices."""

from __future__ import annotations

import time

from lorasmith.config import RunConfig
from lorasmith.engine.device import DTYPES, Device, choose_precision
from lorasmith.engine.repeatability import self_check
from lorasmith.errors import ResumeError
from lorasmith.families.base import ModelFamily
from lorasmith.families.identity import files_sha256
from lorasmith.families.weights import BaseWeights
from lorasmith.runs.events import DeviceChosen
from lorasmith.session.startup import StartupContext


def resolve_precision(
    config: RunConfig, before: RunConfig | None, device: Device, family: ModelFamily, startup: StartupContext
) -> str:
    """Chooses the precision, and records it and the device with their reasons.

    A choice that `before`, the settings of the last start, already had is "kept": the user did not ask for it now.
    """
    count = family.weights.denoiser_parameters or 0
    precision, precision_reason = choose_precision(config.model.precision, device, denoiser_parameters=count)
    device_reason = device.reason
    if before is not None:
        if precision_reason == "asked" and config.model.precision == before.model.precision:
            precision_reason = "kept"
        if device_reason == "asked" and config.machine.device == before.machine.device:
            device_reason = "kept"
    startup.event(
        DeviceChosen(
            attempt=startup.attempt,
            time=time.time(),
            device=str(device.torch_device),
            name=device.name,
            reason=device_reason,
            precision=precision,
            precision_reason=precision_reason,
            threads=device.threads,
            peak_flops=device.peak_flops(precision),
        )
    )
    _warn_of_model(family.weights, startup)
    return precision


def _warn_of_model(weights: BaseWeights, startup: StartupContext) -> None:
    """Warns of what a person should know of the base model."""
    path, noise = str(weights.path), weights.noise
    if noise.source == "default":
        startup.warn("prediction_assumed", path=path)
    if noise.source == "weights":
        startup.warn("prediction_by_weights", path=path, prediction=noise.prediction)
    if noise.zero_terminal_snr and noise.prediction == "epsilon":
        startup.warn("zero_snr_epsilon", path=path)
    if weights.distilled and weights.added is None:
        startup.warn("base_model_distilled", path=path, method=weights.distilled)


def check_repeatability(device: Device, precision: str, startup: StartupContext) -> tuple[str, ...] | None:
    """Returns the operations whose results differ from call to call here, and warns of them; None: not checked."""
    differing = self_check(device.torch_device, DTYPES[precision])
    if differing:
        startup.warn("bits_not_repeatable", products=list(differing))
    return differing


def resolved_config(
    config: RunConfig, family: ModelFamily, device: Device, *, precision: str, base_sha256: str
) -> RunConfig:
    """The settings with everything that was `auto` or is read from the base model.

    Raises:
        ResumeError: the base model, the VAE or the training adapter is not that of the run.
    """
    replaced = family.weights.replaced
    if config.model.base_sha256 not in ("", base_sha256):
        before, now = config.model.base_sha256[:12], base_sha256[:12]
        if config.model.base_weights:
            raise ResumeError(
                "merged_model_changed", path=config.model.base_model, loras=list(config.model.base_weights)
            )
        raise ResumeError("base_model_changed", path=str(family.weights.path), before=before, now=now)
    vae_sha256, text_sha256 = (
        files_sha256([path for name in names if name in replaced for path in replaced[name].paths])
        for names in (("vae",), family.traits.text_encoders)
    )
    added = family.weights.added
    adapter_sha256 = files_sha256([] if added is None else [added.path])
    if config.model.base_sha256:  # not a new run
        if vae_sha256 != config.model.vae_sha256:
            raise ResumeError("vae_changed", path=str(family.weights.source("vae")))
        if text_sha256 != config.model.text_encoder_sha256:
            raise ResumeError("text_encoder_changed", path=str(family.weights.source(family.traits.text_encoders[0])))
        if adapter_sha256 != config.model.training_adapter_sha256:
            raise ResumeError("training_adapter_changed", path=config.model.training_adapter)
    return config.with_values(
        {
            ("model", "family"): family.weights.family,
            ("model", "base_sha256"): base_sha256,
            ("model", "vae_sha256"): vae_sha256,
            ("model", "text_encoder_sha256"): text_sha256,
            ("model", "training_adapter_sha256"): adapter_sha256,
            ("model", "prediction"): family.weights.noise.prediction,
            ("model", "zero_terminal_snr"): "on" if family.weights.noise.zero_terminal_snr else "off",
            ("model", "precision"): precision,
            ("machine", "threads"): device.threads,
        }
    )
