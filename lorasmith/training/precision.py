"""The precision that a run computes in, and the event that names it and the device, each with its reason."""

from __future__ import annotations

import time

from lorasmith.config import RunConfig
from lorasmith.events import DeviceChosen, Warned
from lorasmith.families.base import ModelFamily
from lorasmith.training.device import Device, choose_precision
from lorasmith.training.examples import Told


def say_device(config: RunConfig, device: Device, family: ModelFamily, told: Told, *, before: RunConfig | None) -> str:
    """Chooses the precision, and records both choices with their reasons. `before`: the run that goes on had these
    settings; what it was given then, nobody has asked for now."""
    count = family.weights.denoiser_parameters or 0
    precision, why = choose_precision(config.model.precision, device, denoiser_parameters=count)
    device_reason = device.reason
    if before is not None and why == "asked" and config.model.precision == before.model.precision:
        why = "kept"
    if before is not None and device_reason == "asked" and config.machine.device == before.machine.device:
        device_reason = "kept"
    event = DeviceChosen(
        attempt=told.attempt,
        time=time.time(),
        device=str(device.torch_device),
        name=device.name,
        reason=device_reason,
        precision=precision,
        precision_reason=why,
        threads=device.threads,
    )
    told.event(event)
    if family.weights.prediction_source == "default":
        fields = {"path": str(family.weights.path)}
        told.event(Warned(attempt=told.attempt, time=time.time(), code="prediction_assumed", fields=fields))
    return precision
