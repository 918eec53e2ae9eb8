"""In which arithmetic a run is computed, and whether that repeats itself here: settled before anything is loaded."""

from __future__ import annotations

import time

from lorasmith.config import RunConfig
from lorasmith.events import DeviceChosen, Warned
from lorasmith.families.base import ModelFamily
from lorasmith.training.device import DTYPES, Device, choose_precision
from lorasmith.training.examples import Told
from lorasmith.training.repeatability import self_check


def settled_precision(config: RunConfig, device: Device, family: ModelFamily, told: Told) -> str:
    """The precision of the run; the ledger gets it together with the device, and why each was taken."""
    count = family.weights.denoiser_parameters or 0
    precision, why = choose_precision(config.model.precision, device, denoiser_parameters=count)
    event = DeviceChosen(
        attempt=told.attempt,
        time=time.time(),
        device=str(device.torch_device),
        name=device.name,
        reason=device.reason,
        precision=precision,
        precision_reason=why,
        threads=device.threads,
    )
    told.event(event)
    if family.weights.prediction_source == "default":
        fields = {"path": str(family.weights.path)}
        told.event(Warned(attempt=told.attempt, time=time.time(), code="prediction_assumed", fields=fields))
    return precision


def checked_bits(device: Device, precision: str, told: Told) -> tuple[str, ...] | None:
    """The products that do not repeat here; a warning names them."""
    differing = self_check(device.torch_device, DTYPES[precision])
    if differing:
        fields = {"products": list(differing)}
        told.event(Warned(attempt=told.attempt, time=time.time(), code="bits_not_repeatable", fields=fields))
    return differing
