"""The precision that a run computes in and whether it repeats itself here, with the events that name both."""

from __future__ import annotations

import time
from collections.abc import Collection

from lorasmith.engine.device import DTYPES, Device, choose_precision
from lorasmith.engine.repeatability import self_check
from lorasmith.families.base import ModelFamily
from lorasmith.runs.events import DeviceChosen, Warned
from lorasmith.session.startup import StartupContext


def say_device(
    wish: str, device: Device, family: ModelFamily, startup: StartupContext, *, kept: Collection[str]
) -> str:
    """Chooses the precision, and records both choices with their reasons. `kept`: which of "precision" and "device" a
    run that goes on has had so far, so that nobody has asked for it now."""
    count = family.weights.denoiser_parameters or 0
    precision, why = choose_precision(wish, device, denoiser_parameters=count)
    if why == "asked" and "precision" in kept:
        why = "kept"
    device_reason = "kept" if device.reason == "asked" and "device" in kept else device.reason
    event = DeviceChosen(
        attempt=startup.attempt,
        time=time.time(),
        device=str(device.torch_device),
        name=device.name,
        reason=device_reason,
        precision=precision,
        precision_reason=why,
        threads=device.threads,
    )
    startup.event(event)
    if family.weights.noise.source == "default":
        fields = {"path": str(family.weights.path)}
        startup.event(Warned(attempt=startup.attempt, time=time.time(), code="prediction_assumed", fields=fields))
    return precision


def checked_bits(device: Device, precision: str, startup: StartupContext) -> tuple[str, ...] | None:
    """The products that do not repeat here; a warning names them."""
    differing = self_check(device.torch_device, DTYPES[precision])
    if differing:
        fields = {"products": list(differing)}
        startup.event(Warned(attempt=startup.attempt, time=time.time(), code="bits_not_repeatable", fields=fields))
    return differing
